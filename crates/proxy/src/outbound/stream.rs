//! One captured stream of the workload: HTTP inside is carried by request, everything else as it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mesh::{Protocol, Reason, RouteDecision, RouteOutcome};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

use super::arrival::{Arrival, Dialled, Way};
use super::connect::{Connected, Established, note_server};
use super::{Engine, Outbound};
use crate::access::{self, ClosedBy, Record, Reporter};
use crate::body;
use crate::copy::{CopyOutcome, abort_tcp, copy_reporting};
use crate::detect::{CLIENT_SILENCE, Rewind, Spoken, sniff};
use crate::fault::{Fault, flag};
use crate::hbone::H2Io;
use crate::serve::{self, Unreadable};
use crate::sni::{self, Hello};

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
    /// Carries one stream to where it was going, as the port's declared protocol says.
    pub async fn stream<T: Captured>(&self, mut io: T, dialled: Dialled) {
        let dialled = Arc::new(dialled);
        let way = Way::Captured(dialled.clone());
        let decision = self.0.decide_plain(&dialled.host, dialled.port, &way).await;
        let in_mesh = !matches!(decision.outcome, RouteOutcome::Passthrough);
        let by_host = is_nobodys(&decision, &dialled) && self.0.has_http(dialled.port);
        let way = if by_host || dialled.transparent { Way::Addressed(dialled.clone()) } else { way };
        match decision.protocol {
            protocol if protocol.is_http() && dialled.transparent => {
                Box::pin(self.declared_http(io, way, decision, dialled)).await;
            }
            protocol if protocol.is_http() => Box::pin(self.http(io, way)).await,
            Protocol::Auto if in_mesh || by_host => match sniff(&mut io, CLIENT_SILENCE).await {
                Ok(sniffed) if sniffed.spoken != Spoken::Opaque && !asks_for_tunnel(&dialled, &sniffed.first) => {
                    Box::pin(self.http(Rewind::new(sniffed.first, io), way)).await;
                }
                Ok(sniffed) if sniffed.first.is_empty() && !sniffed.closed => {
                    Box::pin(self.silent(io, way, decision, dialled)).await;
                }
                Ok(sniffed) => Box::pin(self.flow(sniffed.first, io, decision, dialled)).await,
                Err(error) => tracing::debug!(%error, "a captured connection failed"),
            },
            _ => Box::pin(self.flow(Bytes::new(), io, decision, dialled)).await,
        }
    }

    /// A port that was declared to speak HTTP; a CONNECT on it is for a proxy of the application's own choice.
    async fn declared_http<T: Captured>(&self, mut io: T, way: Way, decision: RouteDecision, dialled: Arc<Dialled>) {
        match sniff(&mut io, self.0.limits.header_timeout).await {
            Ok(sniffed) if asks_for_tunnel(&dialled, &sniffed.first) => {
                Box::pin(self.flow(sniffed.first, io, decision, dialled)).await;
            }
            Ok(sniffed) => Box::pin(self.http(Rewind::new(sniffed.first, io), way)).await,
            Err(error) => tracing::debug!(%error, "a captured connection failed"),
        }
    }

    /// The client of an undeclared port waits: its destination is dialled, and the first byte from either side decides.
    async fn silent<T: Captured>(&self, mut io: T, way: Way, decision: RouteDecision, dialled: Arc<Dialled>) {
        let captured = Way::Captured(dialled.clone());
        let record = self.0.begin_flow(&decision, &captured);
        let mut established = match self.0.establish(&decision, &captured.named(), &captured).await {
            Ok(established) => established,
            Err(fault) => return self.0.unestablished(io, &fault, record),
        };
        let (mut of_client, mut of_server) = (BytesMut::with_capacity(1024), BytesMut::with_capacity(1024));
        let client_spoke = async {
            tokio::select! {
                read = io.read_buf(&mut of_client) => read.map(|_| true),
                read = established.connected.upstream.read_buf(&mut of_server) => read.map(|_| false),
            }
        };
        let client_spoke = tokio::time::timeout(IDLE, client_spoke).await;
        let (of_client, of_server) = (of_client.freeze(), of_server.freeze());
        match client_spoke.unwrap_or_else(|elapsed| Err(elapsed.into())) {
            Err(error) => {
                established.connected.upstream.abort();
                io.abort();
                tracing::debug!(%error, "a captured connection failed before its first byte");
            }
            Ok(true) if !of_client.is_empty() => {
                let mut io = Rewind::new(of_client, io);
                match sniff(&mut io, CLIENT_SILENCE).await {
                    Ok(sniffed) if sniffed.spoken != Spoken::Opaque && !asks_for_tunnel(&dialled, &sniffed.first) => {
                        // Requests go over pooled connections; the one that was opened in vain just ends.
                        drop(established);
                        Box::pin(self.http(Rewind::new(sniffed.first, io), way)).await;
                    }
                    Ok(sniffed) if self.0.wants_name(&decision, &dialled) => {
                        drop(established);
                        Box::pin(self.flow(sniffed.first, io, decision, dialled)).await;
                    }
                    Ok(sniffed) => {
                        let io = Rewind::new(sniffed.first, io);
                        self.0.carry_established(io, established, Bytes::new(), (record, &decision)).await;
                    }
                    Err(error) => tracing::debug!(%error, "a captured connection failed"),
                }
            }
            // The server spoke first, or one of the two ended: as it is.
            Ok(_) => self.0.carry_established(io, established, of_server, (record, &decision)).await,
        }
    }

    /// Carries a captured stream that is not HTTP. Where rules look at the name in a ClientHello it is read first.
    async fn flow<T: Captured>(&self, first: Bytes, io: T, decision: RouteDecision, dialled: Arc<Dialled>) {
        let way = Way::Captured(dialled.clone());
        let mut io = Rewind::new(first, io);
        if !self.0.wants_name(&decision, &dialled) {
            return Box::pin(self.0.opaque(io, &decision, &way)).await;
        }
        let (hello, first) = match sni::read(&mut io, CLIENT_SILENCE).await {
            Ok(read) => read,
            Err(error) => return tracing::debug!(%error, "a captured connection failed"),
        };
        let io = Rewind::new(first, io);
        let Hello::Named(name) = hello else { return Box::pin(self.0.opaque(io, &decision, &way)).await };
        // Who dialled an address that the mesh does not know means the server that the hello names.
        let unknown = decision.reasons.contains(&Reason::NotInMesh);
        let host = if unknown { name.clone() } else { dialled.host.clone() };
        let way = Way::Named(dialled.clone(), name.into());
        let named = self.0.decide_plain(&host, dialled.port, &way).await;
        Box::pin(self.0.opaque(io, &named, &way)).await;
    }

    /// Carries one opaque stream that arrived at a gateway, by its SNI if it has one.
    pub async fn gateway_stream<T: Captured>(&self, io: T, arrival: Arrival) {
        let way = Way::Gateway(Arc::new(arrival));
        let decision = self.0.decide_plain(&way.named(), way.port(), &way).await;
        Box::pin(self.0.opaque(io, &decision, &way)).await;
    }

    /// The workload sent what is no request, and was told so.
    pub fn unreadable(&self, source: Option<SocketAddr>, why: Unreadable) {
        let mut record = Record::begin(Reporter::Source, "http", String::new());
        record.source = self.0.own();
        record.client(source, None);
        self.0.config.recorder.unreadable(record, why);
    }

    /// Carries one connection of a client without a sidecar as opaque bytes, whatever its port speaks, under the identity of
    /// this gateway (`<cluster>/<name>`). It goes where it was dialled and nowhere else: no byte of it is looked at.
    pub async fn unmeshed_stream<T: Captured>(&self, io: T, dialled: Dialled, gateway: &str) {
        let way = Way::Captured(Arc::new(dialled));
        let decision = self.0.decide_plain(&way.named(), way.port(), &way).await;
        Box::pin(self.0.opaque_of(io, &decision, &way, Some(access::unmeshed(gateway)))).await;
    }

    async fn http<T: Captured>(&self, io: T, way: Way) {
        let (outbound, source) = (self.clone(), way.source());
        let served = serve::serve(io, &self.0.limits, &self.0.config.life, move |request| {
            let (outbound, way) = (outbound.clone(), way.clone());
            Box::pin(async move { outbound.carry(request.map(body::incoming), &way).await })
        });
        if let Some(why) = served.await {
            self.unreadable(source, why);
        }
    }
}

