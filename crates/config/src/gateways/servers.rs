//! One server of a Gateway.

use std::sync::Arc;

use federation_crds::istio::gateway::{self, TlsMode};
use mesh::{HostPattern, Namespace, Origin, Server, ServerHost, ServerProtocol};

use super::{Context, Own, bind, tls};
use crate::compile::Compiled;

/// Compiles the server of this number, with the routes that are bound to it.
pub(super) fn compile(context: &Context<'_>, own: &Own<'_>, index: usize, compiled: &mut Compiled) -> Server {
    let server = &own.gateway.spec.servers[index];
    let path = format!("spec.servers[{index}]");
    let hosts: Vec<ServerHost> =
        server.hosts.iter().filter_map(|host| read_host(host, &own.origin.namespace)).collect();
    let gateway = own.name();
    let encrypted = is_encrypted(&server.port.protocol);
    let settings = server.tls.as_ref().filter(|_| encrypted);
    Server {
        origin: Origin { object: Arc::new(own.origin.clone()), path: path.clone(), name: server.name.clone() },
        protocol: protocol(server),
        routes: bind::routes(context, &gateway, &hosts),
        gateway,
        hosts,
        tls: settings.map(|settings| tls::compile(context, own, &format!("{path}.tls"), settings, compiled)),
        https_redirect: !encrypted && server.tls.as_ref().is_some_and(|tls| tls.https_redirect == Some(true)),
    }
}

/// `host` and `*/host` are for VirtualServices of every namespace, `./host` for those of the Gateway's.
fn read_host(text: &str, own: &str) -> Option<ServerHost> {
    let (namespace, host) = text.split_once('/').unwrap_or(("*", text));
    let namespace = match namespace {
        "*" => None,
        "." => Some(Namespace::new(own).ok()?),
        other => Some(Namespace::new(other).ok()?),
    };
    Some(ServerHost { namespace, host: host.parse::<HostPattern>().ok()? })
}

/// Whether clients begin with TLS.
fn is_encrypted(protocol: &str) -> bool {
    matches!(protocol.to_ascii_uppercase().as_str(), "HTTPS" | "TLS")
}

/// What is spoken behind TLS; what is passed through is bytes.
fn protocol(server: &gateway::Server) -> ServerProtocol {
    let mode = server.tls.as_ref().map(|tls| tls.mode);
    match server.port.protocol.to_ascii_uppercase().as_str() {
        "HTTPS" if matches!(mode, Some(TlsMode::Passthrough | TlsMode::AutoPassthrough)) => ServerProtocol::Tcp,
        "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" | "HTTPS" => ServerProtocol::Http,
        _ => ServerProtocol::Tcp,
    }
}
