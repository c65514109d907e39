//! Connections for flows of opaque bytes: to sidecars, through gateways, to servers without either.

use std::any::Any;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use mesh::{Outcome, Protocol, RouteDecision, RouteOutcome, Target};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::arrival::Way;
use super::attempt::{Attempts, Chosen, Repeatable, refused};
use super::exchange::{Origin, Server, unmeshed_end};
use super::limits::Permit;
use super::{Engine, remote_key};
use crate::access::{OpenRecord, Party, Record};
use crate::beside::Datagrams;
use crate::body::{Body, chain};
use crate::fault::Fault;
use crate::hbone::{H2Io, Outer, Settings};
use crate::metrics::Happening;
use crate::pool::dial::{self, LocalKey};
use crate::pool::origin::{self, OriginIo, To};
use crate::upgrade::{self, Upgrade};

/// An open connection to a server, over which nothing has gone yet.
pub(super) enum Upstream {
    Tunnel(H2Io),
    Origin(OriginIo),
    /// The datagrams of a server without a sidecar, as capsules.
    Direct(DuplexStream),
    /// The end of a flow of datagrams, and they themselves.
    Beside(H2Io, Box<Datagrams>),
}

impl Upstream {
    /// Dropping it from now on resets it. An HTTP/2 stream that is dropped before its end always is.
    pub(super) fn abort(&self) {
        if let Self::Origin(io) = self {
            io.abort();
        }
    }

    /// Carries an upgrade.
    pub(super) async fn upgrade(self, upgrade: Upgrade) -> Result<Response<Body>, (Fault, OpenRecord)> {
        match self {
            Self::Tunnel(io) => upgrade::carry(io, upgrade).await,
            Self::Origin(io) => upgrade::carry(io, upgrade).await,
            Self::Direct(io) => upgrade::carry(io, upgrade).await,
            Self::Beside(io, _) => upgrade::carry(io, upgrade).await,
        }
    }
}

impl AsyncRead for Upstream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tunnel(io) => Pin::new(io).poll_read(cx, buf),
            Self::Origin(io) => Pin::new(io).poll_read(cx, buf),
            Self::Direct(io) => Pin::new(io).poll_read(cx, buf),
            Self::Beside(io, _) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Upstream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tunnel(io) => Pin::new(io).poll_write(cx, buf),
            Self::Origin(io) => Pin::new(io).poll_write(cx, buf),
            Self::Direct(io) => Pin::new(io).poll_write(cx, buf),
            Self::Beside(io, _) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tunnel(io) => Pin::new(io).poll_flush(cx),
            Self::Origin(io) => Pin::new(io).poll_flush(cx),
            Self::Direct(io) => Pin::new(io).poll_flush(cx),
            Self::Beside(io, _) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tunnel(io) => Pin::new(io).poll_shutdown(cx),
            Self::Origin(io) => Pin::new(io).poll_shutdown(cx),
            Self::Direct(io) => Pin::new(io).poll_shutdown(cx),
            Self::Beside(io, _) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

pub(super) struct Connected {
    pub(super) upstream: Upstream,
    pub(super) server: Server,
    /// Leases of the connections below.
    pub(super) hold: Box<dyn Any + Send>,
}

/// A connection that a decision led to.
pub(super) struct Established {
    pub(super) connected: Connected,
    /// Keeps the target counted as busy.
    pub(super) chosen: Option<Chosen>,
    /// What the destination's limits admitted.
    pub(super) permit: Option<Permit>,
    pub(super) attempts: u32,
}

impl Engine {
    /// Connects to what a decision allows, or to what the client named when it is outside the mesh.
    pub(super) async fn establish(
        &self,
        decision: &RouteDecision,
        host: &str,
        way: &Way,
    ) -> Result<Established, Fault> {
        match &decision.outcome {
            RouteOutcome::Refuse | RouteOutcome::Redirect { .. } | RouteOutcome::Direct => Err(refused(decision)),
            RouteOutcome::Passthrough => {
                let permit = self.destinations.of(decision).gate.connect(&decision.policy.pool)?;
                let addresses = self.names.addresses(&*self.config.resolver, host, decision.port, false).await?;
                let origin = Origin { host, addresses, party: Party::default() };
                let connected = self.connect_origin(decision, origin, way).await?;
                Ok(Established { connected, chosen: None, permit: Some(permit), attempts: 1 })
            }
            RouteOutcome::Forward { .. } => self.connect(decision, host, way).await,
        }
    }

