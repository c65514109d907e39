//! HTTP/2 by prior knowledge inside a CONNECT tunnel.

use anyhow::{Context, Result};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::http1::{collect, request};
use super::{Call, Reply, connect};

pub(super) async fn send(call: &Call) -> Result<Reply> {
    let (host, port) = call.authority()?;
    let tunnel = connect(call.proxy, &host, port).await?;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tunnel)).await;
    let (mut sender, connection) = handshake.with_context(|| format!("{host}:{port} speaks no HTTP/2"))?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request(call)?).await;
    let reply = collect(response.with_context(|| format!("{} gave no answer", call.url))?).await;
    driver.abort();
    reply
}
