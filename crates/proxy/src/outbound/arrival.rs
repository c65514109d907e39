//! How a request or a flow came in: from the workload beside the proxy, or at a listener of a gateway.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::HeaderMap;
use http::uri::Authority;
use identity::PeerIdentity;
use mesh::{Claims, ConnectionFacts, Entry, HttpRequest, Reason, RouteDecision};
use serde::Serialize;

use crate::access::Record;

/// What a gateway knows of a connection that it accepted.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The port of the gateway's listener, as its servers name it.
    pub port: u16,
    /// Who dialled.
    pub source: SocketAddr,
    /// The client behind trusted hops, when another one than dialled.
    pub remote_ip: Option<IpAddr>,
    /// What was dialled.
    pub destination_ip: Option<IpAddr>,
    /// The name in the ClientHello.
    pub sni: Option<Arc<str>>,
    /// `http` or `https`, as the client sees it.
    pub scheme: &'static str,
    /// Who the client proved to be.
    pub peer: Option<Arc<PeerIdentity>>,
    /// What the request's verified token says.
    pub claims: Option<Arc<Claims>>,
    /// What the gateway's own policies said before; for the record.
    pub judged: Judged,
}

/// What the policies of a gateway said of something that they let in.
#[derive(Debug, Clone, Default)]
pub struct Judged {
    /// Which of them decided.
    pub reasons: Vec<Reason>,
    /// An AUDIT policy matched.
    pub audit: bool,
}

/// What is asked of [`super::Outbound::explain`].
#[derive(Debug, Clone)]
pub struct Question {
    /// The host, as a client names it.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The name in the ClientHello, of a connection that speaks TLS.
    pub sni: Option<String>,
}

impl Question {
    /// As decisions see it.
    pub(crate) fn http<'a>(&'a self, scheme: &'a str) -> HttpRequest<'a> {
        HttpRequest {
            method: &self.method,
            scheme,
            authority: &self.host,
            path_and_query: &self.path,
            headers: &self.headers,
        }
    }
}

/// One endpoint (or remote group) that the proxy has to do with, for the debug pages.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct EndpointRow {
    /// The service, with its subset and port: `default/reviews v1 9080`.
    pub service: String,
    /// Its address, or cluster and group.
    pub endpoint: String,
    /// Requests and connections under way.
    pub active: u32,
    /// Kept out by outlier detection right now.
    pub ejected: bool,
    /// How often it was ejected.
    pub ejections: u32,
    /// Set aside for a moment because it could not be connected to.
    pub aside: bool,
}

/// Where a captured connection was going, and who opened it.
#[derive(Debug, Clone)]
pub struct Dialled {
    /// A name or an address. Requests go there, whatever host they name, unless it is an address that nobody knows.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The workload.
    pub source: Option<SocketAddr>,
    /// The kernel handed the connection over, and the application knows of no proxy: a request goes to the host that it
    /// names, if the mesh knows it, as with Istio's listeners for HTTP.
    pub transparent: bool,
    /// A flow of UDP datagrams.
    pub udp: bool,
}

impl Dialled {
    fn facts<'a>(&self, sni: Option<&'a str>) -> ConnectionFacts<'a> {
        let (source_ip, destination_ip) = (self.source.map(|source| source.ip()), self.host.parse().ok());
        ConnectionFacts { source_ip, remote_ip: None, destination_ip, sni, udp: self.udp }
    }
}

/// The way by which something came in.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// A request that names its host itself: of the workload that dialled, or of the proxy.
    Asked(Option<SocketAddr>),
    /// On a captured connection.
    Captured(Arc<Dialled>),
    /// Captured transparently, or on the way to an address that the mesh does not know: what a request names goes before
    /// it, as with Istio's listeners for HTTP, which look at nothing but the port.
    Addressed(Arc<Dialled>),
    /// Captured, with TLS inside that names its server.
    Named(Arc<Dialled>, Arc<str>),
    /// At a gateway.
    Gateway(Arc<Arrival>),
}

