//! The server sidecar's decision on a transport: may this peer open this port.

use serde::Serialize;

use crate::model::{MtlsMode, Protocol, View, Workload, WorkloadPort};
use crate::names::SpiffeId;
use crate::policy::PeerPolicyRule;
use crate::reason::{Denial, Reason};

/// Who connects to a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboundPeer<'a> {
    /// A peer that proved this identity by mTLS.
    Mutual(&'a SpiffeId),
    /// Plain text: nobody proved anything.
    Plain,
}

/// Which ports of a workload can be opened at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PortScope {
    /// Those that a service or the workload declares: the sidecar owns them.
    #[default]
    Declared,
    /// All: the application owns its ports, and connections to it are captured (Istio's InboundPassthroughCluster).
    All,
}

/// Whether a sidecar lets a peer through to its application.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InboundDecision {
    /// The revision of the view.
    pub revision: u64,
    /// The port to open, or why not.
    pub outcome: Result<WorkloadPort, Denial>,
    /// Why.
    pub reasons: Vec<Reason>,
}

/// Decides at the server's sidecar which ports a peer may open and by which transport; what it may ask for there is
/// [`crate::authorize`]'s. `port` is a port of the workload or a service port that leads to one; a peer of another
/// cluster may name service ports that are exported to its cluster only.
pub fn authorize_inbound(view: &View, peer: InboundPeer<'_>, port: u16, scope: PortScope) -> InboundDecision {
    decide_inbound(view, peer, &Asked { port, udp: false, scope })
}

/// The same for datagrams to a UDP port.
pub fn authorize_inbound_udp(view: &View, peer: InboundPeer<'_>, port: u16, scope: PortScope) -> InboundDecision {
    decide_inbound(view, peer, &Asked { port, udp: true, scope })
}

/// The port that is to be opened.
struct Asked {
    port: u16,
    udp: bool,
    scope: PortScope,
}

fn decide_inbound(view: &View, peer: InboundPeer<'_>, asked: &Asked) -> InboundDecision {
    let mut reasons = Vec::new();
    let outcome = inbound(view, peer, asked, &mut reasons);
    if let Err(denial) = outcome {
        reasons.push(Reason::Denied { denial });
    }
    InboundDecision { revision: view.revision, outcome, reasons }
}

fn inbound(
    view: &View,
    peer: InboundPeer<'_>,
    asked: &Asked,
    reasons: &mut Vec<Reason>,
) -> Result<WorkloadPort, Denial> {
    let Asked { port, udp, scope } = *asked;
    // Before the first view nothing is known, also not which ports must not be opened.
    let workload = view.workload.as_deref().ok_or(Denial::Draining)?;
    let mesh = view.mesh.as_deref().ok_or(Denial::Draining)?;
    if let InboundPeer::Mutual(peer) = peer
        && *peer.trust_domain() != mesh.trust_domain
    {
        // The gateway checked the export but cannot read what is asked for inside the inner TLS. Like there, an unknown
        // and an unexported port look the same. Between clusters there is no other transport than mTLS, so a mode that
        // wants plain text is not about these callers.
        let cluster = view.cluster_of(peer.trust_domain()).ok_or(Denial::NotExported)?;
        let port = workload.exported_port(port, udp, &cluster.name).ok_or(Denial::NotExported)?;
        reasons.push(Reason::ExportAllows { cluster: cluster.name.clone() });
        return Ok(port.clone());
    }
    let port = match (workload.port_over(port, udp), scope, peer) {
        // Who dials the pod itself means its port, and not a service's.
        (Some(known), PortScope::All, InboundPeer::Plain) if known.number != port => undeclared(asked, reasons),
        (Some(known), _, _) => known.clone(),
        (None, PortScope::All, _) => undeclared(asked, reasons),
        (None, PortScope::Declared, _) => return Err(Denial::UnknownPort),
    };
    transport(workload, peer, &port, reasons)?;
    Ok(port)
}

/// A port that the application has and nobody declared: how it speaks shows in its first bytes.
fn undeclared(asked: &Asked, reasons: &mut Vec<Reason>) -> WorkloadPort {
    let number = asked.port;
    reasons.push(Reason::UndeclaredPort { port: number });
    let (name, service_ports, exports) = Default::default();
    let protocol = if asked.udp { Protocol::Udp } else { Protocol::Auto };
    WorkloadPort { number, name, protocol, service_ports, exports }
}

/// Whether the peer's transport is the one that the port wants.
fn transport(
    workload: &Workload,
    peer: InboundPeer<'_>,
    port: &WorkloadPort,
    reasons: &mut Vec<Reason>,
) -> Result<(), Denial> {
    let rule = peer_policy(workload, port.number);
    let mode = rule.map_or(workload.mtls, |rule| rule.mode);
    if let Some(rule) = rule {
        let said = format!("{} says {}", rule.origin, mode_name(mode));
        reasons.push(Reason::Note { text: said });
    }
    match (peer, mode) {
        (InboundPeer::Plain, MtlsMode::Strict) => return Err(Denial::MtlsRequired),
        (InboundPeer::Mutual(_), MtlsMode::Disable) => return Err(Denial::MtlsDisabled),
        (InboundPeer::Plain, MtlsMode::Permissive) => reasons.push(Reason::PermissivePlain),
        (InboundPeer::Plain, MtlsMode::Disable) | (InboundPeer::Mutual(_), _) if rule.is_none() => {
            reasons.push(Reason::AllowedByDefault);
        }
        _ => {}
    }
    Ok(())
}

