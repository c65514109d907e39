//! `route()`: where a request or a connection may go, in which order, and whom to expect there.

mod cors;
mod edits;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::host::Host;
use crate::model::{Endpoint, GroupKey, Import, Protocol, RemoteCluster, Service, View};
use crate::names::{ClusterName, Namespace, ServiceName, SpiffeId};
use crate::policy::{AbortWith, Destination, HttpRule, ObjectRef, TrafficPolicy};
use crate::reason::{Denial, Reason};
use crate::request::{ConnectionFacts, HttpRequest};
use crate::retry::RetryPolicy;

pub use cors::{CorsDecision, cors};
pub use edits::{RequestEdits, apply_headers, rewrite};

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
    /// Where it entered the mesh.
    pub entry: Entry,
    /// Decides between what is equal: weights, faults, mirrors. The only randomness.
    pub entropy: u64,
}

impl<'a> RouteRequest<'a> {
    /// A connection of the own workload, without anything that is known of its content.
    pub fn to(host: &'a Host, port: u16) -> Self {
        let (http, connection) = (None, ConnectionFacts::default());
        Self { host, port, http, connection, entry: Entry::Workload, entropy: 0 }
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

/// Where a request may go. The proxy acts on it, the access log records it, `hubctl explain` prints it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RouteDecision {
    /// The revision of the view it was made on.
    pub revision: u64,
    /// The service, when the host names one.
    pub service: Option<ServiceName>,
    /// The service port.
    pub port: u16,
    /// How the port speaks.
    pub protocol: Protocol,
    /// The subset that a rule chose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subset: Option<String>,
    /// What to do.
    pub outcome: RouteOutcome,
    /// The HTTP rule that matched; its rewrites, header operations and cross-origin rules are to be applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Arc<HttpRule>>,
    /// Index of the rule's match that was met; `None` when the rule has none. [`rewrite`] needs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matched: Option<usize>,
    /// Index of the rule's destination that was drawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<usize>,
    /// How the destination is talked to.
    pub policy: Arc<TrafficPolicy>,
    /// The DestinationRule that says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_origin: Option<ObjectRef>,
    /// How long connecting to one target may take.
    #[serde(serialize_with = "crate::retry::as_millis")]
    pub connect_timeout: Duration,
    /// Of the whole request, retries included.
    #[serde(with = "crate::policy::optional_millis", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// When to try again.
    pub retry: RetryPolicy,
    /// Faults that were drawn for this request.
    pub fault: InjectedFault,
    /// Where copies go that were drawn for this request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<Destination>,
    /// Set when equal requests meet the same endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// A service that the decision needs and the view lacks: whoever decides asks for it and decides again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wants: Option<ServiceName>,
    /// Why.
    pub reasons: Vec<Reason>,
}

/// Faults for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct InjectedFault {
    /// Wait so long first.
    #[serde(with = "crate::policy::optional_millis", skip_serializing_if = "Option::is_none")]
    pub delay: Option<Duration>,
    /// Answer with this instead of forwarding, after the delay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort: Option<AbortWith>,
}

/// The hash that decides which endpoint equal requests meet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Affinity {
    /// Of the request.
    pub hash: u64,
    /// A cookie that the answer sets, so that the next request has the same hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_cookie: Option<SetCookie>,
}

/// A cookie made for affinity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetCookie {
    /// The whole value of `Set-Cookie`.
    pub value: String,
}

impl RouteDecision {
    /// What a refusal is called in the answer and in the records; `None` when there is something to try.
    pub fn denial(&self) -> Option<Denial> {
        if self.outcome != RouteOutcome::Refuse {
            return None;
        }
        let named = self.reasons.iter().find_map(|reason| match reason {
            Reason::UnknownService => Some(Denial::NotExported),
            Reason::UnknownPort { .. } => Some(Denial::UnknownPort),
            Reason::NoGateway => Some(Denial::ClusterUnreachable),
            Reason::NoRoute => Some(Denial::NoRoute),
            _ => None,
        });
        Some(named.unwrap_or(Denial::NoEndpoint))
    }
}

/// The answer of [`route`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum RouteOutcome {
    /// Send it to a target of the first tier that has a usable one.
    Forward {
        /// Best first.
        tiers: Vec<Tier>,
    },
    /// Not a service of the mesh: dial what the client named (Istio's ALLOW_ANY).
    Passthrough,
    /// Answer with a redirect.
    Redirect {
        /// 3xx.
        status: u16,
        /// The value of `Location`.
        location: String,
    },
    /// Answer with the rule's direct response.
    Direct,
    /// Nothing can serve it; the last reason says why.
    Refuse,
}

