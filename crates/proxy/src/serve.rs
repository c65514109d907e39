//! Serving HTTP on one stream of whatever kind, within limits and with a graceful end.

mod opening;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::body::{Body, chain};
use crate::listen::{Lifecycle, Limits};
use opening::Opening;

/// Bytes that a peer may send on one HTTP/2 stream beyond what was read.
pub const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for a whole HTTP/2 connection; bounds its memory, and lets a few slow readers be slow alone.
pub const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// Serves HTTP/1.1 and HTTP/2 with prior knowledge, told apart by the first bytes, until the client ends it or the last
/// request after draining is answered.
pub async fn serve<T, H, F>(io: T, limits: &Limits, life: &Lifecycle, handle: H)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.header_bytes)
        .half_close(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(limits.streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    let begun = Arc::new(AtomicBool::new(false));
    let io = Opening::new(io, limits.header_timeout, begun.clone());
    let service = service_fn(move |request| {
        begun.store(true, Ordering::Relaxed);
        let answer = handle(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = life.draining.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(error = chain(error.as_ref()), "HTTP connection failed");
    }
}