/// The PeerAuthentication that governs a port of the workload: its own, else the workload's.
fn peer_policy(workload: &Workload, port: u16) -> Option<&PeerPolicyRule> {
    let policy = &workload.config.inbound;
    policy.port_mtls.get(&port).or(policy.mtls.as_ref())
}

fn mode_name(mode: MtlsMode) -> &'static str {
    match mode {
        MtlsMode::Permissive => "PERMISSIVE",
        MtlsMode::Strict => "STRICT",
        MtlsMode::Disable => "DISABLE",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use super::*;
    use crate::fixture::{Mesh, cluster, identity};
    use crate::model::{ExportPolicy, Labels};
    use crate::names::Namespace;
    use crate::policy::{InboundPolicy, ObjectRef, WorkloadConfig};

    fn view(mtls: MtlsMode) -> View {
        let port = |number, exports| WorkloadPort {
            number,
            name: String::new(),
            protocol: Protocol::Http,
            service_ports: BTreeSet::from([number - 9000]),
            exports,
        };
        let only_west = ExportPolicy::Only(BTreeSet::from([cluster("west")]));
        let workload = Workload {
            namespace: Namespace::new("default").unwrap(),
            name: "reviews-1".into(),
            service_account: "reviews".into(),
            labels: Labels::new(),
            ports: vec![port(9080, BTreeMap::from([(80, only_west)])), port(9090, BTreeMap::new())],
            mtls,
            locality: String::new(),
            config: Arc::default(),
        };
        let view = Mesh::east().import("details", "west", 1).import("details", "north", 1).view();
        View { workload: Some(Arc::new(workload)), ..view }
    }

    #[test]
    fn the_mode_decides_on_plain_text_and_the_workload_on_ports() {
        let web = identity("east.demo", "web");
        let mutual = InboundPeer::Mutual(&web);
        let cases = [
            ("mTLS to the port", MtlsMode::Strict, mutual, 9080, Ok(9080)),
            ("mTLS to the service port", MtlsMode::Strict, mutual, 80, Ok(9080)),
            ("mTLS to a port it does not offer", MtlsMode::Permissive, mutual, 22, Err(Denial::UnknownPort)),
            ("plain, permissive", MtlsMode::Permissive, InboundPeer::Plain, 9080, Ok(9080)),
            ("plain, strict", MtlsMode::Strict, InboundPeer::Plain, 9080, Err(Denial::MtlsRequired)),
        ];
        for (name, mode, peer, port, expected) in cases {
            let decision = authorize_inbound(&view(mode), peer, port, PortScope::Declared);
            assert_eq!(decision.outcome.map(|port| port.number), expected, "{name}");
        }
        assert!(
            authorize_inbound(&View::default(), mutual, 9080, PortScope::Declared).outcome.is_err(),
            "nothing is open before the view"
        );
    }

    #[test]
    fn an_application_that_has_its_ports_has_undeclared_ones_too() {
        let (web, foreign) = (identity("east.demo", "web"), identity("west.demo", "web"));
        let (mutual, plain) = (InboundPeer::Mutual(&web), InboundPeer::Plain);
        let cases = [
            ("plain, permissive", MtlsMode::Permissive, plain, 22, Ok(22)),
            ("plain, strict", MtlsMode::Strict, plain, 22, Err(Denial::MtlsRequired)),
            ("mTLS", MtlsMode::Strict, mutual, 22, Ok(22)),
            ("a declared one", MtlsMode::Strict, mutual, 9080, Ok(9080)),
            ("a peer means the service's port", MtlsMode::Strict, mutual, 80, Ok(9080)),
            ("who dials the pod means the pod's", MtlsMode::Permissive, plain, 80, Ok(80)),
            (
                "not for other clusters",
                MtlsMode::Permissive,
                InboundPeer::Mutual(&foreign),
                22,
                Err(Denial::NotExported),
            ),
        ];
        for (name, mode, peer, port, expected) in cases {
            let decision = authorize_inbound(&view(mode), peer, port, PortScope::All);
            let undeclared = decision.reasons.contains(&Reason::UndeclaredPort { port });
            assert_eq!(decision.outcome.map(|port| port.number), expected, "{name}");
            assert_eq!(undeclared, port != 9080 && expected == Ok(port) || name == "plain, strict", "{name}");
        }
    }

    /// The workload offers TCP ports; a number says nothing about the other transport.
    #[test]
    fn datagrams_reach_declared_ports_of_udp_and_undeclared_ones_of_an_application_that_has_its_ports() {
        let (web, foreign) = (identity("east.demo", "web"), identity("west.demo", "web"));
        let (web, foreign) = (InboundPeer::Mutual(&web), InboundPeer::Mutual(&foreign));
        let mut view = view(MtlsMode::Strict);
        let mut workload = view.workload.take().map(Arc::unwrap_or_clone).unwrap();
        workload.ports[1].protocol = Protocol::Udp;
        view.workload = Some(Arc::new(workload));
        let cases = [
            ("its own", web, 9090, PortScope::Declared, Ok(9090)),
            ("by the service's", web, 90, PortScope::Declared, Ok(9090)),
            ("of TCP", web, 9080, PortScope::Declared, Err(Denial::UnknownPort)),
            ("of TCP, where the application has its ports", web, 9080, PortScope::All, Ok(9080)),
            ("undeclared", web, 7, PortScope::All, Ok(7)),
            ("exported as TCP", foreign, 80, PortScope::All, Err(Denial::NotExported)),
            ("undeclared, for another cluster", foreign, 7, PortScope::All, Err(Denial::NotExported)),
            ("plain", InboundPeer::Plain, 9090, PortScope::Declared, Err(Denial::MtlsRequired)),
        ];
        for (name, peer, port, scope, expected) in cases {
            let outcome = authorize_inbound_udp(&view, peer, port, scope).outcome;
            assert!(outcome.as_ref().map_or(true, |port| port.protocol == Protocol::Udp), "{name}");
            assert_eq!(outcome.map(|port| port.number), expected, "{name}");
        }
    }

    #[test]
    fn a_peer_of_another_cluster_gets_exported_service_ports_only() {
        let cases = [
            ("exported to it", "west.demo", 80, Ok(9080)),
            ("not exported", "west.demo", 90, Err(Denial::NotExported)),
            ("a port of the workload itself", "west.demo", 9090, Err(Denial::NotExported)),
            ("exported to another cluster", "north.demo", 80, Err(Denial::NotExported)),
            ("no member", "south.demo", 80, Err(Denial::NotExported)),
        ];
        for (name, trust_domain, port, expected) in cases {
            let peer = identity(trust_domain, "web");
            let decision =
                authorize_inbound(&view(MtlsMode::Permissive), InboundPeer::Mutual(&peer), port, PortScope::Declared);
            assert_eq!(decision.outcome.map(|port| port.number), expected, "{name}");
        }
    }

    /// A view of a workload with PeerAuthentications for the workload and for its port 9080.
    fn governed(workload: Option<MtlsMode>, port: Option<MtlsMode>) -> View {
        let rule = |mode| {
            let origin = ObjectRef { kind: "PeerAuthentication".into(), namespace: "default".into(), name: "x".into() };
            PeerPolicyRule { origin, mode }
        };
        let port_mtls = port.map(|mode| (9080, rule(mode))).into_iter().collect();
        let inbound = InboundPolicy { mtls: workload.map(rule), port_mtls, ..InboundPolicy::default() };
        let mut view = view(MtlsMode::Permissive);
        let mut edited = view.workload.take().map(Arc::unwrap_or_clone).unwrap();
        edited.config = Arc::new(WorkloadConfig { inbound, ..WorkloadConfig::default() });
        View { workload: Some(Arc::new(edited)), ..view }
    }

    #[test]
    fn the_rule_of_a_port_comes_before_the_workloads() {
        use MtlsMode::{Disable, Permissive, Strict};
        let (web, foreign) = (identity("east.demo", "web"), identity("west.demo", "web"));
        let (mutual, plain) = (InboundPeer::Mutual(&web), InboundPeer::Plain);
        let foreign = InboundPeer::Mutual(&foreign);
        let cases = [
            ("strict refuses plain", Some(Strict), None, plain, 9080, Err(Denial::MtlsRequired)),
            ("strict takes mTLS", Some(Strict), None, mutual, 9080, Ok(9080)),
            ("the port is permissive", Some(Strict), Some(Permissive), plain, 9080, Ok(9080)),
            ("another port is not", Some(Strict), Some(Permissive), plain, 9090, Err(Denial::MtlsRequired)),
            ("by the service port", Some(Strict), Some(Permissive), plain, 80, Ok(9080)),
            ("the port is strict", Some(Permissive), Some(Strict), plain, 9080, Err(Denial::MtlsRequired)),
            ("disable takes plain", Some(Disable), None, plain, 9080, Ok(9080)),
            ("disable refuses mTLS", Some(Disable), None, mutual, 9080, Err(Denial::MtlsDisabled)),
            ("a disabled port refuses mTLS", None, Some(Disable), mutual, 9080, Err(Denial::MtlsDisabled)),
            ("callers of other clusters know mTLS only", Some(Disable), None, foreign, 80, Ok(9080)),
            ("strict for callers of other clusters", Some(Strict), Some(Strict), foreign, 80, Ok(9080)),
        ];
        for (name, workload, port_mode, peer, port, expected) in cases {
            let decision = authorize_inbound(&governed(workload, port_mode), peer, port, PortScope::Declared);
            assert_eq!(decision.outcome.map(|port| port.number), expected, "{name}");
        }
    }
}