    /// Connects to the first address of a server without a sidecar that takes the connection.
    async fn connect_origin(
        &self,
        decision: &RouteDecision,
        origin: Origin<'_>,
        way: &Way,
    ) -> Result<Connected, Fault> {
        if way.facts().udp {
            return self.udp_origin(decision, origin).await;
        }
        let Origin { host, addresses, party } = origin;
        let view = self.config.directory.view();
        let mut failed = None;
        for address in addresses {
            let to = To {
                address,
                host,
                policy: &decision.policy,
                source: way.source(),
                timeout: decision.connect_timeout,
                alpn: &[],
            };
            match origin::connect(self.direct.opener(), &view, &to).await {
                Ok(io) => {
                    let io = match &decision.policy.tunnel {
                        Some(settings) => origin::tunnel(io, settings, decision.connect_timeout).await?,
                        None => io,
                    };
                    let server = Server { party, upstream: address.to_string(), ..Server::default() };
                    return Ok(Connected { upstream: Upstream::Origin(io), server, hold: Box::new(()) });
                }
                Err(fault) => failed.get_or_insert(fault),
            };
        }
        Err(failed.unwrap_or_else(|| Fault::connect(format!("{host} has no address"))))
    }

    async fn connect(&self, decision: &RouteDecision, host: &str, way: &Way) -> Result<Established, Fault> {
        let mut attempts = Attempts::new(self, decision);
        let permit = attempts.destination.gate.connect(&decision.policy.pool).inspect_err(|_| {
            attempts.count(Happening::Overflow);
        })?;
        loop {
            let Some(chosen) = attempts.next() else { return Err(attempts.none_left()) };
            let connecting = Box::pin(self.connect_to(decision, &chosen.target, host, way));
            match attempts.patiently(connecting).await {
                Ok(connected) => {
                    attempts.succeeded(&chosen, Outcome::Connected);
                    let (chosen, permit) = (Some(chosen), Some(permit));
                    return Ok(Established { connected, chosen, permit, attempts: attempts.made });
                }
                Err(fault) => {
                    tracing::debug!(%fault, attempt = attempts.made, "an attempt to connect failed");
                    attempts.failed(&chosen, &fault);
                    // Nothing was sent, so everything can be sent again.
                    let repeatable = Repeatable { idempotent: true, replayable: true };
                    if attempts.again(chosen, &fault, repeatable).await.is_err() {
                        return Err(fault);
                    }
                }
            }
        }
    }

    async fn connect_to(
        &self,
        decision: &RouteDecision,
        target: &Target,
        named: &str,
        way: &Way,
    ) -> Result<Connected, Fault> {
        match target {
            Target::Local { endpoint, address, expected: Some(expected), .. } => {
                let key = LocalKey::of(*address, expected);
                let lease = self.opaque.get(&key, || self.dial_opaque(decision, &key)).await?;
                let io = open_flow(&lease, &address.ip().to_string(), address.port(), decision).await?;
                let party = self.server(decision, target, endpoint, Some(expected));
                let upstream = key.address.to_string();
                let server = Server { party, upstream, mutual_tls: true, ..Server::default() };
                Ok(Connected { upstream: Upstream::Tunnel(io), server, hold: Box::new(lease) })
            }
            Target::Local { endpoint, address, expected: None, .. } => {
                let party = self.server(decision, target, endpoint, None);
                let origin = Origin { host: named, addresses: vec![*address], party };
                self.connect_origin(decision, origin, way).await
            }
            Target::Named { host, port, one_address, .. } => {
                let addresses = self.names.addresses(&*self.config.resolver, host, *port, *one_address).await?;
                let origin = Origin { host, addresses, party: self.server(decision, target, host, None) };
                self.connect_origin(decision, origin, way).await
            }
            Target::Remote { expected, .. } => {
                let key = remote_key(decision, target).ok_or_else(|| Fault::connect("no service"))?;
                let remote = self.remotes.flow(&key, expected, decision.connect_timeout).await?;
                let host = key.service.clusterset_host();
                let authority = format!("{host}:{}", key.port);
                let opening = async {
                    let outer = Outer::handshake(remote.io, &Settings::default().across_clusters())
                        .await
                        .map_err(|error| Fault::connect(chain(&error)))?;
                    let io = open_flow(&outer, &host, key.port, decision).await?;
                    Ok((outer, io))
                };
                let (outer, io) = tokio::select! {
                    opened = opening => opened?,
                    // Nothing of the client has left yet.
                    () = remote.lost.cancelled() => return Err(dial::way_lost(&authority)),
                };
                let expiry = end_with_identity(self, &outer, remote.peer.clone());
                let party = self.server(decision, target, &remote.endpoint, Some(&remote.peer.id));
                let unmeshed = unmeshed_end(target, Some(&remote.via));
                let server = Server { party, upstream: authority, via: Some(remote.via), mutual_tls: true, unmeshed };
                let upstream = match remote.datagrams {
                    Some(datagrams) => Upstream::Beside(io, Box::new(datagrams)),
                    None => Upstream::Tunnel(io),
                };
                Ok(Connected { upstream, server, hold: Box::new((outer, remote.hold, expiry)) })
            }
        }
    }

