//! `route()`: where a request or a connection may go, in which order, and whom to expect there.
//!
//! The steps, each in a file of its own: find the service that the host means ([`lookup`]) and whether the client may
//! reach it ([`scope`]); at a gateway the server and its routes ([`gateway`]); find the rule ([`rules`], [`matching`],
//! [`opaque`]) and draw one of its destinations ([`draw`]); find how it is talked to and where it is ([`destination`],
//! [`targets`], [`clusters`], [`locality`], [`affinity`]). What the rule changes is asked for when the request is sent on
//! ([`rewrite`], [`apply_headers`], [`cors`]).

mod affinity;
mod clusters;
mod context;
mod cors;
mod decision;
mod destination;
mod draw;
mod edits;
mod gateway;
mod locality;
mod lookup;
mod matching;
mod memo;
mod opaque;
mod redirect;
mod rules;
mod scope;
mod steer;
mod targets;

use std::time::Duration;

use serde::Serialize;

use crate::host::Host;
use crate::model::View;
use crate::policy::Destination;
use crate::reason::Reason;
use crate::request::{Claims, ConnectionFacts, HttpRequest};
use context::Context;
use lookup::Found;

pub use cors::{CorsDecision, cors};
pub use decision::{Across, Affinity, InjectedFault, LocalPart, RouteDecision, RouteOutcome, SetCookie, Target, Tier};
pub use edits::{RequestEdits, apply_headers, rewrite};
pub use memo::Memo;
pub use steer::{PROXIES_HEADERS, STEERING_HEADERS};

/// The port on which every sidecar accepts mTLS from peers and gateways.
pub const MTLS_PORT: u16 = 15008;

/// Istio's default connect timeout (`DestinationRule.connectionPool.tcp.connectTimeout`).
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What is to be routed.
#[derive(Debug, Clone, Copy)]
pub struct RouteRequest<'a> {
    /// The host that the client named.
    pub host: &'a Host,
    /// The port that it named.
    pub port: u16,
    /// The request; `None` for a connection whose bytes are opaque.
    pub http: Option<&'a HttpRequest<'a>>,
    /// The connection that it arrived on.
    pub connection: ConnectionFacts<'a>,
    /// What a verified token says; `None` without one, and wherever tokens are not looked at before routes.
    pub claims: Option<&'a Claims>,
    /// Where it entered the mesh.
    pub entry: Entry,
    /// Decides between what is equal: weights, faults, mirrors. The only randomness.
    pub entropy: u64,
}

impl<'a> RouteRequest<'a> {
    /// A connection of the own workload, without anything that is known of its content.
    pub fn to(host: &'a Host, port: u16) -> Self {
        let (http, connection) = (None, ConnectionFacts::default());
        Self { host, port, http, connection, claims: None, entry: Entry::Workload, entropy: 0 }
    }
}

/// Where a request entered the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// From the workload beside the sidecar (gateway `mesh`).
    Workload,
    /// At the listener of an ingress or egress gateway that has this service port.
    Gateway(u16),
}

/// Decides where a request may go. Knows no load and no health: [`crate::pick`] chooses among the targets.
pub fn route(view: &View, request: &RouteRequest<'_>) -> RouteDecision {
    let context = Context::new(view, request);
    let mut decision = RouteDecision::undecided(view, request);
    match request.entry {
        Entry::Workload => from_workload(&context, &mut decision),
        Entry::Gateway(port) => gateway::decide(&context, port, &mut decision),
    }
    if let Some(http) = request.http {
        steer::steer(http, request.entry, &mut decision);
    }
    decision
}

/// Decides where a request to a destination may go, whatever rules its host has: for mirrors, for the proxy's own
/// requests, for an egress proxy.
pub fn route_to(view: &View, destination: &Destination, request: &RouteRequest<'_>) -> RouteDecision {
    let context = Context::new(view, request);
    let mut decision = RouteDecision::undecided(view, request);
    destination::decide(&context, destination, None, &mut decision);
    decision
}

fn from_workload(context: &Context<'_>, decision: &mut RouteDecision) {
    let host = context.request.host;
    let found = lookup::find(context, host);
    if !matches!(&found, Found::Place(place) if !place.wildcard) {
        decision.want(context.view, host.service());
    }
    match found {
        Found::Place(place) if scope::reaches(context, &place) => {
            decision.service = Some(place.service.name.clone());
            // Who dials a pod means this pod; rules are for those who dial the service. Clients of a headless one dial pods.
            // VirtualServices know HTTP, TLS and TCP only.
            let of_service = place.pod.is_none() || place.service.headless;
            if of_service && !context.request.connection.udp {
                rules::decide(context, &place, decision);
            } else {
                destination::by_default(context, &place, decision);
            }
        }
        // There is nothing behind the address of a clusterset name but the mesh.
        Found::Place(place) if place.clusterset => {
            decision.reasons.push(Reason::Note { text: scope::left_out(context) });
            decision.refuse(Reason::UnknownService);
        }
        Found::Place(_) => {
            decision.reasons.push(Reason::Note { text: scope::left_out(context) });
            scope::unknown(context, decision);
        }
        Found::Missing(service) => {
            decision.want(context.view, Some(&service));
            decision.reasons.push(Reason::Note { text: format!("it is another name of {service}") });
            decision.refuse(Reason::UnknownService);
        }
        Found::Unknown => decision.refuse(Reason::UnknownService),
        Found::NotInMesh => {
            if let Host::Address(address) = host {
                let known = context.view.addresses.get(address);
                let services = known.iter().flat_map(|entry| &entry.services);
                services.for_each(|service| decision.want(context.view, Some(service)));
            }
            scope::unknown(context, decision);
        }
    }
}

#[cfg(test)]
mod tests;
