//! The destination side: streams from gateways of other clusters, each to an endpoint of its own choice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use api::tunnel::{Accepted, Reply};
use identity::PeerIdentity;
use mesh::{Candidate, Denial, TunnelMode, TunnelRequest};
use proxy::copy::{CopyOutcome, Side, abort_tcp, copy_bidirectional};
use proxy::tunnel;
use quinn::{Connection, Endpoint, Incoming, VarInt};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::context::Context;
use crate::endpoints::Busy;
use crate::flow;
use crate::limits::{HANDSHAKE_TIMEOUT, HANDSHAKES, HEADER_TIMEOUT, PeerLimit};
use crate::quic_io::QuicIo;
use crate::record::Record;

/// How long one endpoint may take to accept a connection.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// How many endpoints are tried for one stream.
const DIAL_ATTEMPTS: usize = 3;
/// The application error code of a connection that we end because its peer is not trusted (any more).
const UNTRUSTED: VarInt = VarInt::from_u32(2);
/// The application error code of a connection beyond a limit.
const OVERLOADED: VarInt = VarInt::from_u32(3);

/// Accepts connections until the process ends.
pub(crate) async fn listen(context: Arc<Context>, endpoint: Endpoint) {
    let (handshakes, peers) = (Arc::new(Semaphore::new(HANDSHAKES)), PeerLimit::default());
    while let Some(incoming) = endpoint.accept().await {
        if context.is_draining() {
            incoming.refuse();
            continue;
        }
        let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() else {
            context.metrics.refuse("quic", "limit");
            // Whoever comes back has shown that its address is real.
            if incoming.may_retry() {
                let _ = incoming.retry();
            } else {
                incoming.refuse();
            }
            continue;
        };
        let (context, peers) = (Arc::clone(&context), peers.clone());
        tokio::spawn(async move {
            let accepted = handshake(incoming).await;
            drop(permit);
            match accepted {
                Ok((connection, peer)) => serve(context, connection, peer, peers).await,
                Err(error) => {
                    context.metrics.refuse("quic", "handshake");
                    tracing::info!(%error, "QUIC handshake refused");
                }
            }
        });
    }
}

/// Never `into_0rtt`: nothing is read before the client's certificate is verified.
async fn handshake(incoming: Incoming) -> Result<(Connection, PeerIdentity), String> {
    let connecting = incoming.accept().map_err(|error| error.to_string())?;
    let connected = timeout(HANDSHAKE_TIMEOUT, connecting).await.map_err(|_| "it took too long".to_owned())?;
    let connection = connected.map_err(|error| error.to_string())?;
    match identity::quic_peer(&connection) {
        Ok(peer) => Ok((connection, peer)),
        Err(error) => {
            connection.close(UNTRUSTED, b"no identity");
            Err(error.to_string())
        }
    }
}

async fn serve(context: Arc<Context>, connection: Connection, peer: PeerIdentity, peers: PeerLimit) {
    let trust_domain = peer.id.trust_domain();
    let refusal = if *trust_domain == context.trust_domain {
        Some("own-cluster")
    } else if context.current_view().cluster_of(trust_domain).is_none() {
        Some("unknown-cluster")
    } else {
        None
    };
    if let Some(reason) = refusal {
        context.metrics.refuse("quic", reason);
        tracing::info!(peer = %peer.id, reason, "QUIC connection refused");
        return connection.close(UNTRUSTED, reason.as_bytes());
    }
    let Some(_place) = peers.enter(&peer.id) else {
        context.metrics.refuse("quic", "limit");
        return connection.close(OVERLOADED, b"too many connections");
    };
    tracing::info!(peer = %peer.id, address = %connection.remote_address(), "QUIC connection accepted");
    let peer = Arc::new(peer);
    loop {
        tokio::select! {
            stream = connection.accept_bi() => match stream {
                Ok((send, recv)) => {
                    let io = QuicIo::new(send, recv);
                    context.shutdown.spawn(serve_stream(Arc::clone(&context), Arc::clone(&peer), io));
                }
                Err(error) => return tracing::info!(peer = %peer.id, %error, "QUIC connection ended"),
            },
            reason = context.until_untrusted(&peer) => {
                tracing::info!(peer = %peer.id, reason, "QUIC connection closed");
                return connection.close(UNTRUSTED, reason.as_bytes());
            }
        }
    }
}

/// One flow from its header to its end.
async fn serve_stream(context: Arc<Context>, peer: Arc<PeerIdentity>, mut io: QuicIo) {
    let mut record = Record::begin(&context, "inbound", &peer.id);
    match admit(&context, &peer, &mut io, &mut record).await {
        Ok(Admitted::Probe) => {
            let accepted = Accepted { gateway: context.name.clone(), ..Accepted::default() };
            // A probe is no flow: it is neither logged nor counted.
            return answer(&mut io, &flow::accepted(accepted)).await;
        }
        Ok(Admitted::Flow(flow)) => carry(&context, io, *flow, &mut record).await,
        Err((denial, message)) => {
            record.denied(denial);
            record.error.clone_from(&message);
            answer(&mut io, &flow::denied(denial, message, context.full_name())).await;
        }
    }
    record.finish(&context);
}

