//! One captured stream of the workload: HTTP inside is carried by request, everything else as it is.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use mesh::{Protocol, RouteDecision, RouteOutcome, Target};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::arrival::{Arrival, Dialled, Way};
use super::attempt::{Attempts, Chosen, Repeatable, Server, refused};
use super::{Engine, Outbound, remote_key};
use crate::access::{ClosedBy, Record, Reporter};
use crate::body::{self, chain};
use crate::copy::{CopyOutcome, abort_tcp, copy_reporting};
use crate::detect::{CLIENT_SILENCE, Rewind, Spoken, sniff};
use crate::fault::{Fault, flag};
use crate::hbone::{H2Io, Outer, Settings};
use crate::pool::dial::{self, LocalKey};
use crate::serve;

/// A connection on which nothing moves for this long is closed (Envoy's default for TCP).
pub(crate) const IDLE: Duration = Duration::from_secs(3600);

/// A stream that can be reset instead of ended cleanly, so that a reset on one side becomes one on the other.
pub trait Captured: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Dropping the stream from now on resets it.
    fn abort(&self);
}

impl Captured for TcpStream {
    fn abort(&self) {
        abort_tcp(self);
    }
}

impl<T: Captured> Captured for Rewind<T> {
    fn abort(&self) {
        self.get_ref().abort();
    }
}

/// Dropping an HTTP/2 stream before its end always resets it.
impl Captured for H2Io {
    fn abort(&self) {}
}

impl Outbound {
    /// Carries one stream to `host`:`port`, as the port's declared protocol says.
    pub async fn stream<T: Captured>(&self, mut io: T, host: String, port: u16) {
        let way = Way::Captured(Arc::new(Dialled { host: host.clone(), port }));
        let decision = self.0.decide_plain(&host, port, &way).await;
        let in_mesh = !matches!(decision.outcome, RouteOutcome::Passthrough);
        match decision.protocol {
            protocol if protocol.is_http() => Box::pin(self.http(io, way)).await,
            Protocol::Auto if in_mesh => match sniff(&mut io, CLIENT_SILENCE).await {
                Ok(sniffed) if sniffed.spoken != Spoken::Opaque => {
                    Box::pin(self.http(Rewind::new(sniffed.first, io), way)).await;
                }
                Ok(sniffed) => Box::pin(self.0.opaque(Rewind::new(sniffed.first, io), &decision, &way)).await,
                Err(error) => tracing::debug!(%error, "a captured connection failed"),
            },
            _ => Box::pin(self.0.opaque(io, &decision, &way)).await,
        }
    }

    /// Carries one opaque stream that arrived at a gateway, by its SNI if it has one.
    pub async fn gateway_stream<T: Captured>(&self, io: T, arrival: Arrival) {
        let host = arrival.sni.as_deref().map(str::to_owned);
        let host = host.or_else(|| arrival.destination_ip.map(|ip| ip.to_string())).unwrap_or_default();
        let port = arrival.port;
        let way = Way::Gateway(Arc::new(arrival));
        let decision = self.0.decide_plain(&host, port, &way).await;
        Box::pin(self.0.opaque(io, &decision, &way)).await;
    }

    async fn http<T: Captured>(&self, io: T, way: Way) {
        let engine = self.0.clone();
        serve::serve(io, &self.0.limits, &self.0.config.life, move |request| {
            let (engine, way) = (engine.clone(), way.clone());
            Box::pin(async move { engine.request(request.map(body::incoming), &way).await })
        })
        .await;
    }
}

/// An open connection to a server, over which nothing has gone yet.
pub(super) enum Upstream {
    Tunnel(H2Io),
    Plain(TcpStream),
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
    pub(super) attempts: u32,
}

