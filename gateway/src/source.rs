//! The source side: HBONE flows from workloads of the own cluster, each over a path to another cluster.

mod attempt;
mod events;

use std::sync::Arc;
use std::time::Instant;

use api::tunnel::{Accepted, Reply};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use identity::{PeerIdentity, PeerPolicy};
use mesh::{Denial, SpiffeId, TunnelMode};
use proxy::copy::{Side, copy_bidirectional};
use proxy::hbone::{self, H2Io, H2Reader, Incoming, Responder};
use proxy::tunnel;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::accept::{Door, accept};
use crate::context::Context;
use crate::datagrams::Relay;
use crate::destination::cut;
use crate::flow::{self, Parsed};
use crate::limits::{CONNECTIONS_PER_WORKLOAD, Limit};
use crate::paths::{Connection, Wanted};
use crate::record::Record;
use attempt::{Attempt, AttemptError, Opened};

/// How often a flow is sent altogether while it is not accepted: over every connection of a gateway that goes silent,
/// and over one more.
const ATTEMPTS: u32 = 4;
/// The path of the stream of path events.
const PATHS: &str = "/isthmus/paths";

/// Accepts connections until the process drains.
pub(crate) async fn listen(context: Arc<Context>, listener: TcpListener) {
    let peers = |context: &Context| PeerPolicy::trust_domain(context.trust_domain.clone());
    let door = Door { name: "hbone", peers, alpn: b"h2" };
    let places = Limit::new(CONNECTIONS_PER_WORKLOAD);
    accept(context, listener, door, move |context, stream, peer| serve(context, stream, peer, places.clone())).await;
}

async fn serve(
    context: Arc<Context>,
    stream: tokio_rustls::server::TlsStream<TcpStream>,
    peer: PeerIdentity,
    peers: Limit<SpiffeId>,
) {
    let Some(_place) = peers.enter(&peer.id) else {
        return context.metrics.refuse("hbone", "limit");
    };
    let peer = Arc::new(peer);
    let drain = context.shutdown.draining();
    let handler = {
        let (context, peer) = (Arc::clone(&context), Arc::clone(&peer));
        move |incoming: Incoming| {
            let (context, peer) = (Arc::clone(&context), Arc::clone(&peer));
            async move { dispatch(context, peer, incoming).await }
        }
    };
    let settings = hbone::Settings::default();
    tokio::select! {
        served = hbone::serve(stream, &settings, drain, handler) => {
            if let Err(error) = served {
                tracing::info!(peer = %peer.id, %error, "HBONE connection refused");
            }
        }
        reason = context.until_untrusted(&peer) => tracing::info!(peer = %peer.id, reason, "HBONE connection closed"),
        () = context.shutdown.ended().cancelled_owned() => {}
    }
}

async fn dispatch(context: Arc<Context>, peer: Arc<PeerIdentity>, incoming: Incoming) {
    match *incoming.request.method() {
        Method::CONNECT => {
            let flow = carry(Arc::clone(&context), peer, incoming);
            // Tracked, so that draining waits for it.
            let _ = context.shutdown.spawn(flow).await;
        }
        Method::GET if incoming.request.uri().path() == PATHS => events::stream(&context, incoming).await,
        _ => incoming.refuse(StatusCode::NOT_FOUND, Vec::new()),
    }
}

/// One flow from its header to its end.
async fn carry(context: Arc<Context>, peer: Arc<PeerIdentity>, incoming: Incoming) {
    let mut record = Record::begin(&context, "outbound", &peer.id);
    let parsed = admit(&context, &peer, &incoming, &mut record);
    let (_, reader, responder) = incoming.split();
    match parsed {
        Ok(parsed) => tunnel_flow(&context, &parsed, reader, responder, &mut record).await,
        Err((denial, message)) => deny(&context, responder, denial, message, &mut record),
    }
    record.finish(&context);
}

fn admit(
    context: &Context,
    peer: &PeerIdentity,
    incoming: &Incoming,
    record: &mut Record,
) -> Result<Parsed, (Denial, String)> {
    let header = tunnel::header_of(incoming.request.headers())
        .ok_or_else(|| (Denial::BadHeader, format!("the request has no {}", api::TUNNEL_HEADER)))?
        .map_err(|error| (Denial::BadHeader, error.to_string()))?;
    let parsed = flow::parse(header)?;
    let view = context.current_view();
    record.request(&view, &parsed.request);
    if view.clusters.contains_key(&parsed.request.cluster) {
        record.cluster = parsed.request.cluster.to_string();
    }
    let decision = mesh::admit_source(&view, &peer.id, &parsed.request);
    record.revision = decision.revision;
    record.reasons = decision.reasons;
    decision.outcome.map_err(|denial| (denial, format!("{} in {}", parsed.request.service, parsed.request.cluster)))?;
    Ok(parsed)
}

