//! From a destination to its service, and how it is talked to.

use std::sync::Arc;

use super::affinity;
use super::context::Context;
use super::decision::{RouteDecision, RouteOutcome};
use super::lookup::{self, Found, Place};
use super::{scope, targets};
use crate::model::{Labels, Protocol, Service};
use crate::policy::{
    Balancer, ClientTls, Destination, DestinationRules, EntryConfig, HashKey, HashTable, Resolution, TrafficPolicy,
};
use crate::reason::Reason;

/// Points of the table for `sessionAffinity` (Istio's default for consistent hashing).
const AFFINITY_RING: u32 = 1024;

/// Decides for a destination of a rule. `asked` is the service that the client asked for: a rule for a clusterset name
/// that sends to the same service by a short name does not shut the other clusters out.
pub(super) fn decide(
    context: &Context<'_>,
    destination: &Destination,
    asked: Option<&Place<'_>>,
    decision: &mut RouteDecision,
) {
    let named = destination.host.service();
    let found = lookup::find(context, &destination.host);
    let Found::Place(mut place) = found else {
        let wanted = if let Found::Missing(service) = &found { Some(service) } else { named };
        decision.want(context.view, wanted);
        decision.service = named.cloned();
        let text = format!("the destination {} is not known", written(destination));
        decision.reasons.push(Reason::Note { text });
        return decision.refuse(Reason::NoEndpoint);
    };
    if place.wildcard {
        decision.want(context.view, named);
    }
    let same = |asked: &&Place<'_>| asked.clusterset && asked.service.name == place.service.name;
    place.clusterset |= asked.is_some_and(|asked| same(&asked));
    // A name that is good for every port keeps the one that it was asked for by.
    let any_port =
        asked.is_some_and(|asked| place.service.config.alias.is_some() && asked.service.name == place.service.name);
    let requested = context.request.port;
    let implied = || if any_port { requested } else { port_of(place.service, requested) };
    let port = destination.port.unwrap_or_else(implied);
    reach(context, &place, destination.subset.as_deref(), port, decision);
}

/// Decides for a service without rules of its own.
pub(super) fn by_default(context: &Context<'_>, place: &Place<'_>, decision: &mut RouteDecision) {
    let port = place.pod.map_or(context.request.port, |pod| pod.service_port);
    // An entry is for its ports only; at others the host is like any that the mesh does not know.
    if place.entry().is_some() && protocol(place.service, port, context.request.connection.udp).is_none() {
        decision.reasons.push(Reason::Note { text: format!("{} has no port {port}", place.service.name.name()) });
        return scope::unknown(context, decision);
    }
    reach(context, place, None, port, decision);
}

/// As a user writes it: host, subset, port.
pub(super) fn written(destination: &Destination) -> String {
    let mut text = destination.host.text();
    for part in [destination.port.map(|port| format!(":{port}")), destination.subset.as_ref().map(|s| format!(" {s}"))]
    {
        text.push_str(&part.unwrap_or_default());
    }
    text
}

/// The only port that the service has, else the one that the request was for.
fn port_of(service: &Service, requested: u16) -> u16 {
    let mut tcp = service.ports.iter().filter(|port| !port.protocol.is_udp());
    match (tcp.next(), tcp.next()) {
        (Some(only), None) => only.number,
        _ => requested,
    }
}

/// How a port of the service speaks, if it has it. What a Service of type ExternalName says of ports is a hint: the name is
/// good for every TCP port.
fn protocol(service: &Service, port: u16, udp: bool) -> Option<Protocol> {
    let any = || (service.config.alias.is_some() && !udp).then_some(Protocol::Auto);
    service.port_over(port, udp).map(|port| port.protocol).or_else(any)
}

fn reach(context: &Context<'_>, place: &Place<'_>, subset: Option<&str>, port: u16, decision: &mut RouteDecision) {
    let service = place.service;
    decision.service = Some(service.name.clone());
    decision.port = port;
    decision.subset = subset.map(str::to_owned);
    if let Some(alias) = place.alias {
        let text = format!("the Service {alias} is another name of {}", service.name.name());
        decision.reasons.push(Reason::Note { text });
    }
    let Some(protocol) = protocol(service, port, context.request.connection.udp) else {
        return decision.refuse(Reason::UnknownPort { port });
    };
    decision.protocol = protocol;
    let rules = governing(context, service);
    let chosen = match (rules, subset) {
        (rules, None) => rules.map(|rules| (&rules.policy, None)),
        (rules, Some(name)) => match rules.and_then(|rules| rules.subsets.get(name)) {
            Some(subset) => Some((&subset.policy, Some(&subset.labels))),
            None => return decision.refuse(Reason::UnknownSubset { subset: name.to_owned() }),
        },
    };
    let mut kept = true;
    if let (Some((policies, _)), Some(rules)) = (chosen, rules) {
        let policy = policies.of_port(port);
        decision.policy = with_names_of(place.entry(), policy);
        kept = Arc::ptr_eq(policy, &decision.policy);
        decision.connect_timeout = decision.policy.pool.connect_timeout;
        decision.policy_origin = Some(rules.origin.clone());
        let (object, subset) = (rules.origin.clone(), decision.subset.clone());
        decision.reasons.push(Reason::TrafficPolicy { object, subset });
    }
    kept &= !stick(service, decision);
    let labels = chosen.and_then(|(_, labels)| labels).unwrap_or(&targets::NO_LABELS);
    locate(context, place, (labels, kept), decision);
}

