//! The destination side: streams from gateways of other clusters, each to an endpoint of its own choice.
//!
//! [`quic`] and [`tcp`] accept the connections; what their streams carry is the same.

mod plain;
pub(crate) mod quic;
pub(crate) mod tcp;

use std::sync::Arc;
use std::time::{Duration, Instant};

use api::tunnel::{Accepted, Reply};
use identity::PeerIdentity;
use mesh::{Candidate, Denial, SpiffeId, Transport, TunnelMode, TunnelRequest};
use proxy::copy::{CopyOutcome, Side, abort_tcp, copy_bidirectional};
use proxy::tunnel;
use quinn::VarInt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::context::Context;
use crate::datagrams::Relay;
use crate::endpoints::Busy;
use crate::flow;
use crate::limits::{HEADER_TIMEOUT, Place};
use crate::metrics::WireLabels;
use crate::record::Record;
use crate::stream::{Flows, TunnelIo};

/// How long one endpoint may take to accept a connection.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// How many endpoints are tried for one stream.
const DIAL_ATTEMPTS: usize = 3;
/// How long refusing a stream may take.
const REFUSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often slow readers are looked for.
const SLOW_READERS: Duration = Duration::from_secs(1);
/// The application error code of a connection that we end because its peer is not trusted (any more).
const UNTRUSTED: VarInt = VarInt::from_u32(2);
/// The application error code of a connection beyond a limit.
const OVERLOADED: VarInt = VarInt::from_u32(3);

/// A peer that may open streams, and its place among them.
struct Admission {
    peer: Arc<PeerIdentity>,
    _place: Place<SpiffeId>,
}

/// Judges the proven peer of a new connection; the code and the reason say why it is refused.
fn admit_peer(
    context: &Context,
    peer: PeerIdentity,
    listener: &'static str,
) -> Result<Admission, (VarInt, &'static str)> {
    let trust_domain = peer.id.trust_domain();
    let refusal = if *trust_domain == context.trust_domain {
        Some((UNTRUSTED, "own-cluster"))
    } else if context.current_view().cluster_of(trust_domain).is_none() {
        Some((UNTRUSTED, "unknown-cluster"))
    } else {
        None
    };
    let place = refusal.map_or_else(|| context.peers.enter(&peer.id).ok_or((OVERLOADED, "limit")), Err);
    match place {
        Ok(place) => Ok(Admission { peer: Arc::new(peer), _place: place }),
        Err((code, reason)) => {
            context.metrics.refuse(listener, reason);
            tracing::info!(peer = %peer.id, reason, listener, "connection refused");
            Err((code, reason))
        }
    }
}

/// Starts one stream of a peer, or refuses it when its cluster has as many as it may.
fn begin_stream(context: &Arc<Context>, peer: &Arc<PeerIdentity>, mut io: TunnelIo) {
    let Some(place) = context.streams.enter(peer.id.trust_domain()) else {
        let transport = io.transport().as_str();
        context.metrics.refused_streams.get_or_create(&WireLabels { transport }).inc();
        // Nothing of it is kept: its header is not even read.
        let message = "the cluster has too many streams open".to_owned();
        let reply = flow::denied(Denial::Overloaded, message, context.full_name());
        tokio::spawn(async move {
            let refusing = async {
                let _ = write_reply(&mut io, &reply).await;
                let _ = io.shutdown().await;
            };
            let _ = timeout(REFUSE_TIMEOUT, refusing).await;
        });
        return;
    };
    let flow = serve_stream(Arc::clone(context), Arc::clone(peer), io);
    context.shutdown.spawn(async move {
        flow.await;
        drop(place);
    });
}

/// Looks for slow readers among the flows of one connection, for ever.
async fn watch_readers(context: &Context, flows: &Flows, transport: Transport) {
    loop {
        tokio::time::sleep(SLOW_READERS).await;
        let cut = flows.cut_slow_readers(Instant::now());
        if cut > 0 {
            tracing::warn!(flows = cut, "flows reset: their readers are too slow");
            let labels = WireLabels { transport: transport.as_str() };
            context.metrics.slow_readers.get_or_create(&labels).inc_by(cut as u64);
        }
    }
}

