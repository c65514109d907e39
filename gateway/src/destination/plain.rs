//! Flows to pods without a sidecar: their inner mTLS ends here.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context as Waker, Poll};
use std::time::Instant;

use api::tunnel::Accepted;
use mesh::{Candidate, Denial, TunnelRequest, View};
use proxy::access::unmeshed;
use proxy::inbound::Inbound;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{dial, write_reply};
use crate::context::Context;
use crate::endpoints::Busy;
use crate::flow;
use crate::record::Record;
use crate::stream::TunnelIo;

/// A pod, and the engine that serves it.
pub(super) struct Served {
    candidate: Candidate,
    engine: Inbound,
    _busy: Busy,
}

/// Finds a pod and its engine. Where the port speaks HTTP the pod must take a connection first, so that another one can
/// take its place; elsewhere a connection without a word may be counted against its peer, and the engine's own one tells.
pub(super) async fn serve(
    context: &Context,
    view: &View,
    request: &TunnelRequest,
    candidates: Vec<Candidate>,
) -> Result<Served, (Denial, String)> {
    let protocol = view.services.get(&request.service).and_then(|service| service.port(request.port));
    let (candidate, busy) = if protocol.is_some_and(|port| port.protocol.is_http()) {
        let dialled = dial(context, candidates).await?;
        (dialled.candidate, dialled.busy)
    } else {
        let best = context.endpoints.order(candidates, Instant::now()).into_iter().next();
        let candidate = best.ok_or((Denial::NoEndpoint, String::new()))?;
        let busy = context.endpoints.enter(candidate.address);
        (candidate, busy)
    };
    let engine = context.stand_ins.engine(request.service.namespace(), &candidate).await?;
    Ok(Served { candidate, engine, _busy: busy })
}

/// Accepts the flow and lets the engine serve what is inside.
pub(super) async fn carry(context: &Context, mut io: TunnelIo, served: Served, record: &mut Record) {
    record.endpoint.clone_from(&served.candidate.endpoint);
    record.server = Some(unmeshed(&context.full_name()));
    let endpoint = served.candidate.endpoint.clone();
    let accepted = Accepted { gateway: context.name.clone(), endpoint, ..Accepted::default() };
    record.accepted();
    if let Err(error) = write_reply(&mut io, &flow::accepted(accepted)).await {
        record.error = error;
        return;
    }
    let too_slow = io.too_slow();
    let moved = Arc::new(Moved::default());
    let counted = Counted { io, moved: Arc::clone(&moved) };
    tokio::select! {
        () = served.engine.serve_stream(counted, context.address) => record.closed_by = "client",
        () = too_slow.cancelled() => "the server reads too slowly".clone_into(&mut record.error),
        () = context.shutdown.ended().cancelled_owned() => "the gateway ended".clone_into(&mut record.error),
    }
    record.carried(moved.read.load(Ordering::Relaxed), moved.written.load(Ordering::Relaxed));
}

/// Bytes of one flow.
#[derive(Debug, Default)]
struct Moved {
    read: AtomicU64,
    written: AtomicU64,
}

/// Counts what goes through.
struct Counted {
    io: TunnelIo,
    moved: Arc<Moved>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Waker<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buffer);
        let count = buffer.filled().len().saturating_sub(before);
        self.moved.read.fetch_add(count as u64, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Waker<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = &polled {
            self.moved.written.fetch_add(*count as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Waker<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Waker<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