impl Engine {
    /// Whether a ClientHello may decide where a flow goes: the host has TLS rules, or an address that nobody knows was
    /// dialled while there are hosts that only names tell apart.
    fn wants_name(&self, decision: &RouteDecision, dialled: &Dialled) -> bool {
        let view = self.config.directory.view();
        let service = decision.service.as_ref();
        let service = service.and_then(|name| view.services.get(name).or_else(|| view.entries.get(name)));
        let by_rule = service.is_some_and(|service| {
            let routes = service.config.routes.iter().chain(service.config.clusterset_routes.iter().flatten());
            routes.into_iter().any(|routes| !routes.tls.is_empty())
        });
        by_rule || (is_nobodys(decision, dialled) && !view.entries.is_empty())
    }

    /// Whether a service or an entry that is known here may speak HTTP on this port. Elsewhere an address that the mesh
    /// does not know may belong to a server that speaks first, and bytes are carried as they are.
    fn has_http(&self, port: u16) -> bool {
        let view = self.config.directory.view();
        let may_speak = |protocol: Protocol| protocol.is_http() || protocol == Protocol::Auto;
        let mut known = view.services.values().chain(view.entries.values());
        known.any(|service| service.port(port).is_some_and(|port| may_speak(port.protocol)))
    }

    /// Carries bytes both ways. Another target is tried only before the first byte was delivered.
    async fn opaque<T: Captured>(&self, io: T, decision: &RouteDecision, way: &Way) {
        self.opaque_of(io, decision, way, None).await;
    }

