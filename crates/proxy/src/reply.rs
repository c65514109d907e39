//! Answers that a proxy makes itself.

use http::header::{CONTENT_TYPE, HeaderValue, SERVER};
use http::{HeaderMap, Response, StatusCode};
use mesh::Denial;

use crate::body::{self, Body};
use crate::fault::Fault;
use crate::headers::DENIAL;

/// Whether a request is gRPC, which wants its errors in headers.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// The answer for a fault, in the form that the client understands.
pub fn for_fault(fault: &Fault, grpc: bool) -> Response<Body> {
    build(fault.status(), fault.denial, &fault.message, grpc)
}

/// An answer with a short text.
pub fn text(status: StatusCode, message: &str) -> Response<Body> {
    build(status, None, message, false)
}

/// An answer with a short text, in the form that the client understands.
pub fn text_or_grpc(status: StatusCode, message: &str, grpc: bool) -> Response<Body> {
    build(status, None, message, grpc)
}

/// A refusal of a proxy in front of an application; its peer reads the reason from the header.
pub fn denied(status: StatusCode, denial: Denial, message: &str, grpc: bool) -> Response<Body> {
    build(status, Some(denial), message, grpc)
}

/// An answer with these bytes, as a rule says.
pub fn direct(status: StatusCode, bytes: &[u8]) -> Response<Body> {
    let mut response = Response::new(body::full(bytes.to_vec()));
    *response.status_mut() = status;
    if !bytes.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    response
}

/// A gRPC status without a message of the server.
pub fn grpc(code: u32, message: &'static str) -> Response<Body> {
    let mut response = Response::new(body::empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(code));
    headers.insert("grpc-message", HeaderValue::from_static(message));
    response
}

fn build(status: StatusCode, denial: Option<Denial>, message: &str, grpc: bool) -> Response<Body> {
    let mut response = if grpc {
        let mut response = Response::new(body::empty());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", grpc_code(status));
        let plain: String = message.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
        if let Ok(message) = HeaderValue::from_str(&plain) {
            headers.insert("grpc-message", message);
        }
        response
    } else {
        let mut response = Response::new(body::full(format!("{message}\n")));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        response
    };
    response.headers_mut().insert(SERVER, HeaderValue::from_static("isthmus"));
    if let Some(denial) = denial {
        response.headers_mut().insert(DENIAL, HeaderValue::from_static(denial.as_str()));
    }
    response
}

/// The mapping of gRPC over HTTP/2, "HTTP to gRPC status code mapping", which Envoy uses as well.
fn grpc_code(status: StatusCode) -> HeaderValue {
    HeaderValue::from_static(match status {
        StatusCode::BAD_REQUEST => "13",
        StatusCode::UNAUTHORIZED => "16",
        StatusCode::FORBIDDEN => "7",
        StatusCode::NOT_FOUND => "12",
        // Also for timeouts: the client's own deadline is what `deadline-exceeded` tells.
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => "14",
        _ => "2",
    })
}
