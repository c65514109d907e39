//! What would be decided of a request that nobody sent.

use mesh::{
    AccessDecision, AccessRequest, ConnectionFacts, HttpRequest, InboundDecision, InboundPeer, Origin, SpiffeId,
};
use serde::Serialize;

use super::Inbound;
use crate::outbound::Question;

/// The decisions on one request; authorizers and buckets are not asked, and there is no token.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// Whether the port may be opened by this transport.
    pub transport: InboundDecision,
    /// What policies say, once it may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<AccessDecision>,
    /// Limits that would count it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Origin>,
}

impl Inbound {
    /// Decides on the newest view as if `peer` asked, in plain text without one.
    pub fn explain(&self, peer: Option<&SpiffeId>, port: u16, question: &Question) -> Explanation {
        let view = self.0.config.directory.view();
        let transport = mesh::authorize_inbound(&view, peer.map_or(InboundPeer::Plain, InboundPeer::Mutual), port);
        let (Some(workload), Ok(admitted)) = (&view.workload, &transport.outcome) else {
            return Explanation { transport, access: None, limits: Vec::new() };
        };
        let http = HttpRequest {
            method: &question.method,
            scheme: "http",
            authority: &question.host,
            path_and_query: &question.path,
            headers: &question.headers,
        };
        let opaque = matches!(admitted.protocol, mesh::Protocol::Tcp | mesh::Protocol::TcpServerFirst);
        let request = AccessRequest {
            peer,
            port: admitted.number,
            http: (!opaque).then_some(&http),
            claims: None,
            connection: ConnectionFacts::default(),
        };
        let policy = &workload.config.inbound;
        let access = Some(mesh::authorize(policy, &request));
        let limits = mesh::limits(policy, &request).into_iter().map(|applied| applied.limit.origin.clone()).collect();
        Explanation { transport, access, limits }
    }
}
