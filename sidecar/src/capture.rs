//! Explicit capture: the workload uses the sidecar as its proxy (`http_proxy`, `https_proxy`, `all_proxy=socks5h://…`).
//!
//! The first byte tells SOCKS5 (RFC 1928, version 5) from HTTP. Host names are never resolved here: they are what is
//! routed on.

mod http;
mod socks;

use std::time::Duration;

use proxy::listen::{Lifecycle, Limits, accept};
use proxy::outbound::Outbound;
use tokio::net::{TcpListener, TcpStream};

/// How long a client may take to say what it wants.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves the workload until draining.
pub async fn serve(listener: TcpListener, outbound: Outbound, life: Lifecycle) {
    let limits = Limits::for_own_workload();
    accept(listener, &limits, &life, |accepted| {
        let (outbound, limits, life) = (outbound.clone(), limits.clone(), life.clone());
        async move {
            captured(accepted.stream, outbound, &limits, &life).await;
            drop(accepted.permit);
        }
    })
    .await;
}

async fn captured(stream: TcpStream, outbound: Outbound, limits: &Limits, life: &Lifecycle) {
    let mut first = [0];
    // Keep-alive pools connect ahead of their first request, so that silence is no fault before it is long.
    match tokio::time::timeout(limits.header_timeout, stream.peek(&mut first)).await {
        Ok(Ok(1)) => {}
        Ok(Ok(_)) | Err(_) => return,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a captured connection broke");
            return;
        }
    }
    if first[0] != socks::VERSION {
        return http::serve(stream, outbound, limits, life).await;
    }
    match tokio::time::timeout(GREETING_TIMEOUT, socks::accept(stream)).await {
        Ok(Ok((stream, host, port))) => outbound.stream(stream, host, port).await,
        Ok(Err(error)) => tracing::debug!(%error, "a SOCKS client was refused"),
        Err(_) => tracing::debug!("a SOCKS client did not say what it wants in time"),
    }
}
