//! The listeners of a gateway workload: the servers of all its Gateways, merged by port as Istio merges them.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh::{HostPattern, Listener, Server, ServerProtocol};

use super::{Context, Own, servers};
use crate::analyze::codes;
use crate::compile::Compiled;
use crate::object;

/// Builds them, by port. A server that conflicts with one of an older Gateway is left out and found.
pub(super) fn build(context: &Context<'_>, gateways: &[Own<'_>], compiled: &mut Compiled) -> Vec<Listener> {
    let mut listeners: BTreeMap<u16, Listener> = BTreeMap::new();
    for own in gateways {
        for (index, server) in own.gateway.spec.servers.iter().enumerate() {
            let path = format!("spec.servers[{index}]");
            let Ok(port) = u16::try_from(server.port.number) else { continue };
            let Some(target_port) = target_port(context, own, &path, port, compiled) else { continue };
            let bind = server.bind.as_deref().and_then(|bind| bind.parse().ok());
            let compiled_server = servers::compile(context, own, index, compiled);
            let conflict = match listeners.get(&port) {
                Some(listener) => conflict(listener, bind, &compiled_server),
                None => listeners
                    .values()
                    .find(|other| other.target_port == target_port)
                    .map(|other| format!("port {} leads to port {target_port} of the workload, too", other.port)),
            };
            if let Some(message) = conflict {
                let finding = object::finding(&own.origin, path, codes::CONFLICTING_GATEWAYS, message);
                compiled.findings.push(finding.hint("this server is left out; give it a port or hosts of its own"));
                continue;
            }
            let new = || Listener { port, target_port, bind, servers: Vec::new() };
            listeners.entry(port).or_insert_with(new).servers.push(Arc::new(compiled_server));
        }
    }
    let mut listeners: Vec<Listener> = listeners.into_values().collect();
    for listener in &mut listeners {
        listener.servers.sort_by_key(|server| std::cmp::Reverse(specificity(server)));
    }
    listeners
}

/// The port that the process binds for a server's port: where the workload's Service leads, or the port itself.
fn target_port(context: &Context<'_>, own: &Own<'_>, path: &str, port: u16, compiled: &mut Compiled) -> Option<u16> {
    // Servers of a Gateway are TCP servers.
    let ports = || context.workload.ports.iter().filter(|own| !own.protocol.is_udp());
    if let Some(target) = ports().find(|own| own.service_ports.contains(&port)) {
        return Some(target.number);
    }
    let mut of_services = ports().filter(|own| !own.service_ports.is_empty()).peekable();
    if of_services.peek().is_some() && of_services.all(|own| own.number != port) {
        let path = format!("{path}.port.number");
        let message = format!("no Service of the gateway has the port {port}, so only the pod's address reaches it");
        compiled.findings.push(object::finding(&own.origin, path, codes::GATEWAY_PORT_NOT_ON_SERVICE, message));
    }
    (port > 0).then_some(port)
}

/// Why a server cannot share a listener: plain HTTP goes with plain HTTP, TLS with TLS of other hosts.
fn conflict(listener: &Listener, bind: Option<std::net::IpAddr>, server: &Server) -> Option<String> {
    let other = listener.servers.first()?;
    if listener.bind != bind {
        return Some(format!("{} binds another address on this port", other.origin));
    }
    match (&other.tls, &server.tls) {
        (None, None) if both_http(other, server) => None,
        (Some(_), Some(_)) => server.hosts.iter().find_map(|host| {
            let owner = listener.servers.iter().find(|other| other.hosts.iter().any(|own| own.host == host.host))?;
            Some(format!("{} serves {} on this port", owner.origin, host.host))
        }),
        _ => Some(format!("{} speaks another protocol on this port", other.origin)),
    }
}

fn both_http(one: &Server, other: &Server) -> bool {
    one.protocol == ServerProtocol::Http && other.protocol == ServerProtocol::Http
}

fn specificity(server: &Server) -> Option<(bool, usize)> {
    server.hosts.iter().map(|host| HostPattern::specificity(&host.host)).max()
}
