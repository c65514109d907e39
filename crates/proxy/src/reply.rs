//! Answers that a proxy makes itself.

use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, SERVER};
use http::{HeaderMap, Response, StatusCode, Version};
use mesh::{Denial, HeadRefusal};

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

/// The same for others than the own workload ([`Fault::outline`]).
pub fn outline(fault: &Fault, grpc: bool) -> Response<Body> {
    build(fault.status(), fault.denial, fault.outline(), grpc)
}

/// An answer with a short text.
pub fn text(status: StatusCode, message: &str) -> Response<Body> {
    build(status, None, message, false)
}

/// A request whose head is refused, by its version and whether it is gRPC. What follows on an HTTP/1 connection is not read.
pub fn for_head(refusal: HeadRefusal, version: Version, grpc: bool) -> Response<Body> {
    let mut response = build(refusal.status(), None, &format!("the request is refused: {refusal}"), grpc);
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    }
    if version < Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// An answer with a short text, in the form that the client understands.
pub fn text_or_grpc(status: StatusCode, message: &str, grpc: bool) -> Response<Body> {
    build(status, None, message, grpc)
}

/// A refusal of a proxy in front of an application; its peer reads the reason from the header.
pub fn denied(status: StatusCode, denial: Denial, message: &str, grpc: bool) -> Response<Body> {
    build(status, Some(denial), message, grpc)
}

/// An answer with these bytes, as a rule says; to gRPC clients its status is mapped, and the bytes are the message, as
/// with Envoy's local replies.
pub fn direct(status: StatusCode, bytes: &[u8], grpc: bool) -> Response<Body> {
    if grpc {
        return trailers_only(grpc_code(status), &String::from_utf8_lossy(bytes));
    }
    let mut response = Response::new(body::full(bytes.to_vec()));
    *response.status_mut() = status;
    if !bytes.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    response
}

/// A gRPC answer without a message of the server: everything is in its head.
pub fn trailers_only(code: u32, message: &str) -> Response<Body> {
    let mut response = Response::new(body::empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(code));
    if let Ok(message) = HeaderValue::try_from(percent_encoded(message)).map_err(drop)
        && !message.is_empty()
    {
        headers.insert("grpc-message", message);
    }
    response
}

/// So much of a message is told; a head must stay a head.
const MESSAGE_MAX: usize = 4096;

/// gRPC over HTTP/2, "Status-Message": what is no printable ASCII, and `%`, is percent-encoded.
fn percent_encoded(message: &str) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(message.len().min(MESSAGE_MAX));
    for byte in message.bytes().take(MESSAGE_MAX) {
        match byte {
            b'%' | ..b' ' | b'\x7f'.. => {
                // Writing to a string cannot fail.
                let _ = write!(text, "%{byte:02X}");
            }
            _ => text.push(char::from(byte)),
        }
    }
    text
}

fn build(status: StatusCode, denial: Option<Denial>, message: &str, grpc: bool) -> Response<Body> {
    let mut response = if grpc {
        trailers_only(grpc_code(status), message)
    } else {
        let text = if message.is_empty() { String::new() } else { format!("{message}\n") };
        direct(status, text.as_bytes(), false)
    };
    response.headers_mut().insert(SERVER, HeaderValue::from_static("isthmus"));
    if let Some(denial) = denial {
        response.headers_mut().insert(DENIAL, HeaderValue::from_static(denial.as_str()));
    }
    response
}

/// The mapping of gRPC over HTTP/2, "HTTP to gRPC status code mapping", which Envoy uses as well.
pub fn grpc_code(status: StatusCode) -> u32 {
    match status {
        StatusCode::BAD_REQUEST => 13,
        StatusCode::UNAUTHORIZED => 16,
        StatusCode::FORBIDDEN => 7,
        StatusCode::NOT_FOUND => 12,
        // Also for timeouts: the client's own deadline is what `deadline-exceeded` tells.
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => 14,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_are_told_names_nothing_of_the_inside() {
        let inside = "east/reviews 127.16.1.25:15008";
        let timeout = std::time::Duration::from_secs(1);
        let cases = [
            (Fault::connect(inside), 503, "upstream connect error or disconnect/reset before headers"),
            (Fault::connect_timeout(inside), 503, "upstream connect error or disconnect/reset before headers"),
            (Fault::path_down(inside), 503, "upstream connect error or disconnect/reset before headers"),
            (
                Fault::denied(Denial::EndpointUnreachable, inside),
                503,
                "upstream connect error or disconnect/reset before headers",
            ),
            (Fault::denied(Denial::NoRoute, inside), 404, ""),
            (Fault::denied(Denial::NotExported, inside), 503, ""),
            (Fault::denied(Denial::NoEndpoint, inside), 503, "no healthy upstream"),
            (Fault::denied(Denial::ClusterUnreachable, inside), 503, "no healthy upstream"),
            (Fault::denied(Denial::Policy, inside), 403, "RBAC: access denied"),
            (Fault::black_hole(inside.into()), 502, ""),
            (Fault::timeout(timeout), 504, "upstream request timeout"),
            (Fault::too_large(), 413, "Payload Too Large"),
            (
                Fault::overflow(inside),
                503,
                "upstream connect error or disconnect/reset before headers. reset reason: overflow",
            ),
        ];
        for (fault, status, expected) in cases {
            assert_eq!((fault.status().as_u16(), fault.outline()), (status, expected), "{fault:?}");
        }
        let bare = outline(&Fault::denied(Denial::NoRoute, inside), false);
        assert!(!bare.headers().contains_key(CONTENT_TYPE), "{bare:?}");
        assert_eq!(http_body::Body::size_hint(bare.body()).exact(), Some(0));
    }

    #[test]
    fn grpc_clients_get_every_answer_in_its_head() {
        let cases = [
            (400, "bad", "13", Some("bad")),
            (401, "", "16", None),
            (403, "RBAC: access denied", "7", Some("RBAC: access denied")),
            (404, "100 %\n", "12", Some("100 %25%0A")),
            (429, "é", "14", Some("%C3%A9")),
            (503, "x", "14", Some("x")),
            (200, "x", "2", Some("x")),
            (301, "", "2", None),
        ];
        for (status, text, code, message) in cases {
            let status = StatusCode::from_u16(status).unwrap();
            for response in [direct(status, text.as_bytes(), true), text_or_grpc(status, text, true)] {
                assert_eq!(response.status(), StatusCode::OK);
                assert_eq!(response.headers()[CONTENT_TYPE], "application/grpc");
                assert_eq!(response.headers()["grpc-status"], code, "{status}");
                let told = response.headers().get("grpc-message").map(|value| value.to_str().unwrap());
                assert_eq!(told, message);
            }
        }
        assert!(trailers_only(2, &"%".repeat(10_000)).headers()["grpc-message"].len() <= 3 * MESSAGE_MAX);
    }
}
