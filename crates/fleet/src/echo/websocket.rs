//! A WebSocket whose messages come back.

use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tonic::body::Body;

/// The key of a client that asks for a WebSocket (RFC 6455 §4.2.1).
pub(super) fn key(headers: &HeaderMap) -> Option<HeaderValue> {
    let upgrade = headers.get(header::UPGRADE)?;
    upgrade.as_bytes().eq_ignore_ascii_case(b"websocket").then(|| headers.get(header::SEC_WEBSOCKET_KEY).cloned())?
}

/// Accepts the WebSocket and echoes its messages until it is closed.
pub(super) fn accept(request: Request<Incoming>, key: &HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::default());
    let Ok(accepted) = HeaderValue::try_from(derive_accept_key(key.as_bytes())) else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    };
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            // Pings are answered, and a close is, by the library.
            let echoed = message.is_text() || message.is_binary();
            if echoed && socket.send(message).await.is_err() {
                return;
            }
        }
    });
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accepted);
    response
}