impl Engine {
    /// Carries bytes both ways. Another target is tried only before the first byte was delivered.
    async fn opaque<T: Captured>(&self, io: T, decision: &RouteDecision, way: &Way) {
        let dialled = way
            .dialled()
            .cloned()
            .unwrap_or_else(|| Dialled { host: way.facts().sni.unwrap_or_default().to_owned(), port: decision.port });
        let authority = format!("{}:{}", dialled.host, dialled.port);
        let mut record = Record::begin(Reporter::Source, "tcp", authority);
        record.decided(decision);
        record.source = self.own();
        match self.establish(decision, &dialled).await {
            Ok(Established { connected, chosen, attempts }) => {
                record.attempts = attempts;
                self.carry(io, connected, record).await;
                // Until here the target counted as busy.
                drop(chosen);
            }
            Err(fault) => {
                record.flags = fault.flag;
                record.error = Some(fault.message.clone());
                record.closed_by = ClosedBy::Us;
                record.retriable = true;
                io.abort();
                drop(io);
                self.config.recorder.opened(&record);
                self.config.recorder.closed(record);
            }
        }
    }

    /// Connects to what a decision allows, or to what the client named when it is outside the mesh.
    pub(super) async fn establish(&self, decision: &RouteDecision, dialled: &Dialled) -> Result<Established, Fault> {
        match &decision.outcome {
            RouteOutcome::Refuse | RouteOutcome::Redirect { .. } | RouteOutcome::Direct => Err(refused(decision)),
            RouteOutcome::Passthrough => {
                let connected = self.plain_to(decision, dialled).await?;
                Ok(Established { connected, chosen: None, attempts: 1 })
            }
            RouteOutcome::Forward { .. } => self.connect(decision).await,
        }
    }

    /// Connects to the first address of a host outside the mesh that takes the connection.
    async fn plain_to(&self, decision: &RouteDecision, dialled: &Dialled) -> Result<Connected, Fault> {
        let mut failed = None;
        for address in self.resolve(&dialled.host, dialled.port).await? {
            match plain(&address.to_string(), decision.connect_timeout).await {
                Ok(stream) => {
                    let server = Server { upstream: address.to_string(), ..Server::default() };
                    return Ok(Connected { upstream: Upstream::Plain(stream), server, hold: Box::new(()) });
                }
                Err(fault) => failed.get_or_insert(fault),
            };
        }
        Err(failed.unwrap_or_else(|| Fault::connect(format!("{} has no address", dialled.host))))
    }

    async fn connect(&self, decision: &RouteDecision) -> Result<Established, Fault> {
        let mut attempts = Attempts::new(self, decision);
        loop {
            let Some(chosen) = attempts.next() else { return Err(refused(decision)) };
            match self.connect_to(decision, &chosen.target).await {
                Ok(connected) => {
                    attempts.succeeded(&chosen);
                    return Ok(Established { connected, chosen: Some(chosen), attempts: attempts.made });
                }
                Err(fault) => {
                    tracing::debug!(%fault, attempt = attempts.made, "an attempt to connect failed");
                    // Nothing was sent, so everything can be sent again.
                    let repeatable = Repeatable { idempotent: true, replayable: true };
                    if attempts.again(chosen, &fault, repeatable).await.is_err() {
                        return Err(fault);
                    }
                }
            }
        }
    }

    async fn connect_to(&self, decision: &RouteDecision, target: &Target) -> Result<Connected, Fault> {
        match target {
            Target::Local { endpoint, address, expected: Some(expected), .. } => {
                let key = LocalKey::of(*address, expected);
                let lease = self.opaque.get(&key, || self.dial_opaque(decision, &key)).await?;
                let io = open_flow(&lease, &address.to_string(), decision.connect_timeout).await?;
                let party = self.server(decision, target, endpoint, Some(expected));
                let server = Server { party, upstream: key.address.to_string(), via: None, mutual_tls: true };
                Ok(Connected { upstream: Upstream::Tunnel(io), server, hold: Box::new(lease) })
            }
            Target::Local { endpoint, address, expected: None, .. } => {
                let stream = plain(&address.to_string(), decision.connect_timeout).await?;
                let party = self.server(decision, target, endpoint, None);
                let server = Server { party, upstream: address.to_string(), ..Server::default() };
                Ok(Connected { upstream: Upstream::Plain(stream), server, hold: Box::new(()) })
            }
            Target::Named { host, .. } => Err(Fault::connect(format!("{host} cannot be reached yet"))),
            Target::Remote { expected, .. } => {
                let key = remote_key(decision, target).ok_or_else(|| Fault::connect("no service"))?;
                let remote = self.open_remote(decision, &key, expected).await?;
                let outer = Outer::handshake(remote.io, &flow_settings())
                    .await
                    .map_err(|error| Fault::connect(chain(&error)))?;
                let authority = format!("{}:{}", key.service.clusterset_host(), key.port);
                let io = open_flow(&outer, &authority, decision.connect_timeout).await?;
                let expiry = end_with_identity(self, &outer, remote.peer.clone());
                let party = self.server(decision, target, &remote.endpoint, Some(&remote.peer.id));
                let server = Server { party, upstream: authority, via: Some(remote.via), mutual_tls: true };
                Ok(Connected { upstream: Upstream::Tunnel(io), server, hold: Box::new((outer, remote.hold, expiry)) })
            }
        }
    }

