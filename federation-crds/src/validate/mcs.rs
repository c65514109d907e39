//! ServiceExport and ServiceImport.

use std::collections::BTreeSet;

use super::metadata::{check_annotations, check_labels};
use super::rules;
use crate::error::FieldErrors;
use crate::mcs::{
    EXPORT_TO_ANNOTATION, ImportType, IpFamily, ServiceExport, ServiceImport, ServiceImportSpec,
    UNMESHED_ACCOUNT_ANNOTATION, UNMESHED_ANNOTATION, export_to,
};

pub(super) fn check_export(export: &ServiceExport, errors: &mut FieldErrors) {
    if let Some(clusters) = export_to(export) {
        let path = format!("metadata.annotations[{EXPORT_TO_ANNOTATION:?}]");
        let mut seen = BTreeSet::new();
        for cluster in &clusters {
            if let Err(wrong) = rules::label(cluster) {
                let hint =
                    "write cluster names separated by commas, or leave the annotation out to export to every member";
                errors.add(&path, wrong.message, hint);
            } else if !seen.insert(cluster) {
                errors.add(&path, format!("cluster {cluster} is named twice"), "remove one of the two");
            }
        }
    }
    check_unmeshed(export, errors);
    if let Some(spec) = &export.spec.spec {
        check_labels(&spec.exported_labels, "spec.exportedLabels", errors);
        check_annotations(&spec.exported_annotations, "spec.exportedAnnotations", errors);
    }
}

fn check_unmeshed(export: &ServiceExport, errors: &mut FieldErrors) {
    let Some(annotations) = &export.metadata.annotations else { return };
    let (wish, account) = (annotations.get(UNMESHED_ANNOTATION), annotations.get(UNMESHED_ACCOUNT_ANNOTATION));
    if let Some(wish) = wish {
        let path = format!("metadata.annotations[{UNMESHED_ANNOTATION:?}]");
        errors.check(path, rules::one_of(wish, &["allow", "deny"]));
    }
    if let Some(account) = account {
        let path = format!("metadata.annotations[{UNMESHED_ACCOUNT_ANNOTATION:?}]");
        errors.check(&path, rules::subdomain(account));
        if wish.is_none_or(|wish| wish != "allow") {
            let hint = format!("add {UNMESHED_ANNOTATION}: allow, or leave the account out");
            errors.add(path, "has no effect: gateways may not speak for pods without a sidecar", hint);
        }
    }
}

pub(super) fn check_import(import: &ServiceImport, errors: &mut FieldErrors) {
    let spec = &import.spec;
    check_ports(spec, errors);
    check_addresses(spec, errors);
    let words: [(&str, Option<&str>, &[&str]); 3] = [
        ("spec.sessionAffinity", spec.session_affinity.as_deref(), &["None", "ClientIP"]),
        ("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref(), &["Cluster", "Local"]),
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
    let client_ip = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    if let Some(seconds) = client_ip.and_then(|config| config.timeout_seconds)
        && !(1..=86_400).contains(&seconds)
    {
        errors.add(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            format!("{seconds} must be 1 to 86400"),
            "write seconds, at most those of a day; 10800 if it is absent",
        );
    }
}

fn check_ports(spec: &ServiceImportSpec, errors: &mut FieldErrors) {
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for (index, port) in spec.ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        errors.check(format!("{path}.port"), rules::port(port.port));
        match port.name.as_deref().filter(|name| !name.is_empty()) {
            None if spec.ports.len() > 1 => {
                errors.add(
                    format!("{path}.name"),
                    "is required when there is more than one port",
                    "give each port a name, such as http",
                );
            }
            None => {}
            Some(name) => {
                errors.check(format!("{path}.name"), rules::label(name));
                if !names.insert(name) {
                    errors.add(
                        format!("{path}.name"),
                        format!("the name {name:?} is used twice"),
                        "give each a name of its own",
                    );
                }
            }
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        errors.check(format!("{path}.protocol"), rules::protocol(protocol));
        if !numbers.insert((protocol, port.port)) {
            errors.add(
                format!("{path}.port"),
                format!("{}/{protocol} is used twice", port.port),
                "give each port a number of its own, or remove one",
            );
        }
        if let Some(protocol) = &port.app_protocol {
            errors.check(format!("{path}.appProtocol"), rules::qualified_name(protocol));
        }
    }
}

fn check_addresses(spec: &ServiceImportSpec, errors: &mut FieldErrors) {
    if spec.type_ == ImportType::Headless && !spec.ips.is_empty() {
        errors.add(
            "spec.ips",
            "must be absent when the type is Headless",
            "remove the addresses, or write type: ClusterSetIP",
        );
    }
    if let [first, second] = spec.ip_families.as_slice()
        && first == second
    {
        errors.add("spec.ipFamilies[1]", "must differ from the first", "write IPv4 and IPv6, or only one of them");
    }
    let mut families = Vec::new();
    for (index, address) in spec.ips.iter().enumerate() {
        let path = format!("spec.ips[{index}]");
        let family = match rules::ip(address) {
            Ok(parsed) if parsed.is_ipv4() => IpFamily::IPv4,
            Ok(_) => IpFamily::IPv6,
            Err(mistake) => {
                errors.note(path, mistake);
                continue;
            }
        };
        if families.contains(&family) {
            errors.add(&path, "must be of the other family than the first", "keep one address of each family");
        }
        families.push(family);
        if spec.ip_families.get(index).is_some_and(|wanted| *wanted != family) {
            errors.add(
                &path,
                format!("{address:?} must be of the family that spec.ipFamilies[{index}] says"),
                "put addresses and ipFamilies into the same order",
            );
        }
    }
    if !spec.ip_families.is_empty() && spec.ips.len() > spec.ip_families.len() {
        errors.add(
            "spec.ipFamilies",
            "must name the family of every address in spec.ips",
            "write one of IPv4 and IPv6 for each address, in the same order",
        );
    }
}
