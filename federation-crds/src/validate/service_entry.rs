//! ServiceEntry.

use std::collections::BTreeSet;

use super::rules;
use super::traffic::{self, Exporter};
use super::workload_entry::{Place, check_endpoint};
use crate::error::FieldErrors;
use crate::istio::ServiceEntry;
use crate::istio::service_entry::{EntryPort, Resolution, ServiceEntrySpec};

pub(super) fn check(object: &ServiceEntry, errors: &mut FieldErrors) {
    let spec = &object.spec;
    if let Some(selector) = &spec.workload_selector {
        traffic::labels("spec.workloadSelector.labels", &selector.labels, errors);
        if !spec.endpoints.is_empty() {
            errors.add(
                "spec.endpoints",
                "must be absent beside workloadSelector",
                "keep one of endpoints and workloadSelector",
            );
        }
    }
    check_hosts(spec, errors);
    check_addresses(spec, errors);
    check_ports(&spec.ports, errors);
    check_endpoints(spec, errors);
    let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
    traffic::export_to(namespace, &spec.export_to, Exporter::ServiceEntry, errors);
}

fn check_hosts(spec: &ServiceEntrySpec, errors: &mut FieldErrors) {
    if spec.hosts.is_empty() {
        errors.add("spec.hosts", "at least one host is required", "add hosts: [db.example.com]");
    }
    for (index, host) in spec.hosts.iter().enumerate() {
        let path = format!("spec.hosts[{index}]");
        if host == "*" {
            let hint =
                "name a domain, such as *.example.com; hosts that nobody names are allowed by outboundTrafficPolicy";
            errors.add(path, "\"*\" is no host of a ServiceEntry", hint);
        } else {
            errors.check(path, traffic::wildcard_domain(host));
        }
    }
    // Only names in requests or TLS tell the hosts of one address apart.
    let opaque = |port: &EntryPort| {
        let known = ["HTTP", "HTTP2", "HTTP_PROXY", "GRPC", "GRPC-WEB", "GRPC-WEB-NO-TLS", "HTTPS", "TLS"];
        !known.contains(&port.protocol.to_ascii_uppercase().as_str())
    };
    if spec.resolution != Resolution::None && spec.hosts.len() > 1 && spec.ports.iter().any(opaque) {
        let hint = "write one ServiceEntry per host, or declare the ports HTTP or TLS";
        errors.add("spec.hosts", "several hosts cannot share ports that are neither HTTP nor TLS", hint);
    }
}

fn check_addresses(spec: &ServiceEntrySpec, errors: &mut FieldErrors) {
    for (index, address) in spec.addresses.iter().enumerate() {
        let path = format!("spec.addresses[{index}]");
        errors.check(path.clone(), traffic::subnet(address));
        if address.contains('/') && !matches!(spec.resolution, Resolution::None | Resolution::Static) {
            errors.add(
                path,
                "ranges are for resolution NONE and STATIC only",
                "write single addresses, or resolution: STATIC",
            );
        }
    }
}

fn check_ports(ports: &[EntryPort], errors: &mut FieldErrors) {
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        errors.check(format!("{path}.name"), rules::label(&port.name));
        if !names.insert(&port.name) {
            errors.add(
                format!("{path}.name"),
                format!("the name {:?} is used twice", port.name),
                "give each a name of its own",
            );
        }
        traffic::port(format!("{path}.number"), port.number, errors);
        if !numbers.insert(port.number) {
            errors.add(
                format!("{path}.number"),
                format!("{} is used twice", port.number),
                "give each port a number of its own, or remove one",
            );
        }
        traffic::protocol(format!("{path}.protocol"), &port.protocol, errors);
        if port.target_port != 0 {
            traffic::port(format!("{path}.targetPort"), port.target_port, errors);
        }
    }
}

fn check_endpoints(spec: &ServiceEntrySpec, errors: &mut FieldErrors) {
    let ports: Vec<&str> = spec.ports.iter().map(|port| port.name.as_str()).collect();
    match spec.resolution {
        Resolution::None => {
            if !spec.endpoints.is_empty() {
                let hint = "use resolution: STATIC or DNS";
                errors.add("spec.endpoints", "must be absent when the resolution is NONE", hint);
            }
            return;
        }
        Resolution::DynamicDns => {
            let hint = "use DNS for hosts without a wildcard, or NONE";
            return errors.add("spec.resolution", "DYNAMIC_DNS is not supported", hint);
        }
        Resolution::Dns | Resolution::DnsRoundRobin if spec.endpoints.is_empty() => {
            for (index, _) in spec.hosts.iter().enumerate().filter(|(_, host)| host.starts_with('*')) {
                let hint = "add endpoints that can be resolved, or use resolution: NONE";
                let path = format!("spec.hosts[{index}]");
                errors.add(path, "a wildcard cannot be resolved by DNS", hint);
            }
        }
        Resolution::DnsRoundRobin if spec.endpoints.len() > 1 => {
            errors.add(
                "spec.endpoints",
                "at most one is allowed when the resolution is DNS_ROUND_ROBIN",
                "keep one endpoint, or write resolution: DNS",
            );
        }
        _ => {}
    }
    let place = Place { ports: Some(&ports), names: spec.resolution != Resolution::Static };
    for (index, endpoint) in spec.endpoints.iter().enumerate() {
        check_endpoint(&format!("spec.endpoints[{index}]"), endpoint, &place, errors);
        if endpoint.address.starts_with("unix://") && ports.len() != 1 {
            errors.add(
                "spec.ports",
                "exactly one port is required for endpoints that are sockets",
                "write one port; sockets have no numbers to tell ports apart",
            );
        }
    }
}
