//! What a client may reach: the egress hosts of its Sidecar, and hosts that the mesh does not know.

use std::net::SocketAddr;

use super::context::Context;
use super::decision::{RouteDecision, RouteOutcome, Target, Tier};
use super::destination;
use super::lookup::Place;
use crate::host::Host;
use crate::names::Namespace;
use crate::policy::{EgressHost, HostRoutes, OutboundPolicy, UnknownHosts};
use crate::reason::{Denial, Reason};

/// Whether the client's Sidecar lists the host. Without a list everything that is visible can be reached.
pub(super) fn reaches(context: &Context<'_>, place: &Place<'_>) -> bool {
    let Some(hosts) = egress_hosts(context) else { return true };
    let (name, port) = (&place.service.name, Some(context.request.port));
    let by_clusterset_name = || place.clusterset && lists(hosts, name.namespace(), &name.clusterset_host(), port);
    lists(hosts, name.namespace(), &host_of(place), port) || by_clusterset_name()
}

/// Whether the client's Sidecar brings in the routes: those of the namespaces that it lists the host under.
pub(super) fn imports(context: &Context<'_>, routes: &HostRoutes, place: &Place<'_>) -> bool {
    let Some(hosts) = egress_hosts(context) else { return true };
    let host = host_of(place);
    let in_namespace = |egress: &EgressHost| {
        egress.namespace.as_ref().is_none_or(|namespace| namespace.as_str() == routes.origin.namespace)
            && egress.host.matches(&host)
    };
    hosts.iter().any(in_namespace)
}

/// What happens to a host that the mesh does not know, or that the Sidecar leaves out.
pub(super) fn unknown(context: &Context<'_>, decision: &mut RouteDecision) {
    decision.service = None;
    decision.reasons.push(Reason::NotInMesh);
    match context.outbound().map(|outbound| &outbound.unknown) {
        None | Some(UnknownHosts::Allow) => decision.outcome = passthrough(context, decision),
        Some(UnknownHosts::Refuse) => {
            let text = format!("{} allows only hosts that the mesh knows", whose(context));
            decision.reasons.push(Reason::Note { text });
            decision.refuse(Reason::Denied { denial: Denial::UnknownHost });
        }
        Some(UnknownHosts::Through(proxy)) => destination::decide(context, proxy, None, decision),
    }
}

/// To where the client was going. A pod of the cluster whose sidecar can prove who it is has to, also at ports that no
/// service leads to.
fn passthrough(context: &Context<'_>, decision: &mut RouteDecision) -> RouteOutcome {
    let Host::Address(address) = context.request.host else { return RouteOutcome::Passthrough };
    let pod = context.view.addresses.get(address).and_then(|entry| entry.pod.as_ref());
    let Some((pod, identity)) = pod.and_then(|pod| Some((pod, pod.identity.clone()?))) else {
        return RouteOutcome::Passthrough;
    };
    decision.reasons.push(Reason::Note { text: format!("the address is that of the pod {}", pod.name) });
    let address = SocketAddr::new(*address, context.request.port);
    let target = Target::Local { endpoint: pod.name.clone(), address, expected: Some(identity), weight: 1 };
    RouteOutcome::Forward { tiers: [Tier { targets: vec![target] }].into() }
}

/// Says that the Sidecar does not list the host.
pub(super) fn left_out(context: &Context<'_>) -> String {
    format!("{} does not list the host", whose(context))
}

fn whose(context: &Context<'_>) -> String {
    let origin = context.outbound().and_then(|outbound| outbound.origin.as_ref());
    origin.map_or_else(|| "the mesh's configuration".to_owned(), ToString::to_string)
}

fn egress_hosts<'a>(context: &Context<'a>) -> Option<&'a [EgressHost]> {
    let hosts = |outbound: &'a OutboundPolicy| outbound.hosts.as_deref();
    context.outbound().and_then(hosts)
}

fn lists(hosts: &[EgressHost], namespace: &Namespace, host: &str, port: Option<u16>) -> bool {
    hosts.iter().any(|egress| {
        egress.namespace.as_ref().is_none_or(|listed| listed == namespace)
            && (egress.port.is_none() || egress.port == port)
            && egress.host.matches(host)
    })
}

/// The host as a Sidecar writes it.
fn host_of(place: &Place<'_>) -> String {
    let name = &place.service.name;
    if name.is_entry() {
        name.name().to_owned()
    } else {
        format!("{}.{}.svc.cluster.local", name.name(), name.namespace())
    }
}
