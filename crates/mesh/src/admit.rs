//! The gateway's decisions: may this workload send into the tunnel, may this cluster reach this export.
//!
//! Peer identities come from TLS; whatever a header says is a claim that must agree with them.

use std::net::SocketAddr;

use serde::Serialize;

use crate::model::{Endpoint, GroupKey, View};
use crate::names::{ClusterName, ServiceName, SpiffeId};
use crate::reason::{Denial, Reason};
use crate::route::MTLS_PORT;
use crate::stand_in::speaks_for;

/// A tunnel header, parsed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TunnelRequest {
    /// The service.
    pub service: ServiceName,
    /// The service port.
    pub port: u16,
    /// The cluster that the flow is for.
    pub cluster: ClusterName,
    /// Only endpoints of this group; `None` = any.
    pub group: Option<GroupKey>,
    /// One pod of a headless service; `None` = any.
    pub pod: Option<String>,
    /// Whether the port is one of UDP.
    pub udp: bool,
    /// Whether the inner mTLS ends at the server's sidecar.
    pub mode: TunnelMode,
    /// The workload that sends, by its own claim.
    pub source: SpiffeId,
}

impl TunnelRequest {
    /// Whether the flow is one of capsules, among which are sealed datagrams: one of UDP between two sidecars.
    pub fn has_datagrams(&self) -> bool {
        self.udp && self.mode == TunnelMode::Mesh
    }
}

/// Who ends the inner mTLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TunnelMode {
    /// The server's sidecar.
    Mesh,
    /// A gateway, for an unmeshed end.
    Plain,
    /// Nobody: a probe of the path.
    Probe,
}

impl TunnelMode {
    /// As logs and metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::Plain => "plain",
            Self::Probe => "probe",
        }
    }
}

/// Whether the source gateway carries a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceDecision {
    /// The revision of the view.
    pub revision: u64,
    /// `Ok`, or why not.
    pub outcome: Result<(), Denial>,
    /// Why.
    pub reasons: Vec<Reason>,
}

/// Decides at the source gateway. `peer` is the identity that the outer TLS proved.
pub fn admit_source(view: &View, peer: &SpiffeId, request: &TunnelRequest) -> SourceDecision {
    let denial = source_denial(view, peer, request);
    let reasons = denial.map(|denial| Reason::Denied { denial }).into_iter().collect();
    SourceDecision { revision: view.revision, outcome: denial.map_or(Ok(()), Err), reasons }
}

fn source_denial(view: &View, peer: &SpiffeId, request: &TunnelRequest) -> Option<Denial> {
    let own = view.mesh.as_deref().map(|mesh| &mesh.trust_domain);
    if own != Some(peer.trust_domain()) || request.source != *peer {
        return Some(Denial::SourceMismatch);
    }
    if !view.clusters.get(&request.cluster).is_some_and(|cluster| cluster.imported) {
        return Some(Denial::ClusterUnknown);
    }
    if request.mode == TunnelMode::Probe {
        return None;
    }
    // What is not imported may not be probed for through the tunnel either.
    let imported = view.services.get(&request.service).and_then(|service| service.imports.get(&request.cluster));
    match imported {
        None => Some(Denial::NotExported),
        Some(import) if import.port_over(request.port, request.udp).is_none() => Some(Denial::UnknownPort),
        Some(_) => None,
    }
}

/// Whether the destination gateway dials, and whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DestinationDecision {
    /// The revision of the view.
    pub revision: u64,
    /// Candidates, at least one unless the request is a probe; or why not.
    pub outcome: Result<Vec<Candidate>, Denial>,
    /// Why.
    pub reasons: Vec<Reason>,
}

/// An endpoint that the destination gateway may dial.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Candidate {
    /// The pod.
    pub endpoint: String,
    /// Its sidecar's mTLS port; of a pod without a sidecar the port that serves the service port.
    pub address: SocketAddr,
    /// The identity under which the gateway speaks for a pod without a sidecar; `None`: its sidecar speaks for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stand_in: Option<SpiffeId>,
}

/// Decides at the destination gateway. `peer` is the cluster whose trust domain the tunnel's TLS proved.
pub fn admit_destination(view: &View, peer: &ClusterName, request: &TunnelRequest) -> DestinationDecision {
    let mut reasons = Vec::new();
    let outcome = destination_candidates(view, peer, request, &mut reasons);
    if let Err(denial) = outcome {
        reasons.push(Reason::Denied { denial });
    }
    DestinationDecision { revision: view.revision, outcome, reasons }
}