/// Targets of equal preference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tier {
    /// At least one.
    pub targets: Vec<Target>,
}

/// One place to send to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case", tag = "target")]
pub enum Target {
    /// An endpoint of the own cluster.
    Local {
        /// The pod.
        endpoint: String,
        /// Pod address and the port that serves the service port.
        address: SocketAddr,
        /// The identity that its sidecar must prove on [`MTLS_PORT`]; `None`: dial `address` itself.
        expected: Option<SpiffeId>,
        /// Share of the traffic of the tier.
        weight: u32,
    },
    /// A host outside the mesh, whose addresses DNS knows.
    Named {
        /// What DNS is asked for.
        host: String,
        /// The port to dial.
        port: u16,
        /// Share of the traffic of the tier.
        weight: u32,
        /// One address at a time, a new answer for new connections (`DNS_ROUND_ROBIN`).
        one_address: bool,
    },
    /// A group of endpoints in another cluster, reached through the own gateways.
    Remote {
        /// The cluster.
        cluster: ClusterName,
        /// The group.
        group: GroupKey,
        /// The identities of which the server must prove one.
        expected: BTreeSet<SpiffeId>,
        /// Share of the traffic of the tier: its healthy endpoints.
        weight: u32,
    },
}

impl Target {
    /// The cluster that a target is in; `None` = the own.
    pub fn cluster(&self) -> Option<&ClusterName> {
        match self {
            Self::Local { .. } | Self::Named { .. } => None,
            Self::Remote { cluster, .. } => Some(cluster),
        }
    }
}

/// Decides where a request may go. Knows no load and no health: [`crate::pick`] chooses among the targets.
pub fn route(view: &View, request: &RouteRequest<'_>) -> RouteDecision {
    let mut decision = RouteDecision {
        revision: view.revision,
        service: request.host.service().cloned(),
        port: request.port,
        protocol: Protocol::Auto,
        subset: None,
        outcome: RouteOutcome::Refuse,
        rule: None,
        matched: None,
        destination: None,
        policy: Arc::default(),
        policy_origin: None,
        connect_timeout: CONNECT_TIMEOUT,
        timeout: None,
        retry: RetryPolicy::default(),
        fault: InjectedFault::default(),
        mirrors: Vec::new(),
        affinity: None,
        wants: None,
        reasons: Vec::new(),
    };
    let (service, remote_allowed) = match find_service(view, request) {
        Found::Service { service, clusterset } => (service, clusterset || service.global),
        Found::Unknown => {
            decision.reasons.push(Reason::UnknownService);
            return decision;
        }
        Found::NotInMesh => {
            decision.reasons.push(Reason::NotInMesh);
            decision.outcome = RouteOutcome::Passthrough;
            return decision;
        }
    };
    decision.service = Some(service.name.clone());
    let Some(port) = service.port(request.port) else {
        decision.reasons.push(Reason::UnknownPort { port: request.port });
        return decision;
    };
    decision.protocol = port.protocol;
    let mut tiers = Vec::new();
    tiers.extend(local_tier(service, request.port, &mut decision.reasons));
    if remote_allowed {
        tiers.extend(remote_tier(view, service, request.port, &mut decision.reasons));
    } else if !service.imports.is_empty() {
        decision.reasons.push(Reason::ClusterScope);
    }
    if tiers.is_empty() {
        decision.reasons.push(Reason::NoEndpoint);
    } else {
        decision.outcome = RouteOutcome::Forward { tiers };
    }
    decision
}

/// Decides where a request to a destination may go, whatever rules its host has: for mirrors, for the proxy's own
/// requests, for an egress proxy.
pub fn route_to(view: &View, destination: &Destination, request: &RouteRequest<'_>) -> RouteDecision {
    let port = destination.port.unwrap_or(request.port);
    route(view, &RouteRequest { host: &destination.host, port, ..*request })
}

enum Found<'a> {
    Service { service: &'a Service, clusterset: bool },
    Unknown,
    NotInMesh,
}

fn find_service<'a>(view: &'a View, request: &RouteRequest<'_>) -> Found<'a> {
    match request.host {
        Host::Clusterset(name) => match view.services.get(name) {
            // A service that nobody exports has no clusterset name, even in its own cluster (KEP-1645).
            Some(service) if service.export.is_some() || !service.imports.is_empty() => {
                Found::Service { service, clusterset: true }
            }
            _ => Found::Unknown,
        },
        Host::Cluster(name) => match view.services.get(name) {
            Some(service) => Found::Service { service, clusterset: false },
            None => Found::NotInMesh,
        },
        Host::Address(address) => {
            let by_address = view.services.values().find_map(|service| {
                let clusterset = service.clusterset_addresses.contains(address);
                (clusterset || service.cluster_addresses.contains(address))
                    .then_some(Found::Service { service, clusterset })
            });
            by_address.unwrap_or(Found::NotInMesh)
        }
        Host::Invalid(_) => Found::Unknown,
        Host::External(_) => Found::NotInMesh,
    }
}

