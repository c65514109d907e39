//! Serving HTTP on one stream of whatever kind, within limits and with a graceful end.

mod idle;
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
use idle::Activity;
use opening::Opening;

/// Bytes that a peer may send on one HTTP/2 stream beyond what was read.
pub const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for a whole HTTP/2 connection; bounds its memory, and lets a few slow readers be slow alone.
pub const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// Serves HTTP/1.1 and HTTP/2 with prior knowledge, told apart by the first bytes, until the client ends it or the last
/// request after draining is answered. A connection without requests ends after a while.
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
    let activity = Activity::new();
    let used = activity.clone();
    let service = service_fn(move |request| {
        begun.store(true, Ordering::Relaxed);
        let active = used.begin();
        let answer = handle(request);
        async move { Ok::<_, Infallible>(active.until_answered(answer.await)) }
    });
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = life.draining.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = activity.idle(limits.idle) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(error = chain(error.as_ref()), "HTTP connection failed");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt;
    use hyper::client::conn::http2;
    use tokio::time::Instant;

    use super::*;
    use crate::body;

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_requests_ends_after_a_while_and_one_with_a_slow_answer_goes_on() {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let server = tokio::spawn(async move {
            let handle = |_| async {
                tokio::time::sleep(Duration::from_secs(3 * 3600)).await;
                Response::new(body::full("late"))
            };
            serve(far, &Limits::default(), &Lifecycle::default(), handle).await;
        });
        let (mut requests, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(near)).await.unwrap();
        let client = tokio::spawn(connection);
        let request = || Request::get("http://a/").body(body::empty()).unwrap();
        let answer = requests.send_request(request()).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "late");
        let idle = Instant::now();
        server.await.unwrap();
        let idle = idle.elapsed();
        assert!((Duration::from_secs(3600)..Duration::from_secs(3700)).contains(&idle), "{idle:?}");
        client.await.unwrap().unwrap();
        assert!(requests.send_request(request()).await.is_err());
    }
}
