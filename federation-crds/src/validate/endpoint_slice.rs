//! `discovery.k8s.io/v1 EndpointSlice`. Unlike Kubernetes this admits loopback addresses: on one machine workloads have
//! addresses in 127/8.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::{EndpointPort, EndpointSlice};

use super::{metadata, rules};
use crate::error::FieldErrors;

/// Limits of Kubernetes.
const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;

pub(super) fn check(slice: &EndpointSlice, errors: &mut FieldErrors) {
    errors.check("addressType", rules::one_of(&slice.address_type, &["IPv4", "IPv6", "FQDN"]));
    let endpoints = slice.endpoints.as_deref().unwrap_or_default();
    if endpoints.len() > ENDPOINTS_MAX {
        errors.add(
            "endpoints",
            format!("at most {ENDPOINTS_MAX} are allowed in one slice"),
            "divide them between slices with the same label kubernetes.io/service-name",
        );
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        let path = format!("endpoints[{index}]");
        if endpoint.addresses.is_empty() || endpoint.addresses.len() > ADDRESSES_MAX {
            errors.add(
                format!("{path}.addresses"),
                format!("must have 1 to {ADDRESSES_MAX} addresses"),
                "write one endpoint for each pod, with its address",
            );
        }
        for (number, address) in endpoint.addresses.iter().enumerate() {
            let path = format!("{path}.addresses[{number}]");
            check_address(&slice.address_type, address, &path, errors);
        }
        if let Some(hostname) = &endpoint.hostname {
            errors.check(format!("{path}.hostname"), rules::label(hostname));
        }
        if let Some(topology) = &endpoint.deprecated_topology {
            metadata::check_labels(topology, &format!("{path}.deprecatedTopology"), errors);
        }
    }
    check_ports(slice.ports.as_deref().unwrap_or_default(), errors);
}

fn check_address(address_type: &str, address: &str, path: &str, errors: &mut FieldErrors) {
    match address_type {
        "FQDN" => errors.check(path, rules::subdomain(address)),
        "IPv4" | "IPv6" => match rules::ip(address) {
            Ok(parsed) if rules::family(&parsed) != address_type => {
                errors.add(
                    path,
                    format!("{address:?} must be an {address_type} address, as addressType says"),
                    "write the address in the slice of its own family, or change addressType",
                );
            }
            Ok(parsed) if !can_be_an_endpoint(&parsed) => {
                errors.add(
                    path,
                    format!("{address:?} cannot be the address of an endpoint"),
                    "write the address of the pod",
                );
            }
            Ok(_) => {}
            Err(mistake) => errors.note(path, mistake),
        },
        // Reported at addressType.
        _ => {}
    }
}

fn can_be_an_endpoint(address: &IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast()
}

fn check_ports(ports: &[EndpointPort], errors: &mut FieldErrors) {
    if ports.len() > PORTS_MAX {
        errors.add("ports", format!("at most {PORTS_MAX} are allowed"), "divide them between slices");
    }
    let mut names = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("ports[{index}]");
        let name = port.name.as_deref().unwrap_or_default();
        if !names.insert(name) {
            errors.add(
                format!("{path}.name"),
                format!("the name {name:?} is used twice"),
                "give each port a name of its own; one may have none",
            );
        }
        if !name.is_empty() {
            errors.check(format!("{path}.name"), rules::label(name));
        }
        if let Some(number) = port.port {
            errors.check(format!("{path}.port"), rules::port(number));
        }
        if let Some(protocol) = &port.protocol {
            errors.check(format!("{path}.protocol"), rules::protocol(protocol));
        }
        if let Some(protocol) = &port.app_protocol {
            errors.check(format!("{path}.appProtocol"), rules::qualified_name(protocol));
        }
    }
}