/// `sessionAffinity: ClientIP`: by a hash of the client's address, where no policy says how to balance. Consistent hashing
/// keeps no time: a client stays with its endpoint as long as that can be used, so longer than any timeout asks for.
/// Whether the policy was replaced.
fn stick(service: &Service, decision: &mut RouteDecision) -> bool {
    let Some(seconds) = service.config.session_affinity else { return false };
    if decision.policy.balancer != Balancer::default() {
        return false;
    }
    let mut policy = TrafficPolicy::clone(&decision.policy);
    let table = HashTable::Ring { minimum_size: AFFINITY_RING };
    policy.balancer = Balancer::ConsistentHash { key: HashKey::SourceIp, table };
    decision.policy = Arc::new(policy);
    let text = format!("the Service wants sessionAffinity ClientIP ({seconds} s): by the client's address");
    decision.reasons.push(Reason::Note { text });
    true
}

/// Of what governs a client, its own namespace's goes first, and there what is for its workload.
fn governing<'a>(context: &Context<'_>, service: &'a Service) -> Option<&'a DestinationRules> {
    let rules = service.config.destinations.iter().map(Arc::as_ref).filter(|rules| context.is_governed_by(rules));
    rules.min_by_key(|rules| {
        let own = context.workload().is_some_and(|workload| workload.namespace.as_str() == rules.origin.namespace);
        let own = own && !rules.is_default();
        match (own, rules.workload_selector.is_empty()) {
            (true, false) => 0,
            (true, true) => 1,
            _ => 2,
        }
    })
}

/// The names that an entry wants of a server's certificate hold where the policy names none.
fn with_names_of(entry: Option<&EntryConfig>, policy: &Arc<TrafficPolicy>) -> Arc<TrafficPolicy> {
    let names = entry.map(|entry| &entry.subject_alt_names).filter(|names| !names.is_empty());
    match (names, &policy.tls) {
        (Some(names), ClientTls::Originate(tls)) if tls.subject_alt_names.is_empty() => {
            let mut named = TrafficPolicy::clone(policy);
            let mut tls = tls.clone();
            tls.subject_alt_names.clone_from(names);
            named.tls = ClientTls::Originate(tls);
            Arc::new(named)
        }
        _ => Arc::clone(policy),
    }
}

/// The pod that the client means: it dialled its address, or found it behind the name of a headless service.
fn dialled_pod(context: &Context<'_>, place: &Place<'_>) -> Option<std::net::IpAddr> {
    let of_headless = || {
        let address = context.request.connection.destination_ip.filter(|_| place.service.headless)?;
        let own = place.service.endpoints.iter().any(|endpoint| endpoint.has_address(address));
        let pods = || place.service.imports.values().flat_map(|import| &import.pods);
        (own || pods().any(|pod| pod.addresses.contains(&address))).then_some(address)
    };
    place.pod.map(|pod| pod.address).or_else(of_headless)
}

/// Finds the endpoints with these labels; `kept`: the policy is the view's own.
fn locate(context: &Context<'_>, place: &Place<'_>, (labels, kept): (&Labels, bool), decision: &mut RouteDecision) {
    if place.entry().is_some_and(|entry| entry.resolution == Resolution::None) {
        decision.outcome = RouteOutcome::Passthrough;
        return;
    }
    let mut only = dialled_pod(context, place);
    if decision.policy.balancer == Balancer::Passthrough {
        let dialled = context.request.connection.destination_ip;
        let of_service = dialled.is_none_or(|address| {
            place.service.cluster_addresses.contains(&address) || place.service.clusterset_addresses.contains(&address)
        });
        only = dialled.filter(|_| !of_service);
        if only.is_some_and(|address| !place.service.endpoints.iter().any(|endpoint| endpoint.has_address(address))) {
            decision.outcome = RouteOutcome::Passthrough;
            return;
        }
    }
    let tiers = targets::tiers(context, place, &targets::Wanted { labels, only, kept }, decision);
    if tiers.is_empty() {
        return decision.refuse(Reason::NoEndpoint);
    }
    decision.affinity = affinity::of(context, &decision.policy.balancer);
    decision.outcome = RouteOutcome::Forward { tiers };
}