/// One flow from its header to its end.
async fn serve_stream(context: Arc<Context>, peer: Arc<PeerIdentity>, mut io: TunnelIo) {
    let mut record = Record::begin(&context, "inbound", &peer.id);
    record.transport = io.transport().as_str();
    match admit(&context, &peer, &mut io, &mut record).await {
        Ok(Admitted::Probe) => {
            let accepted = Accepted { gateway: context.name.clone(), ..Accepted::default() };
            // A probe is no flow: it is neither logged nor counted.
            return answer(&mut io, &flow::accepted(accepted)).await;
        }
        Ok(Admitted::Flow(flow)) => carry(&context, io, *flow, &mut record).await,
        // It serves requests itself: ordinary flows do not pay for its size.
        Ok(Admitted::StandIn(served)) => Box::pin(plain::carry(&context, io, *served, &mut record)).await,
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
    /// For a pod without a sidecar.
    StandIn(Box<plain::Served>),
}

/// An endpoint that answered.
struct Dialled {
    candidate: Candidate,
    stream: TcpStream,
    /// The flow is one of capsules.
    has_datagrams: bool,
    busy: Busy,
}

async fn admit(
    context: &Context,
    peer: &PeerIdentity,
    io: &mut TunnelIo,
    record: &mut Record,
) -> Result<Admitted, (Denial, String)> {
    let header = timeout(HEADER_TIMEOUT, tunnel::read_frame(io))
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
    if parsed.request.mode == TunnelMode::Plain {
        let served = plain::serve(context, &view, &parsed.request, candidates).await?;
        return Ok(Admitted::StandIn(Box::new(served)));
    }
    let dialled = dial(context, candidates).await?;
    Ok(Admitted::Flow(Box::new(Dialled { has_datagrams: parsed.request.has_datagrams(), ..dialled })))
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
            Ok(Ok(stream)) => return Ok(Dialled { candidate, stream, has_datagrams: false, busy }),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it took too long".to_owned(),
        };
        context.endpoints.failed(candidate.address, Instant::now());
        tracing::info!(endpoint = candidate.endpoint, address = %candidate.address, why, "endpoint not reached");
        last = (Denial::EndpointUnreachable, format!("{} at {}: {why}", candidate.endpoint, candidate.address));
    }
    Err(last)
}

async fn carry(context: &Context, mut io: TunnelIo, mut dialled: Dialled, record: &mut Record) {
    record.endpoint.clone_from(&dialled.candidate.endpoint);
    let accepted =
        Accepted { gateway: context.name.clone(), endpoint: dialled.candidate.endpoint.clone(), ..Accepted::default() };
    record.accepted();
    if let Err(error) = write_reply(&mut io, &flow::accepted(accepted)).await {
        record.error = error;
        return abort_tcp(&dialled.stream);
    }
    let too_slow = io.too_slow();
    let copying = async {
        match dialled.has_datagrams {
            true => {
                let relay = Relay { datagrams: io.datagrams(), sent: &[], metrics: &context.metrics };
                flipped(relay.run(&mut dialled.stream, &mut io).await)
            }
            false => copy_bidirectional(&mut io, &mut dialled.stream, None).await,
        }
    };
    let outcome = tokio::select! {
        outcome = copying => outcome,
        () = too_slow.cancelled() => cut("the server reads too slowly"),
        () = context.shutdown.ended().cancelled_owned() => cut("the gateway ended"),
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

/// The outcome as seen from the other side.
fn flipped(outcome: CopyOutcome) -> CopyOutcome {
    let closed_by = match outcome.closed_by {
        Side::A => Side::B,
        Side::B => Side::A,
        Side::Us => Side::Us,
    };
    CopyOutcome { a_to_b: outcome.b_to_a, b_to_a: outcome.a_to_b, closed_by, error: outcome.error }
}

/// The outcome of a copy that we cut off.
pub(crate) fn cut(why: &'static str) -> CopyOutcome {
    let error = std::io::Error::other(why);
    CopyOutcome { a_to_b: 0, b_to_a: 0, closed_by: Side::Us, error: Some(error) }
}

/// Replies and ends the stream.
async fn answer(io: &mut TunnelIo, reply: &Reply) {
    if write_reply(io, reply).await.is_ok() {
        let _ = io.shutdown().await;
        io.settled().await;
    }
}

async fn write_reply(io: &mut TunnelIo, reply: &Reply) -> Result<(), String> {
    let frame = tunnel::to_frame(reply).map_err(|error| error.to_string())?;
    io.write_all(&frame).await.map_err(|error| error.to_string())
}