fn local_tier(service: &Service, port: u16, reasons: &mut Vec<Reason>) -> Option<Tier> {
    let target = |endpoint: &Endpoint| {
        let target_port = *endpoint.ports.get(&port)?;
        endpoint.ready.then(|| Target::Local {
            endpoint: endpoint.name.clone(),
            address: SocketAddr::new(endpoint.address, target_port),
            expected: endpoint.identity.clone(),
            weight: endpoint.weight,
        })
    };
    let targets: Vec<Target> = service.endpoints.iter().filter_map(target).collect();
    if targets.is_empty() {
        reasons.push(Reason::NoLocalEndpoint);
        return None;
    }
    reasons.push(Reason::LocalFirst { endpoints: targets.len() });
    Some(Tier { targets })
}

fn remote_tier(view: &View, service: &Service, port: u16, reasons: &mut Vec<Reason>) -> Option<Tier> {
    if service.imports.is_empty() {
        return None;
    }
    if view.gateways.is_empty() {
        reasons.push(Reason::NoGateway);
        return None;
    }
    let mut targets = Vec::new();
    for (name, import) in &service.imports {
        match usable(view, name, import, port) {
            Ok(cluster) => {
                let before = targets.len();
                targets.extend(group_targets(cluster, service, import));
                // The counts are the other cluster's word.
                let healthy = import.groups.iter().fold(0, |sum: u32, group| sum.saturating_add(group.healthy));
                if targets.len() > before {
                    let stale = cluster.stale_since_ms.is_some();
                    reasons.push(Reason::Remote { cluster: name.clone(), healthy, stale });
                } else {
                    reasons.push(Reason::RemoteUnusable { cluster: name.clone(), why: "no healthy endpoint" });
                }
            }
            Err(why) => reasons.push(Reason::RemoteUnusable { cluster: name.clone(), why }),
        }
    }
    (!targets.is_empty()).then_some(Tier { targets })
}

fn usable<'a>(
    view: &'a View,
    name: &ClusterName,
    import: &Import,
    port: u16,
) -> Result<&'a RemoteCluster, &'static str> {
    let cluster = view.clusters.get(name).ok_or("its trust bundle is not known")?;
    if cluster.gateways.is_empty() {
        return Err("it announces no gateway");
    }
    // Traffic to a port goes only to clusters that expose it (KEP-1645, port conflicts).
    import.ports.iter().find(|offered| offered.number == port).ok_or("it does not offer the port")?;
    Ok(cluster)
}

