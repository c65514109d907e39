//! A request as rules look at it: derived texts are made once, not once a rule.

use std::net::IpAddr;

use crate::request::{Claims, HttpRequest};

use super::AccessRequest;

/// What rules compare with.
pub(super) struct Subject<'a> {
    /// Who it is, as rules write it.
    pub(super) identity: Option<Identity<'a>>,
    pub(super) port: u16,
    pub(super) http: Option<Http<'a>>,
    pub(super) claims: Option<&'a Claims>,
    pub(super) source_ip: Option<IpAddr>,
    pub(super) remote_ip: Option<IpAddr>,
    pub(super) destination_ip: Option<IpAddr>,
    pub(super) sni: Option<&'a str>,
}

pub(super) struct Identity<'a> {
    /// `<trust domain>/ns/<namespace>/sa/<account>`.
    pub(super) principal: String,
    pub(super) trust_domain: &'a str,
    pub(super) namespace: &'a str,
    /// `<namespace>/<account>`.
    pub(super) service_account: String,
}

pub(super) struct Http<'a> {
    pub(super) request: &'a HttpRequest<'a>,
    /// The authority in lower case, as it is and without its port.
    pub(super) hosts: [String; 2],
    /// The path without its query; the one that is carried on (`crate::normalize_path`).
    pub(super) path: &'a str,
}

impl<'a> Subject<'a> {
    pub(super) fn of(request: &AccessRequest<'a>) -> Self {
        let connection = &request.connection;
        let identity = request.peer.map(|peer| {
            let namespace = peer.namespace().as_str();
            Identity {
                principal: format!("{}/ns/{namespace}/sa/{}", peer.trust_domain(), peer.account()),
                trust_domain: peer.trust_domain().as_str(),
                namespace,
                service_account: format!("{namespace}/{}", peer.account()),
            }
        });
        let http = request.http.map(|http| Http {
            request: http,
            hosts: [http.authority.to_ascii_lowercase(), http.host()],
            path: http.path(),
        });
        // Rules write IPv4, also where the socket speaks IPv6.
        let canonical = |ip: Option<IpAddr>| ip.map(|ip| ip.to_canonical());
        Self {
            identity,
            port: request.port,
            http,
            claims: request.claims,
            source_ip: canonical(connection.source_ip),
            remote_ip: canonical(connection.remote_ip.or(connection.source_ip)),
            destination_ip: canonical(connection.destination_ip),
            sni: connection.sni,
        }
    }

    /// The header as rules compare it; pseudo headers included, as Envoy has them.
    pub(super) fn header(&self, name: &str) -> Option<String> {
        let request = self.http.as_ref()?.request;
        match name {
            ":method" => Some(request.method.to_owned()),
            ":path" => Some(request.path_and_query.to_owned()),
            ":authority" | "host" => Some(request.authority.to_owned()),
            ":scheme" => Some(request.scheme.to_owned()),
            _ => request.header(name),
        }
    }
}
