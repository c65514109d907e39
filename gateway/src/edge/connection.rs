//! One connection at a port of a Gateway: whether TLS ends here, and what is spoken inside.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use identity::{PeerIdentity, peer_identity};
use mesh::{HostPattern, Listener, Server, ServerProtocol, ServerTlsMode, View};
use proxy::detect::Rewind;
use proxy::guard::{ConnectionAdmission, Facts};
use proxy::listen::{Accepted, Lifecycle, in_turn};
use proxy::outbound::{Arrival, Captured, Judged};
use proxy::tls::{Hello, client_cert_header, read_hello};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Edge, proof};

/// What is under way may take this long once a peer's identity has run out (a connection must be closed within 5 s).
const EXPIRED_GRACE: Duration = Duration::from_secs(3);

/// What is known of a connection.
#[derive(Clone)]
pub(super) struct Link {
    /// The port, as Gateways name it.
    pub(super) port: u16,
    pub(super) source: SocketAddr,
    pub(super) destination_ip: Option<IpAddr>,
    pub(super) sni: Option<Arc<str>>,
    pub(super) scheme: &'static str,
    /// Proven by mTLS of the mesh.
    pub(super) peer: Option<Arc<PeerIdentity>>,
    /// What to say of a certificate that is not the mesh's.
    pub(super) certificate: Option<HeaderValue>,
    /// Whose TLS ended here, as it was then.
    pub(super) server: Option<Arc<Server>>,
}

impl Link {
    pub(super) fn arrival(&self, remote_ip: Option<IpAddr>, judged: Judged) -> Arrival {
        Arrival {
            port: self.port,
            source: self.source,
            remote_ip,
            destination_ip: self.destination_ip,
            sni: self.sni.clone(),
            scheme: self.scheme,
            peer: self.peer.clone(),
            judged,
            claims: None,
        }
    }

    pub(super) fn facts(&self, remote_ip: Option<IpAddr>) -> Facts {
        Facts {
            peer: self.peer.clone(),
            port: self.port,
            source: Some(self.source),
            remote_ip,
            destination_ip: self.destination_ip,
            sni: self.sni.clone(),
            scheme: self.scheme,
        }
    }
}

/// The listener of a port, as the view says it now.
pub(super) fn listener(view: &View, port: u16) -> Option<&Listener> {
    view.workload.as_ref()?.config.gateway.as_ref()?.listener(port)
}

impl Edge {
    /// Serves a connection of a listener until it ends.
    pub(super) async fn accepted(self: Arc<Self>, accepted: Accepted, port: u16, life: Lifecycle) {
        let Accepted { stream, peer: source, permit } = accepted;
        let link = Link {
            port,
            source,
            destination_ip: stream.local_addr().ok().map(|address| address.ip()),
            sni: None,
            scheme: "http",
            peer: None,
            certificate: None,
            server: None,
        };
        Box::pin(self.stream(stream, link, &life)).await;
        drop(permit);
    }

    /// Serves a stream that speaks what a client at the port speaks, TLS included.
    pub(super) async fn stream<T: Captured>(self: Arc<Self>, mut io: T, link: Link, life: &Lifecycle) {
        let view = self.view();
        let Some(listener) = listener(&view, link.port) else { return };
        if listener.servers.iter().all(|server| server.tls.is_none()) {
            let protocol = listener.servers.first().map_or(ServerProtocol::Tcp, |server| server.protocol);
            return self.inside(io, protocol, link, life).await;
        }
        let hello = match tokio::time::timeout(self.limits.handshake_timeout, read_hello(&mut io)).await {
            Ok(Ok(hello)) => hello,
            Ok(Err(error)) => {
                tracing::debug!(port = link.port, client = %link.source, %error, "no ClientHello");
                return self.refuse_tls(link.port, "not_tls");
            }
            Err(_) => return self.refuse_tls(link.port, "not_tls"),
        };
        let Some(server) = chosen(listener, hello.sni.as_deref()) else {
            let sni = hello.sni.as_deref().unwrap_or("none");
            tracing::info!(port = link.port, client = %link.source, sni, "no server has this name");
            return self.refuse_tls(link.port, "no_server");
        };
        let link = Link { sni: hello.sni.as_deref().map(Arc::from), ..link };
        let Some(tls) = &server.tls else { return };
        let io = Rewind::new(hello.first.clone(), io);
        match tls.mode {
            ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => self.opaque(io, link).await,
            _ => {
                let config = match self.tls.select(tls, &view, protocols(server, &hello)) {
                    Ok(config) => config,
                    Err(error) => {
                        let gateway = &server.gateway;
                        tracing::warn!(port = link.port, gateway, %error, "a handshake is refused");
                        return self.refuse_tls(link.port, "no_certificate");
                    }
                };
                let Some((stream, link)) = self.shake(TlsAcceptor::from(config), io, server, link).await else {
                    return;
                };
                self.inside_while_proven(stream, server.protocol, link, life).await;
            }
        }
    }