    /// The same; `client` is what records say of a client without a sidecar.
    async fn opaque_of<T: Captured>(&self, io: T, decision: &RouteDecision, way: &Way, client: Option<Arc<str>>) {
        let mut record = self.begin_flow(decision, way);
        record.client = client;
        match self.establish(decision, &way.named(), way).await {
            Ok(established) => self.carry_established(io, established, Bytes::new(), (record, decision)).await,
            Err(fault) => self.unestablished(io, &fault, record),
        }
    }

    fn begin_flow(&self, decision: &RouteDecision, way: &Way) -> Record {
        let mut record = Record::begin(Reporter::Source, "tcp", authority_of(&way.named(), way.port()));
        way.decided(&mut record, decision);
        record.source = self.source(way);
        record.client(way.source(), way.facts().remote_ip);
        record
    }

    /// There is no connection to carry a stream on.
    fn unestablished<T: Captured>(&self, io: T, fault: &Fault, mut record: Record) {
        record.flags = if fault.flag == flag::NONE { flag::NO_UPSTREAM } else { fault.flag };
        record.error = Some(fault.message.clone());
        record.closed_by = ClosedBy::Us;
        record.retriable = true;
        io.abort();
        drop(io);
        self.config.recorder.opened(&record);
        self.config.recorder.closed(record);
    }

    /// Carries a stream; `first` is what the server has said already.
    async fn carry_established<T: Captured>(
        &self,
        io: T,
        established: Established,
        first: Bytes,
        (mut record, decision): (Record, &RouteDecision),
    ) {
        let Established { connected, chosen, permit, attempts } = established;
        record.attempts = attempts;
        self.carry(io, (connected, first), record, decision).await;
        // Until here the target counted as busy.
        drop((chosen, permit));
    }

    async fn carry<T: Captured>(
        &self,
        mut io: T,
        (connected, first): (Connected, Bytes),
        mut record: Record,
        decision: &RouteDecision,
    ) {
        let Connected { upstream, server, hold } = connected;
        let mut upstream = Rewind::new(first, upstream);
        note_server(&mut record, server);
        self.config.recorder.opened(&record);
        let report = |moved| self.config.recorder.progressed(&mut record, moved);
        let pool = &decision.policy.pool;
        let idle = pool.tcp_idle_timeout.filter(|idle| !idle.is_zero()).unwrap_or(IDLE);
        let copy = copy_reporting(&mut io, &mut upstream, idle, report);
        let outcome = match pool.max_connection_duration {
            None => Some(copy.await),
            Some(most) => tokio::time::timeout(most, copy).await.ok(),
        };
        if outcome.as_ref().is_none_or(|outcome| outcome.error.is_some()) {
            upstream.get_ref().abort();
            io.abort();
        }
        drop((io, upstream, hold));
        match &outcome {
            Some(outcome) => note_copy(&mut record, outcome),
            None => {
                record.closed_by = ClosedBy::Us;
                record.error = Some("the connection was open for as long as its policy allows".to_owned());
            }
        }
        self.config.recorder.closed(record);
    }
}

/// Whether a client that knows nothing of this proxy asks another one for a tunnel: the other one is to see it.
fn asks_for_tunnel(dialled: &Dialled, first: &[u8]) -> bool {
    dialled.transparent && first.trim_ascii_start().starts_with(b"CONNECT ")
}

/// Whether an address was dialled that the mesh does not know.
fn is_nobodys(decision: &RouteDecision, dialled: &Dialled) -> bool {
    dialled.host.parse::<std::net::IpAddr>().is_ok() && decision.reasons.contains(&Reason::NotInMesh)
}

/// As in a URL: an IPv6 address stands in brackets.
pub(super) fn authority_of(host: &str, port: u16) -> String {
    host.parse().map_or_else(|_| format!("{host}:{port}"), |ip| SocketAddr::new(ip, port).to_string())
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