fn destination_candidates(
    view: &View,
    peer: &ClusterName,
    request: &TunnelRequest,
    reasons: &mut Vec<Reason>,
) -> Result<Vec<Candidate>, Denial> {
    let cluster = view.clusters.get(peer).ok_or(Denial::ClusterUnknown)?;
    if request.source.trust_domain() != &cluster.trust_domain {
        return Err(Denial::SourceMismatch);
    }
    if view.cluster() != Some(&request.cluster) {
        return Err(Denial::ClusterUnknown);
    }
    if request.mode == TunnelMode::Probe {
        return Ok(Vec::new());
    }
    // An unknown and an unexported service look the same from outside.
    let service = view.services.get(&request.service).ok_or(Denial::NotExported)?;
    if !service.export.as_ref().is_some_and(|export| export.allows(peer)) {
        return Err(Denial::NotExported);
    }
    reasons.push(Reason::ExportAllows { cluster: peer.clone() });
    service.port_over(request.port, request.udp).ok_or(Denial::UnknownPort)?;
    if request.mode == TunnelMode::Plain {
        if request.udp {
            reasons.push(Reason::Note { text: "UDP is carried to sidecars only".to_owned() });
            return Err(Denial::Policy);
        }
        if !service.endpoints.iter().any(|endpoint| endpoint.stand_in.is_some()) {
            let text = "the export does not let gateways speak for pods without a sidecar".to_owned();
            reasons.push(Reason::Note { text });
            return Err(Denial::Policy);
        }
        reasons.push(Reason::Note { text: "the last hop is plain: the pod has no sidecar".to_owned() });
    }
    let candidates: Vec<Candidate> =
        service.endpoints.iter().filter_map(|endpoint| candidate(view, endpoint, request)).collect();
    if candidates.is_empty() { Err(Denial::NoEndpoint) } else { Ok(candidates) }
}

/// The endpoint as what the mode wants, if it is one: with a sidecar of its own, or with a gateway that speaks for it.
fn candidate(view: &View, endpoint: &Endpoint, request: &TunnelRequest) -> Option<Candidate> {
    let port = *endpoint.ports.get(&request.port)?;
    let (identity, port, stand_in) = match (request.mode, &endpoint.identity, &endpoint.stand_in) {
        (TunnelMode::Mesh, Some(identity), _) => (identity, MTLS_PORT, None),
        (TunnelMode::Plain, None, Some(identity)) if speaks_for(view, endpoint.address) => {
            (identity, port, Some(identity.clone()))
        }
        _ => return None,
    };
    let address = SocketAddr::new(endpoint.address, port);
    let wanted = matches_request(endpoint, identity, request);
    wanted.then(|| Candidate { endpoint: endpoint.name.clone(), address, stand_in })
}