    /// Ends TLS. Every refusal says whose certificate or which client it was about.
    async fn shake<T: Captured>(
        &self,
        acceptor: TlsAcceptor,
        io: Rewind<T>,
        server: &Arc<Server>,
        mut link: Link,
    ) -> Option<(TlsStream<Rewind<T>>, Link)> {
        let tls = server.tls.as_ref()?;
        let handshake = tokio::time::timeout(self.limits.handshake_timeout, acceptor.accept(io));
        let stream = match in_turn(&self.handshakes, handshake).await? {
            Ok(Ok(stream)) => stream,
            outcome => {
                let error = match outcome {
                    Ok(Err(error)) => error.to_string(),
                    _ => "the handshake took too long".to_owned(),
                };
                tracing::info!(port = link.port, client = %link.source, gateway = server.gateway, error, "no TLS");
                self.refuse_tls(link.port, "handshake");
                return None;
            }
        };
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        if tls.mode == ServerTlsMode::IstioMutual {
            let peer = peer_identity(chain).ok()?;
            if !proof::admits(tls, &peer) {
                tracing::info!(port = link.port, peer = %peer.id, gateway = server.gateway, "a peer may not come in");
                self.refuse_tls(link.port, "handshake");
                return None;
            }
            link.peer = Some(Arc::new(peer));
        } else if let Some(leaf) = chain.first() {
            link.certificate = HeaderValue::from_str(&client_cert_header(leaf)).ok();
        }
        link.scheme = "https";
        link.server = Some(server.clone());
        Some((stream, link))
    }

    /// Serves what is inside TLS, for a peer of the mesh only as long as its identity is good.
    async fn inside_while_proven<T: Captured>(
        self: &Arc<Self>,
        io: T,
        protocol: ServerProtocol,
        link: Link,
        life: &Lifecycle,
    ) {
        let Some(peer) = link.peer.clone() else { return self.inside(io, protocol, link, life).await };
        let own = Lifecycle::new(life.draining.child_token(), life.ended.child_token());
        let serving = self.inside(io, protocol, link, &own);
        tokio::pin!(serving);
        tokio::select! {
            () = serving.as_mut() => {}
            reason = self.credentials.expiry(&peer) => {
                tracing::info!(peer = %peer.id, ?reason, "a connection must end");
                own.draining.cancel();
                let _ = tokio::time::timeout(EXPIRED_GRACE, serving).await;
            }
        }
    }

    /// Serves what is inside TLS, or plain text.
    pub(super) async fn inside<T: Captured>(
        self: &Arc<Self>,
        io: T,
        protocol: ServerProtocol,
        link: Link,
        life: &Lifecycle,
    ) {
        match protocol {
            ServerProtocol::Http => self.http(io, link, life).await,
            ServerProtocol::Tcp => self.opaque(io, link).await,
        }
    }

    /// Carries bytes.
    async fn opaque<T: Captured>(&self, io: T, link: Link) {
        let view = self.view();
        let Some(workload) = &view.workload else { return };
        let admitted = self.guard.admit_connection(&workload.config.inbound, &link.facts(None)).await;
        match admitted {
            Ok(ConnectionAdmission { reasons, audit }) => {
                let arrival = link.arrival(None, Judged { reasons, audit });
                self.outbound.gateway_stream(io, arrival).await;
            }
            Err(refusal) => {
                io.abort();
                drop(io);
                self.record_refused_connection(&link, &refusal);
            }
        }
    }
}

/// The server whose hosts have the name, most specific host first; without a name one for any host.
pub(super) fn chosen<'a>(listener: &'a Listener, sni: Option<&str>) -> Option<&'a Arc<Server>> {
    let matches = |host: &HostPattern| sni.map_or(host.as_str() == "*", |name| host.matches(name));
    let best = |server: &Arc<Server>| {
        let hosts = server.hosts.iter().map(|own| &own.host).filter(|host| matches(host));
        hosts.map(HostPattern::specificity).max()
    };
    let encrypted = listener.servers.iter().filter(|server| server.tls.is_some());
    let ranked = encrypted.filter_map(|server| Some((best(server)?, server)));
    // Of equal ones the first, which is the older.
    ranked.rev().max_by_key(|(rank, _)| *rank).map(|(_, server)| server)
}

/// What is offered. A client that speaks none of it is served without a choice, as Envoy does, instead of being refused.
fn protocols(server: &Server, hello: &Hello) -> &'static [&'static [u8]] {
    const HTTP: [&[u8]; 2] = [b"h2", b"http/1.1"];
    let spoken = hello.alpn.iter().any(|name| HTTP.contains(&name.as_slice()));
    if server.protocol == ServerProtocol::Http && spoken { &HTTP } else { &[] }
}
