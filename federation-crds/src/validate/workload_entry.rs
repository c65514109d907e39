//! WorkloadEntry, and the endpoints of a ServiceEntry.

use std::net::IpAddr;

use super::{rules, traffic};
use crate::error::FieldErrors;
use crate::istio::WorkloadEntry;
use crate::istio::workload_entry::WorkloadEntrySpec;

pub(super) fn check(object: &WorkloadEntry, errors: &mut FieldErrors) {
    check_endpoint("spec", &object.spec, &Place { ports: None, names: true }, errors);
}

/// What an endpoint may be where it stands.
pub(super) struct Place<'a> {
    /// Names of the ports that it may have; `None` = any.
    pub(super) ports: Option<&'a [&'a str]>,
    /// Its address may be a host name.
    pub(super) names: bool,
}

pub(super) fn check_endpoint(path: &str, endpoint: &WorkloadEntrySpec, place: &Place<'_>, errors: &mut FieldErrors) {
    check_address(path, endpoint, place, errors);
    for (name, port) in &endpoint.ports {
        let path = format!("{path}.ports[{name:?}]");
        errors.check(&path, rules::label(name));
        traffic::port(&path, *port, errors);
        if place.ports.is_some_and(|ports| !ports.contains(&name.as_str())) {
            let hint = format!("its ports are {}", place.ports.unwrap_or_default().join(", "));
            errors.add(path, format!("{name:?} is no port of the ServiceEntry"), hint);
        }
    }
    traffic::labels(&format!("{path}.labels"), &endpoint.labels, errors);
    traffic::count(format!("{path}.weight"), endpoint.weight, errors);
    if !endpoint.service_account.is_empty() {
        errors.check(format!("{path}.serviceAccount"), rules::subdomain(&endpoint.service_account));
    }
}

fn check_address(path: &str, endpoint: &WorkloadEntrySpec, place: &Place<'_>, errors: &mut FieldErrors) {
    let address = &endpoint.address;
    let path_of = format!("{path}.address");
    if address.is_empty() {
        if endpoint.network.is_empty() {
            errors.add(
                path_of,
                "is required",
                "write the workload's address, or the network whose gateway leads to it",
            );
        }
        return;
    }
    if let Some(socket) = address.strip_prefix("unix://") {
        if !socket.starts_with('/') && !socket.starts_with('@') {
            errors.add(
                path_of,
                format!("{socket:?} must be an absolute path or begin with '@'"),
                "write unix:///<path>, or unix://@<name> for an abstract socket",
            );
        }
        if !endpoint.ports.is_empty() {
            errors.add(
                format!("{path}.ports"),
                "must be absent when the address is a socket",
                "remove them: a socket has no ports",
            );
        }
        return;
    }
    if address.parse::<IpAddr>().is_ok() {
        return;
    }
    if !place.names {
        let hint = "use resolution: DNS for host names";
        errors.add(path_of, format!("{address:?} must be an IP address"), hint);
    } else if traffic::fqdn(address).is_err() {
        errors.add(
            path_of,
            format!("{address:?} must be an IP address or a host name"),
            "write 10.0.0.1, or a name such as db.example.com, without a port",
        );
    }
}
