//! Rules of connections: TLS by the name in the ClientHello, TCP by what is known before any byte.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::context::Context;
use super::decision::RouteDecision;
use super::lookup::Place;
use super::matching::{is_gateway, is_source};
use super::rules;
use crate::policy::{HostRoutes, MESH_GATEWAY, TcpMatch, TcpRule, TlsMatch, TlsRule};
use crate::reason::Reason;

/// Decides by the rules of a service's host; `false` when none is for the connection, which then goes to the service.
pub(super) fn by_rules<'a>(
    context: &Context<'_>,
    place: &Place<'_>,
    routes: impl Iterator<Item = &'a HostRoutes>,
    decision: &mut RouteDecision,
) -> bool {
    let routes: Vec<&HostRoutes> = routes.collect();
    let tls = routes.iter().flat_map(|routes| &routes.tls).map(|rule| (MESH_GATEWAY, rule));
    if let Some(rule) = tls_rule(context, tls.clone()) {
        apply_tls(context, rule, Some(place), decision);
        return true;
    }
    // A ClientHello with a name that no rule has is let go nowhere, once there are rules for names.
    let concerned = tls.clone().any(|(gateway, rule)| concerns(context, gateway, rule));
    if context.request.connection.sni.is_some() && concerned {
        decision.no_route(routes.first().map(|routes| &routes.origin));
        return true;
    }
    let tcp = routes.iter().flat_map(|routes| &routes.tcp).map(|rule| (MESH_GATEWAY, rule));
    if let Some(rule) = tcp_rule(context, tcp) {
        apply_tcp(context, rule, Some(place), decision);
        return true;
    }
    false
}

/// The rule with the most specific name, the first among equals.
pub(super) fn tls_rule<'a>(
    context: &Context<'_>,
    rules: impl Iterator<Item = (&'a str, &'a Arc<TlsRule>)>,
) -> Option<&'a TlsRule> {
    let sni = context.request.connection.sni?.to_ascii_lowercase();
    let mut best: Option<((bool, usize), &TlsRule)> = None;
    for (gateway, rule) in rules {
        let met = rule.matches.iter().filter(|condition| tls_is_for_client(context, gateway, condition));
        let names = met.flat_map(|condition| &condition.sni_hosts).filter(|host| host.matches(&sni));
        let Some(specificity) = names.map(|host| host.specificity()).max() else { continue };
        if best.is_none_or(|(before, _)| specificity > before) {
            best = Some((specificity, rule));
        }
    }
    best.map(|(_, rule)| rule)
}

/// The first rule that the connection meets.
pub(super) fn tcp_rule<'a>(
    context: &Context<'_>,
    mut rules: impl Iterator<Item = (&'a str, &'a Arc<TcpRule>)>,
) -> Option<&'a TcpRule> {
    let met = |gateway, rule: &TcpRule| {
        rule.matches.is_empty() || rule.matches.iter().any(|condition| tcp_is_met(context, gateway, condition))
    };
    rules.find(|(gateway, rule)| met(gateway, rule)).map(|(_, rule)| rule.as_ref())
}

pub(super) fn apply_tls(
    context: &Context<'_>,
    rule: &TlsRule,
    asked: Option<&Place<'_>>,
    decision: &mut RouteDecision,
) {
    decision.reasons.push(Reason::Rule { origin: rule.origin.clone() });
    rules::to_one_of(context, &rule.destinations, asked, decision);
}

pub(super) fn apply_tcp(
    context: &Context<'_>,
    rule: &TcpRule,
    asked: Option<&Place<'_>>,
    decision: &mut RouteDecision,
) {
    decision.reasons.push(Reason::Rule { origin: rule.origin.clone() });
    rules::to_one_of(context, &rule.destinations, asked, decision);
}

fn concerns(context: &Context<'_>, gateway: &str, rule: &TlsRule) -> bool {
    rule.matches.iter().any(|condition| tls_is_for_client(context, gateway, condition))
}

fn tls_is_for_client(context: &Context<'_>, gateway: &str, condition: &TlsMatch) -> bool {
    condition.port.is_none_or(|port| port == context.dialled())
        && is_gateway(&condition.gateways, gateway)
        && is_source(context, &condition.source_labels, condition.source_namespace.as_ref())
        && is_within(context.request.connection.destination_ip, &condition.destination_subnets)
}

fn tcp_is_met(context: &Context<'_>, gateway: &str, condition: &TcpMatch) -> bool {
    let connection = &context.request.connection;
    condition.port.is_none_or(|port| port == context.dialled())
        && is_gateway(&condition.gateways, gateway)
        && is_source(context, &condition.source_labels, condition.source_namespace.as_ref())
        && is_within(connection.destination_ip, &condition.destination_subnets)
        && condition.source_subnet.is_none_or(|subnet| is_within(connection.source_ip, &[subnet]))
}

/// Every address is within no networks at all.
fn is_within(address: Option<IpAddr>, networks: &[IpNet]) -> bool {
    networks.is_empty() || address.is_some_and(|address| networks.iter().any(|network| network.contains(&address)))
}
