//! `core/v1 Service`.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::metadata::check_labels;
use super::rules;
use crate::error::FieldErrors;
use crate::{GLOBAL_LABEL, SERVICE_EXPORT_TO_ANNOTATION};

const TYPES: [&str; 4] = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];

pub(super) fn check(service: &Service, errors: &mut FieldErrors) {
    if let Some(value) = service.metadata.labels.as_ref().and_then(|labels| labels.get(GLOBAL_LABEL)) {
        errors.check(format!("metadata.labels[{GLOBAL_LABEL:?}]"), rules::one_of(value, &["true", "false"]));
    }
    check_export_to(service, errors);
    let Some(spec) = &service.spec else {
        return errors.add("spec", "is required", "add spec: {selector: {…}, ports: [{port: …}]}");
    };
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    errors.check("spec.type", rules::one_of(kind, &TYPES));
    if let Some(selector) = &spec.selector {
        check_labels(selector, "spec.selector", errors);
    }
    check_addresses(spec, errors);
    check_words(spec, errors);
    if kind == "ExternalName" {
        check_external_name(spec, errors);
    } else {
        check_ports(spec, kind, errors);
    }
}

fn check_export_to(service: &Service, errors: &mut FieldErrors) {
    let annotation =
        service.metadata.annotations.iter().flatten().find(|(key, _)| *key == SERVICE_EXPORT_TO_ANNOTATION);
    let Some((key, value)) = annotation else { return };
    let named: Vec<&str> = value.split(',').map(str::trim).collect();
    let path = format!("metadata.annotations[{key:?}]");
    for name in named.iter().filter(|name| !matches!(**name, "." | "*" | "~")) {
        errors.check(&path, rules::label(name));
    }
    if named.len() > 1 && named.iter().any(|name| matches!(*name, "*" | "~")) {
        let hint = "* is everybody and ~ nobody; either stands alone";
        errors.add(path, format!("{value:?} says both"), hint);
    }
}

fn check_external_name(spec: &ServiceSpec, errors: &mut FieldErrors) {
    match spec.external_name.as_deref() {
        None | Some("") => errors.add(
            "spec.externalName",
            "is required when the type is ExternalName",
            "add the name that it stands for, such as db.example.com",
        ),
        Some(name) => errors.check("spec.externalName", rules::subdomain(name.trim_end_matches('.'))),
    }
    if spec.cluster_ip.as_deref().is_some_and(|ip| !ip.is_empty()) {
        errors.add("spec.clusterIP", "must be absent when the type is ExternalName", "remove it, or change spec.type");
    }
}

fn check_addresses(spec: &ServiceSpec, errors: &mut FieldErrors) {
    let main = spec.cluster_ip.as_deref().unwrap_or_default();
    if !matches!(main, "" | "None") {
        errors.check("spec.clusterIP", rules::ip(main).map(|_| ()));
    }
    let all = spec.cluster_ips.as_deref().unwrap_or_default();
    if all.len() > 2 {
        errors.add(
            "spec.clusterIPs",
            "at most two addresses are allowed, one of each family",
            "keep one of IPv4 and one of IPv6",
        );
    }
    for (index, address) in all.iter().enumerate() {
        if address != "None" {
            errors.check(format!("spec.clusterIPs[{index}]"), rules::ip(address).map(|_| ()));
        }
    }
    if let Some(first) = all.first()
        && !main.is_empty()
        && first != main
    {
        errors.add(
            "spec.clusterIPs[0]",
            format!("{first:?} must equal spec.clusterIP {main:?}"),
            "write the same in both, or leave one of them out",
        );
    }
    let parsed: Vec<_> = all.iter().filter_map(|address| rules::ip(address).ok()).collect();
    if let [first, second] = parsed.as_slice()
        && rules::family(first) == rules::family(second)
    {
        errors.add(
            "spec.clusterIPs[1]",
            "must be of the other family than the first",
            "keep one address of each family",
        );
    }
    for (index, address) in spec.external_ips.iter().flatten().enumerate() {
        errors.check(format!("spec.externalIPs[{index}]"), rules::ip(address).map(|_| ()));
    }
    for (index, family) in spec.ip_families.iter().flatten().enumerate() {
        errors.check(format!("spec.ipFamilies[{index}]"), rules::one_of(family, &["IPv4", "IPv6"]));
    }
}

fn check_words(spec: &ServiceSpec, errors: &mut FieldErrors) {
    let words: [(&str, Option<&str>, &[&str]); 5] = [
        ("spec.sessionAffinity", spec.session_affinity.as_deref(), &["None", "ClientIP"]),
        ("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref(), &["Cluster", "Local"]),
        ("spec.externalTrafficPolicy", spec.external_traffic_policy.as_deref(), &["Cluster", "Local"]),
        (
            "spec.ipFamilyPolicy",
            spec.ip_family_policy.as_deref(),
            &["SingleStack", "PreferDualStack", "RequireDualStack"],
        ),
        (
            "spec.trafficDistribution",
            spec.traffic_distribution.as_deref(),
            &["PreferClose", "PreferSameZone", "PreferSameNode"],
        ),
    ];
    for (path, value, allowed) in words {
        if let Some(value) = value {
            errors.check(path, rules::one_of(value, allowed));
        }
    }
}

fn check_ports(spec: &ServiceSpec, kind: &str, errors: &mut FieldErrors) {
    let ports = spec.ports.as_deref().unwrap_or_default();
    if ports.is_empty() && spec.cluster_ip.as_deref() != Some("None") {
        errors.add("spec.ports", "at least one port is required", "only a headless Service may have none");
    }
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        check_port(port, &path, errors);
        match port.name.as_deref() {
            None | Some("") if ports.len() > 1 => {
                errors.add(
                    format!("{path}.name"),
                    "is required when there is more than one port",
                    "give each port a name, such as http",
                );
            }
            None | Some("") => {}
            Some(name) if !names.insert(name) => {
                errors.add(
                    format!("{path}.name"),
                    format!("the name {name:?} is used twice"),
                    "give each a name of its own",
                );
            }
            Some(_) => {}
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        if !numbers.insert((protocol, port.port)) {
            errors.add(
                format!("{path}.port"),
                format!("{}/{protocol} is used twice", port.port),
                "give each port a number of its own, or remove one",
            );
        }
        if port.node_port.is_some_and(|number| number != 0) && kind == "ClusterIP" {
            errors.add(
                format!("{path}.nodePort"),
                "must be absent when the type is ClusterIP",
                "set spec.type to NodePort, or did you mean targetPort?",
            );
        }
    }
}

fn check_port(port: &ServicePort, path: &str, errors: &mut FieldErrors) {
    errors.check(format!("{path}.port"), rules::port(port.port));
    if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
        errors.check(format!("{path}.name"), rules::label(name));
    }
    if let Some(protocol) = &port.protocol {
        errors.check(format!("{path}.protocol"), rules::protocol(protocol));
    }
    if let Some(protocol) = &port.app_protocol {
        errors.check(format!("{path}.appProtocol"), rules::qualified_name(protocol));
    }
    match &port.target_port {
        Some(IntOrString::Int(number)) => errors.check(format!("{path}.targetPort"), rules::port(*number)),
        Some(IntOrString::String(name)) => errors.check(format!("{path}.targetPort"), rules::port_name(name)),
        None => {}
    }
    if let Some(number) = port.node_port.filter(|number| *number != 0) {
        errors.check(format!("{path}.nodePort"), rules::port(number));
    }
}
