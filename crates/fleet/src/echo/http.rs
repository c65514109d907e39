//! HTTP/1.1, HTTP/2 and, by content type, gRPC on one port.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::Service;

use super::answer::Answer;
use super::control::{State, Wish, parse_status};
use super::grpc::EchoService;
use super::pb::echo_server::EchoServer;
use super::websocket;

/// One piece of a streamed answer.
const CHUNK: usize = 64 * 1024;
/// Longest answer of `/bytes/<n>`.
const BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;

pub(super) async fn serve(stream: TcpStream, state: Arc<State>, shutdown: CancellationToken) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(answer(request, &state).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(1000).adaptive_window(true);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // A client that breaks off is no event worth a log line of the application.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = shutdown.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

async fn answer(request: Request<Incoming>, state: &Arc<State>) -> Response<Body> {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    if content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
        let mut server = EchoServer::new(EchoService { state: state.clone() });
        return match server.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
    }
    if let Some(key) = websocket::key(request.headers()) {
        return websocket::accept(request, &key);
    }
    let (head, mut body) = request.into_parts();
    let path: Vec<&str> = head.uri.path().trim_matches('/').split('/').collect();
    match path[..] {
        ["control", "seen"] => return json(StatusCode::OK, &state.seen()),
        ["control", "fail", count, status] if state.fail(count, status) => return plain(StatusCode::OK, "as you wish"),
        ["control", ..] => return plain(StatusCode::BAD_REQUEST, "seen, or fail/<n>/<status>"),
        ["bytes", count] => {
            return match count.parse() {
                Ok(count) if count <= BYTES_MAX => bytes(count),
                _ => plain(StatusCode::BAD_REQUEST, "how many bytes?"),
            };
        }
        _ => {}
    }
    let mut body_bytes = 0;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => body_bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
            Err(_) => return plain(StatusCode::BAD_REQUEST, "the body broke off"),
        }
    }
    let protocol = if head.version == Version::HTTP_2 { "http/2" } else { "http/1.1" };
    let answer = Answer::new(&state.whoami, &head, protocol, body_bytes);
    let failing = state.count(&answer);
    let mut wish = Wish::of(&head.headers);
    match path[..] {
        ["status", code] => match parse_status(code) {
            Some(status) => wish.status = Some(status),
            None => return plain(StatusCode::BAD_REQUEST, "no such status"),
        },
        ["delay", millis] => {
            let Ok(millis) = millis.parse() else { return plain(StatusCode::BAD_REQUEST, "how many milliseconds?") };
            wish.delay = Duration::from_millis(millis);
        }
        _ => {}
    }
    tokio::time::sleep(wish.delay).await;
    let mut response = json(failing.or(wish.status).unwrap_or(StatusCode::OK), &answer);
    response.headers_mut().extend(wish.headers);
    response
}

fn json(status: StatusCode, answer: &impl serde::Serialize) -> Response<Body> {
    let mut text = serde_json::to_vec(answer).unwrap_or_default();
    text.push(b'\n');
    respond(status, "application/json", Body::new(Full::new(Bytes::from(text))))
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    respond(status, "text/plain", Body::new(Full::new(Bytes::from_static(text.as_bytes()))))
}

/// Streams `count` bytes without a content length, so that the whole way must forward them as they come.
fn bytes(count: u64) -> Response<Body> {
    let block = Bytes::from(vec![b'x'; CHUNK]);
    let sizes = (0..count.div_ceil(CHUNK as u64)).map(move |index| {
        let left = count - index * CHUNK as u64;
        usize::try_from(left).unwrap_or(CHUNK).min(CHUNK)
    });
    let frames = sizes.map(move |size| Ok::<_, Infallible>(Frame::data(block.slice(..size))));
    respond(StatusCode::OK, "application/octet-stream", Body::new(StreamBody::new(tokio_stream::iter(frames))))
}

fn respond(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