fn matches_request(endpoint: &Endpoint, identity: &SpiffeId, request: &TunnelRequest) -> bool {
    let in_group = |group: &GroupKey| {
        let labels = group.labels.iter().all(|(key, value)| endpoint.labels.get(key) == Some(value));
        identity.account() == group.service_account && labels && endpoint.locality == group.locality
    };
    endpoint.ready
        && request.group.as_ref().is_none_or(in_group)
        && request.pod.as_ref().is_none_or(|pod| *pod == endpoint.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Mesh, cluster, identity, service};
    use crate::model::Labels;

    fn from_east() -> TunnelRequest {
        TunnelRequest {
            service: service("reviews"),
            port: 9080,
            udp: false,
            cluster: cluster("west"),
            group: None,
            pod: None,
            mode: TunnelMode::Mesh,
            source: identity("east.demo", "web"),
        }
    }

    #[test]
    fn the_source_gateway_carries_only_what_the_tls_peer_may_ask_for() {
        let view = Mesh::east().import("reviews", "west", 1).view();
        let web = identity("east.demo", "web");
        let cases = [
            ("its own", web.clone(), from_east(), Ok(())),
            ("another's identity", identity("east.demo", "thief"), from_east(), Err(Denial::SourceMismatch)),
            (
                "a foreign peer",
                identity("west.demo", "web"),
                TunnelRequest { source: identity("west.demo", "web"), ..from_east() },
                Err(Denial::SourceMismatch),
            ),
            (
                "an unknown cluster",
                web.clone(),
                TunnelRequest { cluster: cluster("north"), ..from_east() },
                Err(Denial::ClusterUnknown),
            ),
            (
                "an unexported service",
                web.clone(),
                TunnelRequest { service: service("secret"), ..from_east() },
                Err(Denial::NotExported),
            ),
            ("another port", web.clone(), TunnelRequest { port: 22, ..from_east() }, Err(Denial::UnknownPort)),
            ("UDP of that number", web, TunnelRequest { udp: true, ..from_east() }, Err(Denial::UnknownPort)),
        ];
        for (name, peer, request, expected) in cases {
            assert_eq!(admit_source(&view, &peer, &request).outcome, expected, "{name}");
        }
    }

    fn from_west() -> TunnelRequest {
        TunnelRequest { cluster: cluster("east"), source: identity("west.demo", "web"), ..from_east() }
    }

    #[test]
    fn the_destination_gateway_authorises_the_cluster_against_the_export() {
        let mesh = || Mesh::east().local("reviews", 2).import("other", "west", 1);
        let west = cluster("west");
        let group = |account: &str, version: &str| {
            Some(GroupKey {
                service_account: account.into(),
                labels: Labels::from([("version".into(), version.into())]),
                locality: String::new(),
            })
        };
        let plain = TunnelRequest { mode: TunnelMode::Plain, ..from_west() };
        let cases: [(&str, View, TunnelRequest, Result<usize, Denial>); 21] = [
            ("exported", mesh().view(), from_west(), Ok(2)),
            ("UDP", mesh().view(), TunnelRequest { udp: true, ..from_west() }, Err(Denial::UnknownPort)),
            (
                "plain UDP",
                mesh().unmeshed("reviews", Some("old")).udp("reviews").view(),
                TunnelRequest { udp: true, ..plain.clone() },
                Err(Denial::Policy),
            ),
            ("one group", mesh().view(), TunnelRequest { group: group("reviews", "v1"), ..from_west() }, Ok(1)),
            (
                "another account's group",
                mesh().view(),
                TunnelRequest { group: group("other", "v1"), ..from_west() },
                Err(Denial::NoEndpoint),
            ),
            ("one pod", mesh().view(), TunnelRequest { pod: Some("reviews-2".into()), ..from_west() }, Ok(1)),
            ("not exported", mesh().private("reviews", 1).view(), from_west(), Err(Denial::NotExported)),
            (
                "exported to others",
                mesh().exported_only_to("reviews", "north").view(),
                from_west(),
                Err(Denial::NotExported),
            ),
            (
                "unknown looks like unexported",
                mesh().view(),
                TunnelRequest { service: service("nothing"), ..from_west() },
                Err(Denial::NotExported),
            ),
            (
                "a source of another trust domain",
                mesh().view(),
                TunnelRequest { source: identity("east.demo", "web"), ..from_west() },
                Err(Denial::SourceMismatch),
            ),
            ("no ready endpoint", mesh().not_ready("reviews").view(), from_west(), Err(Denial::NoEndpoint)),
            ("a probe", mesh().view(), TunnelRequest { mode: TunnelMode::Probe, ..from_west() }, Ok(0)),
            ("plain to pods with sidecars", mesh().view(), plain.clone(), Err(Denial::Policy)),
            (
                "plain without the export's leave",
                mesh().unmeshed("reviews", None).view(),
                plain.clone(),
                Err(Denial::Policy),
            ),
            (
                "plain to the gateway itself",
                mesh().unmeshed("reviews", Some("old")).pods_at("reviews", "127.0.0.2").view(),
                plain.clone(),
                Err(Denial::NoEndpoint),
            ),
            ("plain with it", mesh().unmeshed("reviews", Some("old")).view(), plain.clone(), Ok(2)),
            (
                "plain, one group",
                mesh().unmeshed("reviews", Some("old")).view(),
                TunnelRequest { group: group("old", "v1"), ..plain.clone() },
                Ok(1),
            ),
            (
                "plain, as somebody else",
                mesh().unmeshed("reviews", Some("old")).view(),
                TunnelRequest { group: group("admin", "v1"), ..plain.clone() },
                Err(Denial::NoEndpoint),
            ),
            (
                "mesh mode never ends in plain text",
                mesh().unmeshed("reviews", Some("old")).view(),
                from_west(),
                Err(Denial::NoEndpoint),
            ),
            (
                "plain to what is not exported",
                mesh().unmeshed("reviews", Some("old")).exported_only_to("reviews", "north").view(),
                plain.clone(),
                Err(Denial::NotExported),
            ),
            (
                "plain for a source of another trust domain",
                mesh().unmeshed("reviews", Some("old")).view(),
                TunnelRequest { source: identity("north.demo", "web"), ..plain },
                Err(Denial::SourceMismatch),
            ),
        ];
        for (name, view, request, expected) in cases {
            let decision = admit_destination(&view, &west, &request);
            assert_eq!(decision.outcome.map(|candidates| candidates.len()), expected, "{name}");
        }
        let stranger = admit_destination(&mesh().view(), &cluster("north"), &from_west());
        assert_eq!(stranger.outcome, Err(Denial::ClusterUnknown));
    }
}
