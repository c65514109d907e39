//! Serving HTTP on one stream of whatever kind, within limits and with a graceful end.

mod idle;
mod opening;
mod unreadable;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use mesh::HTTP2_BOUNDS;
use telemetry::shed;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::body::{Body, chain};
use crate::listen::{Lifecycle, Limits};
use idle::Activity;
use opening::Opening;
pub use unreadable::Unreadable;

/// Bytes that a peer may send on one HTTP/2 stream beyond what was read.
pub const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for a whole HTTP/2 connection; bounds its memory, and lets a few slow readers be slow alone.
pub const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// Serves HTTP/1.1 and HTTP/2 with prior knowledge, told apart by the first bytes, until the client ends it or the last
/// request after draining is answered. A connection without requests ends after a while. `Some`: it ended because the client
/// sent what is no request; it has been answered.
pub async fn serve<T, H, F>(io: T, limits: &Limits, life: &Lifecycle, handle: H) -> Option<Unreadable>
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
        .max_header_list_size(HTTP2_BOUNDS.header_list)
        .max_concurrent_streams(limits.streams)
        .max_pending_accept_reset_streams(HTTP2_BOUNDS.pending_accept_resets)
        .max_local_error_reset_streams(HTTP2_BOUNDS.local_error_resets)
        .max_send_buf_size(HTTP2_BOUNDS.send_buffer)
        .keep_alive_interval(HTTP2_BOUNDS.keep_alive)
        .keep_alive_timeout(HTTP2_BOUNDS.keep_alive_timeout)
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
        () = activity.abused() => {
            shed(limits.listener, "resets");
            return None;
        }
    };
    let error = result.err()?;
    tracing::debug!(error = chain(error.as_ref()), "HTTP connection failed");
    let Some(error) = error.downcast_ref::<hyper::Error>() else {
        shed(limits.listener, SLOW_HEAD);
        return None;
    };
    if let Some(reason) = why_shed(error) {
        shed(limits.listener, reason);
    }
    Unreadable::of(error)
}

const SLOW_HEAD: &str = "slow-head";

/// Why a connection had to be given up, in the words of `telemetry::shed`; `None`: it just ended.
pub fn why_shed(error: &hyper::Error) -> Option<&'static str> {
    let ours = |error: &h2::Error| error.is_library() && !error.is_io();
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    match error {
        error if error.is_timeout() => Some(SLOW_HEAD),
        _ if cause.is_some_and(|cause| ours(cause) && cause.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM)) => {
            Some("resets")
        }
        _ if cause.is_some_and(ours) => Some("protocol"),
        error => Unreadable::of(error).map(Unreadable::as_str),
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

    #[tokio::test(start_paused = true)]
    async fn a_client_that_gives_up_its_requests_all_the_time_is_cut_off() {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let server = tokio::spawn(async move {
            let handle = |_| std::future::pending();
            serve(far, &Limits::default(), &Lifecycle::default(), handle).await
        });
        let (mut requests, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(near)).await.unwrap();
        let client = tokio::spawn(connection);
        let mut given_up = 0;
        while requests.ready().await.is_ok() {
            let answer = requests.send_request(Request::get("http://a/").body(body::empty()).unwrap());
            // Long enough for the request to arrive.
            let _ = tokio::time::timeout(Duration::from_millis(10), answer).await;
            given_up += 1;
            assert!(given_up < 1000, "it goes on for ever");
        }
        assert!(given_up >= 500, "after {given_up}");
        assert_eq!(server.await.unwrap(), None);
        let _ = client.await;
    }
}
