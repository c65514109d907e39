//! TLS and TCP rules of a VirtualService.

use std::sync::Arc;

use federation_crds::istio::virtual_service as crd;
use ipnet::IpNet;
use mesh::{HeaderOperations, Namespace, Origin, TcpMatch, TcpRule, TlsMatch, TlsRule, WeightedDestination};

use super::http;
use super::objects::{Notes, Object};
use super::registry::Registry;
use super::virtual_service::gateway;

/// What rules are read with.
pub(super) struct Scope<'a> {
    pub(super) registry: &'a Registry,
    pub(super) object: &'a Object,
}

impl Scope<'_> {
    fn origin(&self, path: String) -> Origin {
        Origin { object: Arc::clone(&self.object.reference), path, name: None }
    }
}

/// TLS rules.
pub(super) fn tls(routes: &[crd::TlsRoute], scope: &Scope<'_>, notes: &mut Notes<'_>) -> Vec<Arc<TlsRule>> {
    let mut rules = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let path = format!("spec.tls[{index}]");
        let found = route.matches.iter().enumerate();
        let matches: Vec<_> = found
            .filter_map(|(index, found)| tls_match(found, &format!("{path}.match[{index}]"), scope, notes))
            .collect();
        let destinations = destinations(&route.route, &path, scope, notes);
        if !matches.is_empty() && !destinations.is_empty() {
            rules.push(Arc::new(TlsRule { origin: scope.origin(path), matches, destinations }));
        }
    }
    rules
}

/// TCP rules.
pub(super) fn tcp(routes: &[crd::TcpRoute], scope: &Scope<'_>, notes: &mut Notes<'_>) -> Vec<Arc<TcpRule>> {
    let mut rules = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let path = format!("spec.tcp[{index}]");
        let found = route.matches.iter().enumerate();
        let matches: Vec<_> = found
            .filter_map(|(index, found)| tcp_match(found, &format!("{path}.match[{index}]"), scope, notes))
            .collect();
        let destinations = destinations(&route.route, &path, scope, notes);
        let impossible = matches.is_empty() && !route.matches.is_empty();
        if !impossible && !destinations.is_empty() {
            rules.push(Arc::new(TcpRule { origin: scope.origin(path), matches, destinations }));
        }
    }
    rules
}

fn tls_match(
    found: &crd::TlsMatchAttributes,
    path: &str,
    scope: &Scope<'_>,
    notes: &mut Notes<'_>,
) -> Option<TlsMatch> {
    let mut reading = Reading { path, notes, complete: true };
    let sni = |host: &String| host.parse().map_err(|error: mesh::HostPatternError| error.to_string());
    let compiled = TlsMatch {
        sni_hosts: found.sni_hosts.iter().filter_map(|host| reading.kept("sniHosts", sni(host))).collect(),
        destination_subnets: reading.subnets(&found.destination_subnets),
        port: reading.port(found.port),
        source_labels: found.source_labels.clone(),
        source_namespace: reading.namespace(&found.source_namespace),
        gateways: found.gateways.iter().map(|name| gateway(name, &scope.object.namespace)).collect(),
    };
    (reading.complete && !compiled.sni_hosts.is_empty()).then_some(compiled)
}

fn tcp_match(found: &crd::L4MatchAttributes, path: &str, scope: &Scope<'_>, notes: &mut Notes<'_>) -> Option<TcpMatch> {
    let mut reading = Reading { path, notes, complete: true };
    let source = Some(&found.source_subnet).filter(|subnet| !subnet.is_empty());
    let compiled = TcpMatch {
        destination_subnets: reading.subnets(&found.destination_subnets),
        port: reading.port(found.port),
        source_subnet: source.and_then(|subnet| reading.kept("sourceSubnet", subnet_of(subnet))),
        source_labels: found.source_labels.clone(),
        source_namespace: reading.namespace(&found.source_namespace),
        gateways: found.gateways.iter().map(|name| gateway(name, &scope.object.namespace)).collect(),
    };
    reading.complete.then_some(compiled)
}

/// A match that loses a condition would match too much, so it is left out whole.
struct Reading<'a, 'b> {
    path: &'a str,
    notes: &'a mut Notes<'b>,
    complete: bool,
}

impl Reading<'_, '_> {
    fn kept<T>(&mut self, field: &str, result: Result<T, String>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(why) => {
                self.notes.not_compiled(format!("{}.{field}", self.path), why);
                self.complete = false;
                None
            }
        }
    }

    fn subnets(&mut self, subnets: &[String]) -> Vec<IpNet> {
        subnets.iter().filter_map(|subnet| self.kept("destinationSubnets", subnet_of(subnet))).collect()
    }

    fn port(&mut self, port: i64) -> Option<u16> {
        if port == 0 {
            return None;
        }
        self.kept("port", u16::try_from(port).map_err(|_| format!("{port} is no port")))
    }

    fn namespace(&mut self, namespace: &str) -> Option<Namespace> {
        if namespace.is_empty() {
            return None;
        }
        self.kept("sourceNamespace", Namespace::new(namespace).map_err(|error| error.to_string()))
    }
}

/// A range, or a single address.
pub(super) fn subnet_of(text: &str) -> Result<IpNet, String> {
    let single = text.parse::<std::net::IpAddr>().map(IpNet::from);
    single.or_else(|_| text.parse::<IpNet>()).map_err(|_| format!("{text:?} is no address and no CIDR range"))
}

fn destinations(
    routes: &[crd::RouteDestination],
    path: &str,
    scope: &Scope<'_>,
    notes: &mut Notes<'_>,
) -> Vec<WeightedDestination> {
    let mut found = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let path = format!("{path}.route[{index}]");
        let mut inner =
            http::Scope { registry: scope.registry, namespace: &scope.object.namespace, notes: &mut *notes };
        let Some(target) = route.destination.as_ref() else { continue };
        let Some(destination) = http::destination(target, &path, &mut inner) else { continue };
        let weight = u32::try_from(route.weight).unwrap_or(0);
        found.push(WeightedDestination { destination, weight, headers: HeaderOperations::default() });
    }
    http::without_zero(found)
}