impl Way {
    pub(super) fn entry(&self) -> Entry {
        match self {
            Self::Gateway(arrival) => Entry::Gateway(arrival.port),
            _ => Entry::Workload,
        }
    }

    pub(super) fn scheme(&self) -> &'static str {
        match self {
            Self::Gateway(arrival) => arrival.scheme,
            _ => "http",
        }
    }

    pub(super) fn dialled(&self) -> Option<&Dialled> {
        match self {
            Self::Captured(dialled) | Self::Addressed(dialled) | Self::Named(dialled, _) => Some(dialled),
            _ => None,
        }
    }

    /// The host and the port that a request with this authority is for.
    pub(super) fn target<'a>(&'a self, authority: &'a Authority) -> (&'a str, u16) {
        match self {
            Self::Asked(_) => (authority.host(), authority.port_u16().unwrap_or(80)),
            Self::Addressed(dialled) => (authority.host(), dialled.port),
            Self::Captured(dialled) | Self::Named(dialled, _) => (&dialled.host, dialled.port),
            Self::Gateway(arrival) => (authority.host(), arrival.port),
        }
    }

    /// The host of a flow, as it was named: dialled, or in the ClientHello, or an address.
    pub(super) fn named(&self) -> String {
        match self {
            Self::Asked(_) => String::new(),
            Self::Captured(dialled) | Self::Addressed(dialled) | Self::Named(dialled, _) => dialled.host.clone(),
            Self::Gateway(arrival) => {
                let name = arrival.sni.as_deref().map(str::to_owned);
                name.or_else(|| arrival.destination_ip.map(|ip| ip.to_string())).unwrap_or_default()
            }
        }
    }

    /// The port of a flow.
    pub(super) fn port(&self) -> u16 {
        match self {
            Self::Asked(_) => 0,
            Self::Captured(dialled) | Self::Addressed(dialled) | Self::Named(dialled, _) => dialled.port,
            Self::Gateway(arrival) => arrival.port,
        }
    }

    /// Who the client proved to be, at a gateway.
    pub(super) fn peer(&self) -> Option<&PeerIdentity> {
        match self {
            Self::Gateway(arrival) => arrival.peer.as_deref(),
            _ => None,
        }
    }

    /// What the request's verified token says; sidecars route before anybody looks at tokens.
    pub(super) fn claims(&self) -> Option<&Claims> {
        match self {
            Self::Gateway(arrival) => arrival.claims.as_deref(),
            _ => None,
        }
    }

    /// Takes over what was decided: by a gateway's own policies, and where it goes.
    pub(super) fn decided(&self, record: &mut Record, decision: &RouteDecision) {
        record.decided(decision);
        if let Self::Gateway(arrival) = self {
            record.audit = arrival.judged.audit;
            let of_policies = arrival.judged.reasons.iter().filter(|reason| **reason != Reason::AllowedByDefault);
            record.reasons = of_policies.chain(&decision.reasons).cloned().collect();
        }
    }

    pub(super) fn facts(&self) -> ConnectionFacts<'_> {
        match self {
            Self::Asked(source) => {
                ConnectionFacts { source_ip: source.map(|source| source.ip()), ..ConnectionFacts::default() }
            }
            Self::Captured(dialled) | Self::Addressed(dialled) => dialled.facts(None),
            Self::Named(dialled, sni) => dialled.facts(Some(sni)),
            Self::Gateway(arrival) => ConnectionFacts {
                source_ip: Some(arrival.source.ip()),
                remote_ip: arrival.remote_ip.or(Some(arrival.source.ip())),
                destination_ip: arrival.destination_ip,
                sni: arrival.sni.as_deref(),
                udp: false,
            },
        }
    }

    /// Who dialled, for the PROXY protocol.
    pub(super) fn source(&self) -> Option<SocketAddr> {
        match self {
            Self::Asked(source) => *source,
            Self::Captured(dialled) | Self::Addressed(dialled) | Self::Named(dialled, _) => dialled.source,
            Self::Gateway(arrival) => Some(arrival.source),
        }
    }
}