    async fn dial_opaque(&self, decision: &RouteDecision, key: &LocalKey) -> Result<Outer, Fault> {
        let (io, peer) = dial::local(&self.config.credentials, key, decision.connect_timeout).await?;
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
            tokio::select! {
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

    async fn carry<T: Captured>(&self, mut io: T, connected: Connected, mut record: Record) {
        let Connected { upstream, server, hold } = connected;
        note_server(&mut record, server);
        self.config.recorder.opened(&record);
        let report = |moved| self.config.recorder.progressed(&mut record, moved);
        let outcome = match upstream {
            Upstream::Tunnel(mut tunnel) => copy_reporting(&mut io, &mut tunnel, IDLE, report).await,
            Upstream::Plain(mut stream) => {
                let outcome = copy_reporting(&mut io, &mut stream, IDLE, report).await;
                if outcome.error.is_some() {
                    stream.abort();
                }
                outcome
            }
        };
        if outcome.error.is_some() {
            io.abort();
        }
        drop((io, hold));
        note_copy(&mut record, &outcome);
        self.config.recorder.closed(record);
    }
}

/// Takes over who the server is.
pub(super) fn note_server(record: &mut Record, server: Server) {
    record.destination = server.party;
    record.upstream = server.upstream;
    record.gateways = server.via;
    record.mutual_tls = server.mutual_tls;
}

/// Takes over how a copy between client (first) and server (second) ended.
pub(crate) fn note_copy(record: &mut Record, outcome: &CopyOutcome) {
    record.bytes_received = outcome.a_to_b;
    record.bytes_sent = outcome.b_to_a;
    record.closed_by = ClosedBy::of_copy(outcome.closed_by);
    if let Some(error) = &outcome.error {
        record.error = Some(error.to_string());
        record.flags = match record.closed_by {
            ClosedBy::Downstream => flag::CLIENT,
            ClosedBy::Upstream => flag::BROKEN,
            ClosedBy::Us => flag::TIMEOUT,
        };
    }
}

/// Opens a flow and waits until the server's side is connected: only then may bytes of the client be lost to a retry.
async fn open_flow(outer: &Outer, authority: &str, timeout: Duration) -> Result<H2Io, Fault> {
    let connecting =
        outer.connect(authority, Vec::new()).await.map_err(|error| Fault::from_request(&error, authority))?;
    match tokio::time::timeout(timeout, connecting.answer).await {
        Ok(Ok(_)) => Ok(connecting.io),
        Ok(Err(error)) => Err(Fault::from_connect(&error, authority)),
        Err(_) => Err(Fault::connect_timeout(authority)),
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

async fn plain(address: &str, timeout: Duration) -> Result<TcpStream, Fault> {
    let stream = tokio::time::timeout(timeout, TcpStream::connect(address))
        .await
        .map_err(|_| Fault::connect_timeout(address))?
        .map_err(|error| Fault::connect(format!("{address}: {error}")))?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Opaque flows share a connection, so one slow reader must not stall the others.
fn flow_settings() -> Settings {
    Settings { stream_window: 256 * 1024, connection_window: 4 << 20, ..Settings::default() }
}