/// Finds a connection on which the flow is accepted, then carries it.
async fn tunnel_flow(context: &Context, parsed: &Parsed, reader: H2Reader, responder: Responder, record: &mut Record) {
    let mut attempt = match Attempt::new(&parsed.header, reader, responder) {
        Ok(attempt) => attempt,
        Err((responder, message)) => return deny(context, responder, Denial::BadHeader, message, record),
    };
    let key = (parsed.request.service.clone(), parsed.request.port);
    let wanted = Wanted { cluster: &parsed.request.cluster, class: context.expect(&key), since: Instant::now() };
    let mut tried: Vec<Arc<Connection>> = Vec::new();
    let mut last = (Denial::ClusterUnreachable, format!("no usable path to {}", parsed.request.cluster), String::new());
    while record.replays < ATTEMPTS {
        let Some(connection) = context.paths.choose(wanted, &tried).await else { break };
        connection.id().clone_into(&mut record.path);
        record.transport = connection.transport().as_str();
        match attempt.open(&connection).await {
            Ok(opened) => {
                forward(context, parsed, attempt, opened, &connection, record).await;
                return context.learn(&key, record.total_bytes());
            }
            Err(AttemptError::Abandoned) => {
                record.closed_by = "client";
                "the client gave up before the flow was accepted".clone_into(&mut record.error);
                return;
            }
            Err(AttemptError::Reset(error)) => {
                record.closed_by = "server";
                record.error = format!("{}: the stream ended without an answer: {error}", connection.id());
                return attempt.reset();
            }
            Err(AttemptError::Denied { denial, message, by }) => {
                if denial == Denial::Draining {
                    connection.set_draining();
                } else if denial != Denial::Overloaded {
                    return deny_by(attempt.into_responder(), denial, message, by, record);
                }
                last = (denial, message, by);
            }
            Err(AttemptError::Connection(error)) => {
                tracing::info!(connection = connection.id(), error, "flow not accepted; trying another connection");
                last = (Denial::ClusterUnreachable, format!("{}: {error}", connection.id()), String::new());
            }
        }
        record.replays += 1;
        context.metrics.replays.get_or_create(connection.labels()).inc();
        tried.push(connection);
    }
    let (denial, message, by) = last;
    let by = if by.is_empty() { context.full_name() } else { by };
    deny_by(attempt.into_responder(), denial, message, by, record);
}

async fn forward(
    context: &Context,
    parsed: &Parsed,
    attempt: Attempt,
    opened: Opened,
    connection: &Connection,
    record: &mut Record,
) {
    let Opened { mut io, accepted, in_use: _in_use } = opened;
    record.accepted();
    record.endpoint.clone_from(&accepted.endpoint);
    let accepted = Accepted {
        path: connection.id().to_owned(),
        source_gateway: context.name.clone(),
        usable_for_ms: connection.usable_for_ms(Instant::now()),
        ..accepted
    };
    let (reader, responder, sent) = attempt.into_parts();
    let Some(headers) = reply_headers(&flow::accepted(accepted)) else { return };
    let writer = match responder.accept(headers) {
        Ok(writer) => writer,
        Err(error) => {
            record.closed_by = "client";
            record.error = error.to_string();
            return;
        }
    };
    if parsed.request.mode == TunnelMode::Probe {
        // The far gateway has ended the stream already.
        let _ = io.shutdown().await;
    }
    let mut client = H2Io::join(reader, writer);
    let too_slow = io.too_slow();
    let copying = async {
        match parsed.request.has_datagrams() {
            true => {
                let relay = Relay { datagrams: io.datagrams(), sent: &sent, metrics: &context.metrics };
                relay.run(&mut client, &mut io).await
            }
            false => copy_bidirectional(&mut client, &mut io, None).await,
        }
    };
    let outcome = tokio::select! {
        outcome = copying => outcome,
        () = too_slow.cancelled() => cut("the client reads too slowly"),
        () = context.shutdown.ended().cancelled_owned() => cut("the gateway ended"),
    };
    record.carried(outcome.a_to_b + sent.len() as u64, outcome.b_to_a);
    record.closed_by = match outcome.closed_by {
        Side::A => "client",
        Side::B => "server",
        Side::Us => "gateway",
    };
    match outcome.error {
        Some(error) => record.error = error.to_string(),
        None => io.settled().await,
    }
}

fn deny(context: &Context, responder: Responder, denial: Denial, message: String, record: &mut Record) {
    deny_by(responder, denial, message, context.full_name(), record);
}

fn deny_by(responder: Responder, denial: Denial, message: String, by: String, record: &mut Record) {
    record.denied(denial);
    record.error = format!("{by}: {message}");
    let headers = reply_headers(&flow::denied(denial, message, by)).unwrap_or_default();
    responder.refuse(StatusCode::SERVICE_UNAVAILABLE, headers);
}

fn reply_headers(reply: &Reply) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let value = tunnel::to_header_value(reply).ok()?;
    Some(vec![(HeaderName::from_static(api::TUNNEL_REPLY), value)])
}
