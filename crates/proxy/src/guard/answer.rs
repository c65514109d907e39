//! What refused clients get.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, SERVER, WWW_AUTHENTICATE};
use http::{HeaderMap, Response, StatusCode};

use crate::body::{self, Body};
use crate::reply;

use super::tokens::TokenError;

/// A refusal in the client's words: gRPC wants its status in headers.
pub(super) fn refusal(status: StatusCode, message: &str, grpc: bool) -> Response<Body> {
    let mut response = if grpc {
        reply::trailers_only(grpc_code(status), message)
    } else {
        let mut response = Response::new(body::full(message.to_owned()));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        response
    };
    sign(&mut response);
    response
}

/// Says who answered. The header of denials is missing on purpose: these words are for the client, and a peer's proxy
/// would put its own in their place.
fn sign(response: &mut Response<Body>) {
    response.headers_mut().insert(SERVER, HeaderValue::from_static("isthmus"));
}

/// The answer to a token that is not accepted. `url` is what was asked for.
pub(super) fn bad_token(error: &TokenError, url: &str, grpc: bool) -> Response<Body> {
    let mut response = refusal(error.status, &error.text, grpc);
    let plain: String = url.chars().filter(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\')).collect();
    let challenge = format!("Bearer realm=\"{plain}\", error=\"invalid_token\"");
    put(response.headers_mut(), WWW_AUTHENTICATE, &challenge);
    response
}

/// The answer that an authorizer wrote.
pub(super) fn written(status: StatusCode, headers: HeaderMap, text: Bytes, grpc: bool) -> Response<Body> {
    if grpc {
        let mut response = refusal(status, &String::from_utf8_lossy(&text), grpc);
        for (name, value) in headers.iter().filter(|(name, _)| **name != CONTENT_TYPE) {
            response.headers_mut().append(name.clone(), value.clone());
        }
        return response;
    }
    let mut response = Response::new(body::full(text));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    sign(&mut response);
    response
}

/// Sets a header to a text of which only what headers hold is kept.
pub(super) fn put(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    let plain: String = text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
    if let Ok(value) = HeaderValue::from_str(&plain) {
        headers.insert(name, value);
    }
}

/// As elsewhere, but for limits: they are RESOURCE_EXHAUSTED, because UNAVAILABLE asks clients to come back at once.
fn grpc_code(status: StatusCode) -> u32 {
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::PAYLOAD_TOO_LARGE => 8,
        _ => reply::grpc_code(status),
    }
}
