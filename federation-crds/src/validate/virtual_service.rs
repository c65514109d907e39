//! VirtualService.

mod headers;
mod http;
mod matches;
mod opaque;

use super::traffic::{self, Exporter};
use crate::error::FieldErrors;
use crate::istio::VirtualService;
use crate::istio::virtual_service::VirtualServiceSpec;

/// The gateway that means sidecars.
const MESH: &str = "mesh";

pub(super) fn check(object: &VirtualService, errors: &mut FieldErrors) {
    let spec = &object.spec;
    if spec.hosts.is_empty() {
        check_delegate(spec, errors);
    }
    traffic::gateways("spec.gateways", &spec.gateways, errors);
    check_hosts(spec, errors);
    if spec.http.is_empty() && spec.tls.is_empty() && spec.tcp.is_empty() {
        errors.add("spec", "http, tls or tcp is required", "add http: [{route: [{destination: {host: …}}]}]");
    }
    let for_mesh = spec.gateways.is_empty() || spec.gateways.iter().any(|name| name == MESH);
    for (index, route) in spec.http.iter().enumerate() {
        let rule = http::Rule { path: format!("spec.http[{index}]"), delegate: spec.hosts.is_empty(), for_mesh };
        rule.check(route, errors);
    }
    for (index, route) in spec.tls.iter().enumerate() {
        opaque::check_tls(&format!("spec.tls[{index}]"), route, &spec.hosts, errors);
    }
    for (index, route) in spec.tcp.iter().enumerate() {
        opaque::check_tcp(&format!("spec.tcp[{index}]"), route, errors);
    }
    let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
    traffic::export_to(namespace, &spec.export_to, Exporter::Other, errors);
}

/// Without hosts it is a delegate: a list of HTTP rules and nothing else.
fn check_delegate(spec: &VirtualServiceSpec, errors: &mut FieldErrors) {
    let hint = "a VirtualService without hosts is a delegate; add spec.hosts if it is none";
    for (field, given) in
        [("gateways", !spec.gateways.is_empty()), ("tls", !spec.tls.is_empty()), ("tcp", !spec.tcp.is_empty())]
    {
        if given {
            errors.add(format!("spec.{field}"), "must be absent from a delegate", hint);
        }
    }
}

fn check_hosts(spec: &VirtualServiceSpec, errors: &mut FieldErrors) {
    let for_mesh = spec.gateways.is_empty() || spec.gateways.iter().any(|name| name == MESH);
    let before = errors.0.len();
    for (index, host) in spec.hosts.iter().enumerate() {
        let path = format!("spec.hosts[{index}]");
        if host == "*" && for_mesh {
            let hint = "name the hosts, or name the gateways that it is for in spec.gateways";
            errors.add(path, "\"*\" is not allowed for sidecars (gateway mesh)", hint);
        } else if host.parse::<std::net::IpAddr>().is_err() {
            errors.check(path, traffic::wildcard_domain(host));
        }
    }
    if errors.0.len() > before {
        return;
    }
    for (index, host) in spec.hosts.iter().enumerate() {
        if let Some(first) = spec.hosts[..index].iter().find(|first| overlap(first, host)) {
            errors.add(
                format!("spec.hosts[{index}]"),
                format!("{host:?} and {first:?} are hosts of each other"),
                "remove the one that the other contains",
            );
        }
    }
}

/// Whether some host is meant by both.
fn overlap(a: &str, b: &str) -> bool {
    within(a, b) || within(b, a)
}

/// Whether all hosts that `a` means are meant by `b`.
fn within(a: &str, b: &str) -> bool {
    match b.strip_prefix('*') {
        Some(suffix) => a.strip_prefix('*').unwrap_or(a).ends_with(suffix),
        None => a == b,
    }
}
