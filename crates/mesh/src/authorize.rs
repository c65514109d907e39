//! The server sidecar's decision: may this peer open this port.

use serde::Serialize;

use crate::model::{MtlsMode, View, WorkloadPort};
use crate::names::SpiffeId;
use crate::reason::{Denial, Reason};

/// Who connects to a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboundPeer<'a> {
    /// A peer that proved this identity by mTLS.
    Mutual(&'a SpiffeId),
    /// Plain text: nobody proved anything.
    Plain,
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

/// Decides at the server's sidecar. `port` is a port of the workload or a service port that leads to one.
pub fn authorize_inbound(view: &View, peer: InboundPeer<'_>, port: u16) -> InboundDecision {
    let mut reasons = Vec::new();
    let outcome = inbound(view, peer, port, &mut reasons);
    if let Err(denial) = outcome {
        reasons.push(Reason::Denied { denial });
    }
    InboundDecision { revision: view.revision, outcome, reasons }
}

fn inbound(view: &View, peer: InboundPeer<'_>, port: u16, reasons: &mut Vec<Reason>) -> Result<WorkloadPort, Denial> {
    // Before the first view nothing is known, also not which ports must not be opened.
    let workload = view.workload.as_deref().ok_or(Denial::Draining)?;
    let port = workload.port(port).ok_or(Denial::UnknownPort)?;
    match (peer, workload.mtls) {
        (InboundPeer::Plain, MtlsMode::Strict) => return Err(Denial::MtlsRequired),
        (InboundPeer::Plain, MtlsMode::Permissive) => reasons.push(Reason::PermissivePlain),
        (InboundPeer::Mutual(_), _) => reasons.push(Reason::AllowedByDefault),
    }
    Ok(port.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::fixture::identity;
    use crate::model::{Labels, Protocol, Workload};
    use crate::names::Namespace;

    fn view(mtls: MtlsMode) -> View {
        let port = WorkloadPort {
            number: 9080,
            name: "http".into(),
            protocol: Protocol::Http,
            service_ports: BTreeSet::from([80]),
        };
        let workload = Workload {
            namespace: Namespace::new("default").unwrap(),
            name: "reviews-1".into(),
            service_account: "reviews".into(),
            labels: Labels::new(),
            ports: vec![port],
            mtls,
        };
        View { workload: Some(Arc::new(workload)), ..View::default() }
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
            let decision = authorize_inbound(&view(mode), peer, port);
            assert_eq!(decision.outcome.map(|port| port.number), expected, "{name}");
        }
        assert!(authorize_inbound(&View::default(), mutual, 9080).outcome.is_err(), "nothing is open before the view");
    }
}