    async fn dial_opaque(&self, decision: &RouteDecision, key: &LocalKey) -> Result<Outer, Fault> {
        let keep_alive = decision.policy.pool.keep_alive.as_ref();
        let credentials = &self.config.credentials;
        let (io, peer) =
            dial::local(self.config.dialer, credentials, key, decision.connect_timeout, keep_alive).await?;
        let outer = Outer::handshake(io, &flow_settings()).await.map_err(|error| Fault::connect(chain(&error)))?;
        let (credentials, watched) = (self.config.credentials.clone(), outer.clone());
        let ended = self.config.life.ended.clone();
        tokio::spawn(async move {
            // Looks now and then whether the connection is still there, so that neither outlives the other.
            let gone = async {
                while watched.is_usable() || watched.active_streams() > 0 {
                    tokio::time::sleep(super::SWEEP).await;
                }
            };
            let retire = async {
                credentials.aging(&peer).await;
                watched.retire();
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = retire => {}
                () = gone => {}
                () = ended.cancelled() => {}
                _ = credentials.expiry(&peer) => {
                    tokio::time::sleep(crate::pool::http::END_GRACE).await;
                    watched.abort();
                }
            }
        });
        Ok(outer)
    }
}

/// Takes over who the server is.
pub(super) fn note_server(record: &mut Record, server: Server) {
    record.destination = server.party;
    record.upstream = server.upstream;
    record.gateways = server.via;
    record.server = server.unmeshed;
    record.mutual_tls = server.mutual_tls;
}

/// Opens a flow and waits until the server's side is connected: only then may bytes of the client be lost to a retry.
async fn open_flow(outer: &Outer, host: &str, port: u16, decision: &RouteDecision) -> Result<H2Io, Fault> {
    // An IPv6 address stands in brackets.
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let authority = format!("{host}:{port}");
    let connecting = match decision.protocol {
        Protocol::Udp => outer.connect_udp(&host, port).await,
        _ => outer.connect(&authority, Vec::new()).await,
    };
    let connecting = connecting.map_err(|error| Fault::from_request(&error, &authority))?;
    match tokio::time::timeout(decision.connect_timeout, connecting.answer).await {
        Ok(Ok(_)) => Ok(connecting.io),
        Ok(Err(error)) => Err(Fault::from_connect(&error, &authority)),
        Err(_) => Err(Fault::connect_timeout(&authority)),
    }
}

/// Aborts a connection that carries one flow when its peer's identity runs out.
fn end_with_identity(
    engine: &Engine,
    outer: &Outer,
    peer: identity::PeerIdentity,
) -> tokio_util::task::AbortOnDropHandle<()> {
    let (credentials, outer) = (engine.config.credentials.clone(), outer.clone());
    tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        credentials.expiry(&peer).await;
        tokio::time::sleep(crate::pool::http::END_GRACE).await;
        outer.abort();
    }))
}

/// Opaque flows share a connection, so one slow reader must not stall the others.
fn flow_settings() -> Settings {
    Settings { stream_window: 256 * 1024, connection_window: 4 << 20, ..Settings::default() }
}