/// What the header asked for, granted.
enum Admitted {
    Probe,
    Flow(Box<Dialled>),
}

/// An endpoint that answered.
struct Dialled {
    candidate: Candidate,
    stream: TcpStream,
    _busy: Busy,
}

async fn admit(
    context: &Context,
    peer: &PeerIdentity,
    io: &mut QuicIo,
    record: &mut Record,
) -> Result<Admitted, (Denial, String)> {
    let header = timeout(HEADER_TIMEOUT, tunnel::read_frame(io.reader()))
        .await
        .map_err(|_| (Denial::BadHeader, "no header came".to_owned()))?
        .map_err(|error| (Denial::BadHeader, error.to_string()))?;
    let parsed = flow::parse(header)?;
    let view = context.current_view();
    record.request(&view, &parsed.request);
    // From TLS alone; what the header claims is compared with it by the decision.
    let cluster = view.cluster_of(peer.id.trust_domain()).ok_or((Denial::ClusterUnknown, String::new()))?;
    record.cluster = cluster.name.to_string();
    if context.is_draining() {
        return Err((Denial::Draining, "the gateway is going away".to_owned()));
    }
    let decision = mesh::admit_destination(&view, &cluster.name, &parsed.request);
    record.revision = decision.revision;
    record.reasons = decision.reasons;
    let candidates = decision.outcome.map_err(|denial| (denial, denial_message(&parsed.request)))?;
    if parsed.request.mode == TunnelMode::Probe {
        return Ok(Admitted::Probe);
    }
    dial(context, candidates).await.map(|dialled| Admitted::Flow(Box::new(dialled)))
}

fn denial_message(request: &TunnelRequest) -> String {
    format!("{} port {}", request.service, request.port)
}

/// Connects to the best endpoint, or the next best if that one fails.
async fn dial(context: &Context, candidates: Vec<Candidate>) -> Result<Dialled, (Denial, String)> {
    let mut last = (Denial::NoEndpoint, String::new());
    for candidate in context.endpoints.order(candidates, Instant::now()).into_iter().take(DIAL_ATTEMPTS) {
        let busy = context.endpoints.enter(candidate.address);
        let why = match timeout(DIAL_TIMEOUT, (context.dial)(candidate.address)).await {
            Ok(Ok(stream)) => return Ok(Dialled { candidate, stream, _busy: busy }),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it took too long".to_owned(),
        };
        context.endpoints.failed(candidate.address, Instant::now());
        tracing::info!(endpoint = candidate.endpoint, address = %candidate.address, why, "endpoint not reached");
        last = (Denial::EndpointUnreachable, format!("{} at {}: {why}", candidate.endpoint, candidate.address));
    }
    Err(last)
}

async fn carry(context: &Context, mut io: QuicIo, mut dialled: Dialled, record: &mut Record) {
    record.endpoint.clone_from(&dialled.candidate.endpoint);
    let accepted =
        Accepted { gateway: context.name.clone(), endpoint: dialled.candidate.endpoint.clone(), ..Accepted::default() };
    record.accepted();
    if let Err(error) = write_reply(&mut io, &flow::accepted(accepted)).await {
        record.error = error;
        return abort_tcp(&dialled.stream);
    }
    let outcome = tokio::select! {
        outcome = copy_bidirectional(&mut io, &mut dialled.stream, None) => outcome,
        () = context.shutdown.ended().cancelled_owned() => ended(),
    };
    record.carried(outcome.a_to_b, outcome.b_to_a);
    record.closed_by = match outcome.closed_by {
        Side::A => "client",
        Side::B => "server",
        Side::Us => "gateway",
    };
    match outcome.error {
        Some(error) => {
            record.error = error.to_string();
            abort_tcp(&dialled.stream);
        }
        None => io.settled().await,
    }
}

/// What a copy has done that the end of the process cut off.
pub(crate) fn ended() -> CopyOutcome {
    let error = std::io::Error::other("the gateway ended");
    CopyOutcome { a_to_b: 0, b_to_a: 0, closed_by: Side::Us, error: Some(error) }
}

/// Replies and ends the stream.
async fn answer(io: &mut QuicIo, reply: &Reply) {
    if write_reply(io, reply).await.is_ok() {
        io.finish();
        io.settled().await;
    }
}

async fn write_reply(io: &mut QuicIo, reply: &Reply) -> Result<(), String> {
    let frame = tunnel::to_frame(reply).map_err(|error| error.to_string())?;
    io.write_all(&frame).await.map_err(|error| error.to_string())
}
