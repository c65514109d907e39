//! What an ingress or egress gateway runs: Gateway servers and the VirtualServices bound to them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{HostPattern, HostRoutes, Origin, TlsMaterial};
use crate::names::Namespace;

/// All listeners of one gateway workload.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// By port, without two of the same number.
    pub listeners: Vec<Listener>,
}

impl GatewayConfig {
    /// The listener whose service port this is.
    pub fn listener(&self, port: u16) -> Option<&Listener> {
        self.listeners.iter().find(|listener| listener.port == port)
    }
}

/// One port that the gateway listens on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// `servers[].port.number`: what rules and clients name.
    pub port: u16,
    /// The port that the process binds: the target of the gateway's Service for [`Self::port`].
    pub target_port: u16,
    /// An address to bind instead of the gateway's own (`bind`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind: Option<std::net::IpAddr>,
    /// Servers that share the port, most specific hosts first.
    pub servers: Vec<Arc<Server>>,
}

/// One `servers[]` entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Where it comes from; its object is what VirtualServices name.
    pub origin: Origin,
    /// `<namespace>/<gateway>`.
    pub gateway: String,
    /// What it speaks after TLS.
    pub protocol: ServerProtocol,
    /// Hosts that it serves.
    pub hosts: Vec<ServerHost>,
    /// How TLS ends here; `None`: plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ServerTls>,
    /// Requests in plain text are sent to `https`.
    #[serde(default)]
    pub https_redirect: bool,
    /// Routes bound to this server, by host, in order of precedence (exact hosts first, then longer wildcards).
    #[serde(default)]
    pub routes: Vec<VirtualHost>,
}

/// `<namespace>/<host>` of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerHost {
    /// Namespaces whose VirtualServices may bind; `None` = every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// The host, or a wildcard.
    pub host: HostPattern,
}

/// The routes of one host of a server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VirtualHost {
    /// The intersection of the server's and the VirtualService's host.
    pub host: HostPattern,
    /// Its routes.
    pub routes: Arc<HostRoutes>,
}

/// What a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerProtocol {
    /// HTTP/1.1 and HTTP/2 (HTTP, HTTP2, GRPC, HTTPS).
    Http,
    /// Bytes (TCP, TLS, MONGO, MYSQL …).
    Tcp,
}

/// TLS of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerTls {
    /// What happens to it.
    pub mode: ServerTlsMode,
    /// Certificates, several for several key types; empty for passthrough and the mesh's own.
    #[serde(default)]
    pub certificates: Vec<TlsMaterial>,
    /// Where the roots for client certificates come from, if not from the certificate's own material.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<TlsMaterial>,
    /// Names of which a client certificate must have one; empty = any.
    #[serde(default)]
    pub subject_alt_names: Vec<String>,
    /// SHA-256 of allowed client certificates (hex, lower case) or of their SPKI (base64); empty = any.
    #[serde(default)]
    pub certificate_hashes: Vec<String>,
    /// As above, of the public key.
    #[serde(default)]
    pub spki_hashes: Vec<String>,
    /// 12 or 13.
    #[serde(default)]
    pub min_version: Option<TlsVersion>,
    /// 12 or 13.
    #[serde(default)]
    pub max_version: Option<TlsVersion>,
    /// TLS 1.2 suites by OpenSSL or IANA name, as written; empty = all that are safe.
    #[serde(default)]
    pub cipher_suites: Vec<String>,
}

/// TLS versions that exist here. 1.0 and 1.1 (RFC 8996: must not be used) do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TlsVersion {
    /// RFC 5246.
    #[serde(rename = "1.2")]
    V12,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    V13,
}

/// `tls.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerTlsMode {
    /// Carried as it is, routed by SNI.
    Passthrough,
    /// Passed through to the service that the SNI names (`AUTO_PASSTHROUGH`).
    AutoPassthrough,
    /// Ends here.
    Simple,
    /// Ends here; clients show a certificate.
    Mutual,
    /// Ends here; clients may show a certificate.
    OptionalMutual,
    /// The mesh's own mTLS.
    IstioMutual,
}
