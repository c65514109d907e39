//! TLS and TCP rules.

use super::http::check_weights;
use super::within;
use crate::error::FieldErrors;
use crate::istio::virtual_service::{L4MatchAttributes, RouteDestination, TcpRoute, TlsMatchAttributes, TlsRoute};
use crate::validate::{rules, traffic};

pub(super) fn check_tls(path: &str, route: &TlsRoute, hosts: &[String], errors: &mut FieldErrors) {
    if route.matches.is_empty() {
        let hint = "add match: [{sniHosts: […]}]";
        errors.add(format!("{path}.match"), "at least one match is required", hint);
    }
    for (index, found) in route.matches.iter().enumerate() {
        check_tls_match(&format!("{path}.match[{index}]"), found, hosts, errors);
    }
    check_routes(path, &route.route, errors);
}

fn check_tls_match(path: &str, found: &TlsMatchAttributes, hosts: &[String], errors: &mut FieldErrors) {
    if found.sni_hosts.is_empty() {
        errors.add(
            format!("{path}.sniHosts"),
            "at least one host is required",
            "add sniHosts: […], names out of spec.hosts",
        );
    }
    for (index, sni) in found.sni_hosts.iter().enumerate() {
        let path = format!("{path}.sniHosts[{index}]");
        if sni.parse::<std::net::IpAddr>().is_ok() {
            continue;
        }
        match traffic::wildcard_domain(sni) {
            Err(mistake) => errors.note(path, mistake),
            Ok(()) if !hosts.iter().any(|host| within(sni, host)) => {
                let hint = format!("add it to spec.hosts, which are {}", hosts.join(", "));
                errors.add(path, format!("{sni:?} is none of spec.hosts"), hint);
            }
            Ok(()) => {}
        }
    }
    let common = Common {
        subnets: &found.destination_subnets,
        port: found.port,
        labels: &found.source_labels,
        namespace: &found.source_namespace,
        gateways: &found.gateways,
    };
    common.check(path, errors);
}

pub(super) fn check_tcp(path: &str, route: &TcpRoute, errors: &mut FieldErrors) {
    for (index, found) in route.matches.iter().enumerate() {
        check_tcp_match(&format!("{path}.match[{index}]"), found, errors);
    }
    check_routes(path, &route.route, errors);
}

fn check_tcp_match(path: &str, found: &L4MatchAttributes, errors: &mut FieldErrors) {
    if !found.source_subnet.is_empty() {
        errors.check(format!("{path}.sourceSubnet"), traffic::subnet(&found.source_subnet));
    }
    let common = Common {
        subnets: &found.destination_subnets,
        port: found.port,
        labels: &found.source_labels,
        namespace: &found.source_namespace,
        gateways: &found.gateways,
    };
    common.check(path, errors);
}

/// Conditions that both kinds of rules have.
struct Common<'a> {
    subnets: &'a [String],
    port: i64,
    labels: &'a std::collections::BTreeMap<String, String>,
    namespace: &'a str,
    gateways: &'a [String],
}

impl Common<'_> {
    fn check(&self, path: &str, errors: &mut FieldErrors) {
        for (index, subnet) in self.subnets.iter().enumerate() {
            errors.check(format!("{path}.destinationSubnets[{index}]"), traffic::subnet(subnet));
        }
        if self.port != 0 {
            traffic::port(format!("{path}.port"), self.port, errors);
        }
        traffic::labels(&format!("{path}.sourceLabels"), self.labels, errors);
        traffic::gateways(&format!("{path}.gateways"), self.gateways, errors);
        if !self.namespace.is_empty() {
            errors.check(format!("{path}.sourceNamespace"), rules::label(self.namespace));
        }
    }
}

fn check_routes(path: &str, routes: &[RouteDestination], errors: &mut FieldErrors) {
    if routes.is_empty() {
        errors.add(format!("{path}.route"), "is required", "add route: [{destination: {host: …}}]");
    }
    for (index, route) in routes.iter().enumerate() {
        let path = format!("{path}.route[{index}].destination");
        match &route.destination {
            Some(destination) => traffic::destination(&path, destination, errors),
            None => errors.add(path, "is required", "add destination: {host: …}"),
        }
    }
    check_weights(path, routes.iter().map(|route| route.weight), errors);
}
