//! HTTP/2 that must not become HTTP/1: frames written by hand, for what no client library would send.

use std::time::Duration;

use identity::{PeerPolicy, connect_tls};
use mesh::{MTLS_PORT, Protocol};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::hygiene::Origin;
use crate::world::*;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const GO_AWAY: u8 = 7;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// Literal fields without indexing (RFC 7541 §6.2.2), as they are.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// What one stream of these fields and this body comes to: a status, or `reset`.
async fn outcome<T: AsyncRead + AsyncWrite + Unpin>(mut io: T, fields: &[(&str, &str)], body: Option<&str>) -> String {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    let ended = if body.is_none() { END_STREAM } else { 0 };
    bytes.extend(frame(HEADERS, END_HEADERS | ended, 1, &block(fields)));
    if let Some(body) = body {
        bytes.extend(frame(DATA, END_STREAM, 1, body.as_bytes()));
    }
    io.write_all(&bytes).await.unwrap();
    loop {
        let mut head = [0; 9];
        if io.read_exact(&mut head).await.is_err() {
            return "reset".into();
        }
        let mut payload = vec![0; usize::from(head[1]) * 256 + usize::from(head[2])];
        io.read_exact(&mut payload).await.unwrap();
        match (head[3], payload.first()) {
            (RESET | GO_AWAY, _) => return "reset".into(),
            // Indexed fields of the static table: `:status` 200 and 400 (RFC 7541, appendix A).
            (HEADERS, Some(0x88)) => return "200".into(),
            (HEADERS, Some(0x8c)) => return "400".into(),
            (HEADERS, first) => return format!("another status: {first:?}"),
            _ => {}
        }
    }
}

type Fields = Vec<(&'static str, &'static str)>;

struct Case {
    name: &'static str,
    fields: Fields,
    body: Option<&'static str>,
    outcome: &'static str,
    seen: &'static [&'static str],
}

fn head(more: &[(&'static str, &'static str)]) -> Fields {
    let basic = [(":method", "POST"), (":scheme", "http"), (":authority", "a:9080"), (":path", "/x")];
    basic.iter().chain(more).copied().collect()
}

fn cases() -> Vec<Case> {
    let passes = |name, more: &[_], body, seen| Case { name, fields: head(more), body, outcome: "200", seen };
    let refused = |name, more: &[_]| Case { name, fields: head(more), body: None, outcome: "400", seen: &[] };
    let reset = |name, more: &[_]| Case { name, fields: head(more), body: None, outcome: "reset", seen: &[] };
    let instead = |name, fields: &[(&'static str, &'static str)], outcome| Case {
        name,
        fields: fields.to_vec(),
        body: None,
        outcome,
        seen: &[],
    };
    let [method, scheme, authority, path] =
        [(":method", "GET"), (":scheme", "http"), (":authority", "a:9080"), (":path", "/x")];
    vec![
        passes("a request", &[], None, &["POST /x a:9080"]),
        passes("a body", &[], Some("hello"), &["POST /x a:9080 hello"]),
        passes("a length that fits", &[("content-length", "5")], Some("hello"), &["POST /x a:9080 hello"]),
        passes("te: trailers", &[("te", "trailers")], None, &["POST /x a:9080"]),
        passes("the same host", &[("host", "a:9080")], None, &["POST /x a:9080"]),
        refused("another host", &[("host", "b")]),
        refused("two hosts", &[("host", "a:9080"), ("host", "a:9080")]),
        reset("two lengths", &[("content-length", "0"), ("content-length", "5")]),
        reset("a length without a body", &[("content-length", "5")]),
        reset("a length in words", &[("content-length", "five")]),
        reset("a signed length", &[("content-length", "+0")]),
        reset("connection", &[("connection", "close")]),
        reset("keep-alive", &[("keep-alive", "timeout=5")]),
        reset("proxy-connection", &[("proxy-connection", "close")]),
        reset("upgrade", &[("upgrade", "websocket")]),
        reset("transfer-encoding", &[("transfer-encoding", "chunked")]),
        reset("te: gzip", &[("te", "gzip")]),
        reset("a capital letter", &[("X-A", "1")]),
        reset("a line end in a value", &[("x-a", "1\r\nx-b: 2")]),
        reset("LF in a value", &[("x-a", "1\nx-b: 2")]),
        reset("NUL in a value", &[("x-a", "1\0")]),
        reset("a line end in a name", &[("x-a: 1\r\nx-b", "2")]),
        reset("a colon in a name", &[("x-a:", "2")]),
        reset("a space in a name", &[("x a", "2")]),
        reset("an empty name", &[("", "2")]),
        reset("an unknown pseudo-header", &[(":protocol-x", "2")]),
        reset("two paths", &[(":path", "/y")]),
        reset("a pseudo-header behind a field", &[("x-a", "1"), (":path", "/y")]),
        instead("a line end in the path", &[method, scheme, authority, (":path", "/x HTTP/1.1\r\nx-a: 1")], "reset"),
        instead("an empty path", &[method, scheme, authority, (":path", "")], "reset"),
        instead("no path", &[method, scheme, authority], "reset"),
        instead("no method", &[scheme, authority, path], "reset"),
        instead("a line end in the method", &[(":method", "GET /y HTTP/1.1\r\n"), scheme, authority, path], "reset"),
        instead("a line end in the authority", &[method, scheme, (":authority", "a\r\nx: 1"), path], "reset"),
        instead("a user in the authority", &[method, scheme, (":authority", "me@a:9080"), path], "400"),
        instead("another scheme", &[method, (":scheme", "ftp"), authority, path], "400"),
        instead("an escaped NUL", &[method, scheme, authority, (":path", "/%00")], "400"),
    ]
}

#[tokio::test]
async fn http2_says_nothing_in_http1_that_it_did_not_say() {
    let (world, origin) = (World::new(), Origin::start().await);
    let server = Server::of(&world, "east", "a", Protocol::Http, origin.at).await;
    let client = Client::start(&world, ViewOf::cluster("east").local("a", Protocol::Http, &[server.ip]));
    let captured = client.capture("a").await;
    let web = world.credentials("east", &id("east", "web"));
    let mut wrong = Vec::new();
    for case in cases() {
        for door in ["client's sidecar", "server's plain port", "server's mTLS port"] {
            let at = match door {
                "client's sidecar" => captured,
                "server's plain port" => (server.ip, PORT).into(),
                _ => (server.ip, MTLS_PORT).into(),
            };
            let tcp = TcpStream::connect(at).await.unwrap();
            let told = async {
                if at.port() != MTLS_PORT {
                    return outcome(tcp, &case.fields, case.body).await;
                }
                let config = web.client_config(PeerPolicy::AnyKnown, &[b"h2"]).unwrap();
                let (tls, _) = connect_tls(config, tcp, Duration::from_secs(5)).await.unwrap();
                outcome(tls, &case.fields, case.body).await
            };
            let told = tokio::time::timeout(Duration::from_secs(20), told).await.unwrap_or("nothing".into());
            // A request whose body is not what was said may have begun before that shows; whole it is never seen.
            let seen = origin.take();
            if told != case.outcome || seen != case.seen {
                wrong.push(format!("{} at {door}: {told}, not {}; seen: {seen:?}", case.name, case.outcome));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
