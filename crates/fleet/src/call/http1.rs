//! HTTP/1.1 in absolute form.

use anyhow::{Context, Result};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Call, Reply};

pub(super) async fn send(call: &Call) -> Result<Reply> {
    let stream = TcpStream::connect(call.proxy).await;
    let stream = stream.with_context(|| format!("cannot connect to the sidecar {}", call.proxy))?;
    let _ = stream.set_nodelay(true);
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.context("the sidecar speaks no HTTP")?;
    let driver = tokio::spawn(connection);
    let mut request = request(call)?;
    if !request.headers().contains_key(header::HOST) {
        let authority = call.url.authority().context("the URL has no host")?;
        request.headers_mut().insert(header::HOST, HeaderValue::from_str(authority.as_str())?);
    }
    let response = sender.send_request(request).await.with_context(|| format!("{} gave no answer", call.url))?;
    let reply = collect(response).await;
    driver.abort();
    reply
}

pub(super) fn request(call: &Call) -> Result<Request<Full<bytes::Bytes>>> {
    let mut request = Request::new(Full::new(call.body.clone()));
    *request.method_mut() = call.method.clone();
    *request.uri_mut() = call.url.clone();
    *request.headers_mut() = call.headers.clone();
    Ok(request)
}

/// Reads the whole answer with its trailers.
pub(super) async fn collect(response: Response<Incoming>) -> Result<Reply> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.context("the answer broke off")?;
    let trailers: HeaderMap = body.trailers().cloned().unwrap_or_default();
    Ok(Reply { status: Some(head.status), grpc_status: None, headers: head.headers, body: body.to_bytes(), trailers })
}