fn group_targets<'a>(
    cluster: &'a RemoteCluster,
    service: &'a Service,
    import: &'a Import,
) -> impl Iterator<Item = Target> + 'a {
    let namespace: &Namespace = service.name.namespace();
    import.groups.iter().filter(|group| group.healthy > 0 && group.meshed).filter_map(move |group| {
        let account = group.key.service_account.clone();
        let expected = SpiffeId::new(cluster.trust_domain.clone(), namespace.clone(), account).ok()?;
        Some(Target::Remote {
            cluster: cluster.name.clone(),
            group: group.key.clone(),
            expected: BTreeSet::from([expected]),
            weight: group.healthy,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Mesh, cluster, service};

    fn decide(view: &View, host: &str, port: u16) -> RouteDecision {
        let namespace = Namespace::new("default").unwrap();
        route(view, &RouteRequest::to(&Host::parse(host, &namespace), port))
    }

    fn places(decision: &RouteDecision) -> Vec<Vec<String>> {
        let RouteOutcome::Forward { tiers } = &decision.outcome else { return Vec::new() };
        let place = |target: &Target| match target {
            Target::Local { endpoint, .. } => endpoint.clone(),
            Target::Named { host, .. } => host.clone(),
            Target::Remote { cluster, weight, .. } => format!("{cluster}*{weight}"),
        };
        tiers.iter().map(|tier| tier.targets.iter().map(place).collect()).collect()
    }

    #[test]
    fn local_endpoints_come_before_other_clusters() {
        let view = Mesh::east().local("reviews", 2).import("reviews", "west", 3).view();
        let decision = decide(&view, "reviews.default.svc.clusterset.local", 9080);
        assert_eq!(places(&decision), [vec!["reviews-1", "reviews-2"], vec!["west*3"]]);
        assert_eq!(decision.reasons[0], Reason::LocalFirst { endpoints: 2 });
        assert_eq!(decision.service, Some(service("reviews")));
    }

    #[test]
    fn short_and_cluster_local_names_stay_in_the_cluster_unless_the_service_is_global() {
        let mesh = Mesh::east().local("reviews", 1).import("reviews", "west", 3);
        for host in ["reviews", "reviews.default.svc.cluster.local"] {
            let decision = decide(&mesh.clone().view(), host, 9080);
            assert_eq!(places(&decision), [vec!["reviews-1"]], "{host}");
            assert!(decision.reasons.contains(&Reason::ClusterScope));
        }
        let global = decide(&mesh.global("reviews").view(), "reviews", 9080);
        assert_eq!(places(&global), [vec!["reviews-1"], vec!["west*3"]]);
    }

    #[test]
    fn the_identity_expected_of_a_remote_server_is_of_the_remote_trust_domain() {
        let view = Mesh::east().import("reviews", "west", 1).view();
        let RouteOutcome::Forward { tiers } = decide(&view, "reviews.default.svc.clusterset.local", 9080).outcome
        else {
            panic!("not forwarded")
        };
        let Target::Remote { expected, .. } = &tiers[0].targets[0] else { panic!("not remote") };
        let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
        assert_eq!(expected, ["spiffe://west.demo/ns/default/sa/reviews"]);
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_the_reason() {
        let not_exported = Mesh::east().private("reviews", 1);
        let cases: [(&str, View, &str, u16, Reason, Denial); 5] = [
            (
                "nobody exports it",
                not_exported.view(),
                "reviews.default.svc.clusterset.local",
                9080,
                Reason::UnknownService,
                Denial::NotExported,
            ),
            (
                "no such port",
                Mesh::east().local("reviews", 1).view(),
                "reviews",
                1,
                Reason::UnknownPort { port: 1 },
                Denial::UnknownPort,
            ),
            (
                "no gateway of our own",
                Mesh::east().import("reviews", "west", 1).without_gateways().view(),
                "reviews.default.svc.clusterset.local",
                9080,
                Reason::NoGateway,
                Denial::ClusterUnreachable,
            ),
            (
                "all remote endpoints are gone",
                Mesh::east().import("reviews", "west", 0).view(),
                "reviews.default.svc.clusterset.local",
                9080,
                Reason::RemoteUnusable { cluster: cluster("west"), why: "no healthy endpoint" },
                Denial::NoEndpoint,
            ),
            (
                "not a service name",
                Mesh::east().view(),
                "west.reviews.default.svc.clusterset.local",
                80,
                Reason::UnknownService,
                Denial::NotExported,
            ),
        ];
        for (name, view, host, port, reason, denial) in cases {
            let decision = decide(&view, host, port);
            assert_eq!(decision.outcome, RouteOutcome::Refuse, "{name}");
            assert_eq!(decision.denial(), Some(denial), "{name}");
            assert!(decision.reasons.contains(&reason), "{name}: {:?}", decision.reasons);
        }
    }

    #[test]
    fn a_stale_cluster_is_used_and_said_to_be_stale() {
        let view = Mesh::east().import("reviews", "west", 1).stale("west").view();
        let decision = decide(&view, "reviews.default.svc.clusterset.local", 9080);
        assert_eq!(places(&decision), [vec!["west*1"]]);
        assert!(decision.reasons.contains(&Reason::Remote { cluster: cluster("west"), healthy: 1, stale: true }));
    }

    #[test]
    fn counts_that_another_cluster_makes_up_overflow_nothing() {
        let mut view = Mesh::east().import("reviews", "west", u32::MAX).view();
        let service = view.services.get_mut(&service("reviews")).map(std::sync::Arc::make_mut).unwrap();
        let import = service.imports.get_mut(&cluster("west")).unwrap();
        let mut second = import.groups[0].clone();
        second.key.locality = "zone-2".into();
        import.groups.push(second);
        let decision = decide(&view, "reviews.default.svc.clusterset.local", 9080);
        let remote = Reason::Remote { cluster: cluster("west"), healthy: u32::MAX, stale: false };
        assert!(decision.reasons.contains(&remote), "{:?}", decision.reasons);
    }

    #[test]
    fn what_the_mesh_does_not_know_passes_through() {
        let view = Mesh::east().view();
        for host in ["www.example.org", "10.1.2.3", "unknown.default.svc.cluster.local"] {
            assert_eq!(decide(&view, host, 80).outcome, RouteOutcome::Passthrough, "{host}");
        }
    }
}
