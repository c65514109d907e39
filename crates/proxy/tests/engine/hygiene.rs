//! Bytes that could be read in two ways: what each listener answers, and that an application never sees a request that the
//! proxies in front of it have not counted.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mesh::Protocol;
use proxy::access::Record;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::world::*;

/// An application that reads requests as RFC 9112 says, with a parser of its own, and remembers each.
pub(crate) struct Origin {
    pub(crate) at: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Origin {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, seen) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let memory = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let memory = memory.clone();
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    while let Some(request) = read_request(&mut stream).await {
                        memory.lock().unwrap().push(request);
                        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { at, seen }
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

/// `<method> <target> <host> <body>`, and ` +<name>` for each field that begins with `x-` and is not the mesh's.
async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
        let line = line.strip_suffix("\r\n").unwrap_or_else(|| panic!("a bare LF reached the application: {line:?}"));
        if line.is_empty() {
            break;
        }
        lines.push(line.to_owned());
    }
    let fields: Vec<(&str, &str)> = lines[1..].iter().map(|line| line.split_once(": ").unwrap()).collect();
    let all = |wanted: &str| -> Vec<&str> {
        fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| *value).collect()
    };
    let (lengths, codings) = (all("content-length"), all("transfer-encoding"));
    assert!(lengths.len() + codings.len() <= 1, "two lengths reached the application: {lines:?}");
    assert_eq!(all("host").len(), 1, "{lines:?}");
    let body = match lengths.first() {
        Some(length) => {
            let mut body = vec![0; length.parse().unwrap()];
            stream.read_exact(&mut body).await.ok()?;
            String::from_utf8(body).unwrap()
        }
        None if codings == ["chunked"] => read_chunks(stream).await?,
        None => String::new(),
    };
    let line = lines[0].strip_suffix(" HTTP/1.1").unwrap();
    let mut told = format!("{line} {} {body}", all("host")[0]).trim_end().to_owned();
    for (name, _) in fields {
        let ours = ["x-request-id", "x-forwarded-proto", "x-forwarded-client-cert", "x-envoy-attempt-count"];
        if name.starts_with("x-") && !ours.contains(&name) {
            told += &format!(" +{name}");
        }
    }
    Some(told)
}

async fn read_chunks(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
        let length = usize::from_str_radix(line.strip_suffix("\r\n").unwrap(), 16).unwrap();
        let mut chunk = vec![0; length + 2];
        stream.read_exact(&mut chunk).await.ok()?;
        assert!(chunk.ends_with(b"\r\n"), "{chunk:?}");
        if length == 0 {
            return String::from_utf8(body).ok();
        }
        body.extend_from_slice(&chunk[..length]);
    }
}

/// Sends bytes, reads until the end or until nothing more comes, and gives the statuses.
async fn statuses(at: SocketAddr, bytes: &[u8]) -> Vec<u16> {
    let mut stream = TcpStream::connect(at).await.unwrap();
    // Who is refused early need not take the rest.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "no end: {:?} after {:?}", String::from_utf8_lossy(&answer), String::from_utf8_lossy(bytes));
    let answer = String::from_utf8_lossy(&answer);
    answer.split("HTTP/1.1 ").skip(1).map(|part| part[..3].parse().unwrap()).collect()
}

/// A second request on the same connection, which must not become the body of the first, nor the other way round.
const NEXT: &str = "GET /next HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

struct Case {
    name: &'static str,
    /// Followed by [`NEXT`].
    bytes: String,
    statuses: &'static [u16],
    seen: &'static [&'static str],
}

fn case(name: &'static str, bytes: impl Into<String>, statuses: &'static [u16], seen: &'static [&'static str]) -> Case {
    Case { name, bytes: bytes.into(), statuses, seen }
}

fn post(fields: &str, body: &str) -> String {
    format!("POST /x HTTP/1.1\r\nhost: a\r\n{fields}\r\n{body}")
}

fn get_of(fields: &str) -> String {
    format!("GET /x HTTP/1.1\r\n{fields}\r\n")
}

const BOTH: &[&str] = &["GET /x a", "GET /next a"];
const NOBODY: &[&str] = &[];

fn framing() -> Vec<Case> {
    let posted: &[&str] = &["POST /x a hello", "GET /next a"];
    let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    vec![
        case("a length", post("content-length: 5\r\n", "hello"), &[200, 200], posted),
        case("equal lengths", post("content-length: 5\r\ncontent-length: 5\r\n", "hello"), &[200, 200], posted),
        case("chunks", post("transfer-encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"), &[200, 200], posted),
        case("Chunked", post("transfer-encoding: Chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"), &[200, 200], posted),
        case("extension", post("transfer-encoding: chunked\r\n", "5;a=b\r\nhello\r\n0\r\n\r\n"), &[200, 200], posted),
        // RFC 9112 §6.3: the coding counts, and the connection ends; nothing behind it is read.
        case("cl.te", post("content-length: 44\r\ntransfer-encoding: chunked\r\n", smuggled), &[200], &["POST /x a"]),
        case("te.cl", post("transfer-encoding: chunked\r\ncontent-length: 4\r\n", smuggled), &[200], &["POST /x a"]),
        case("lengths differ", post("content-length: 5\r\ncontent-length: 6\r\n", "hello"), &[400], NOBODY),
        case("a list of lengths", post("content-length: 5, 5\r\n", "hello"), &[400], NOBODY),
        case("a signed length", post("content-length: +5\r\n", "hello"), &[400], NOBODY),
        case("a negative length", post("content-length: -5\r\n", "hello"), &[400], NOBODY),
        case("a hex length", post("content-length: 0x5\r\n", "hello"), &[400], NOBODY),
        case("an empty length", post("content-length: \r\n", "hello"), &[400], NOBODY),
        case("a huge length", post("content-length: 99999999999999999999\r\n", "hello"), &[400], NOBODY),
        case("a length in words", post("content-length: 5 \x0b\r\n", "hello"), &[400], NOBODY),
        case("gzip, chunked", post("transfer-encoding: gzip, chunked\r\n", smuggled), &[501], NOBODY),
        case("chunked, gzip", post("transfer-encoding: chunked, gzip\r\n", smuggled), &[400], NOBODY),
        case("identity", post("transfer-encoding: identity\r\n", ""), &[400], NOBODY),
        case("xchunked", post("transfer-encoding: xchunked\r\n", smuggled), &[400], NOBODY),
        case(
            "chunked with a tab",
            post("transfer-encoding:\tchunked\r\n", "0\r\n\r\n"),
            &[200, 200],
            &["POST /x a", "GET /next a"],
        ),
        case("chunked with VT", post("transfer-encoding: \x0bchunked\r\n", smuggled), &[400], NOBODY),
        case(
            "chunked twice",
            post("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", smuggled),
            &[501],
            NOBODY,
        ),
        case(
            "x, then chunked",
            post("transfer-encoding: x\r\ntransfer-encoding: chunked\r\n", smuggled),
            &[501],
            NOBODY,
        ),
        case(
            "chunks by 1.0",
            "POST /x HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            &[400],
            NOBODY,
        ),
        case("space before colon", post("content-length : 5\r\n", "hello"), &[400], NOBODY),
        case("space before coding's colon", post("transfer-encoding : chunked\r\n", smuggled), &[400], NOBODY),
        case("a folded field", post("x-a: 1\r\n two\r\ncontent-length: 5\r\n", "hello"), &[400], NOBODY),
        case("a folded coding", post("transfer-encoding:\r\n chunked\r\n", smuggled), &[400], NOBODY),
        case("a field without a name", post(": 1\r\n", ""), &[400], NOBODY),
        case("a field without a colon", post("transfer-encoding\r\n", ""), &[400], NOBODY),
        case("NUL in a value", post("x-a: 1\x002\r\n", ""), &[400], NOBODY),
        case("CR in a value", post("x-a: 1\r2\r\n", ""), &[400], NOBODY),
        case("NUL in a name", post("x\x00a: 1\r\n", ""), &[400], NOBODY),
        // Lines may end so (RFC 9112 §2.2); the application sees them as they should be.
        case("bare LF", "GET /x HTTP/1.1\nhost: a\n\n", &[200, 200], BOTH),
    ]
}

fn chunks() -> Vec<Case> {
    let broken = |name, body: &str| case(name, post("transfer-encoding: chunked\r\n", body), &[400], NOBODY);
    vec![
        broken("a chunk's length in words", "five\r\nhello\r\n0\r\n\r\n"),
        broken("a chunk's length with a sign", "+5\r\nhello\r\n0\r\n\r\n"),
        broken("a chunk's length with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        broken("a chunk that is too long", "4\r\nhello\r\n0\r\n\r\n"),
        broken("a chunk without its end", "5\r\nhelloX0\r\n\r\n"),
        broken("a chunk's length ends in LF", "5\nhello\r\n0\r\n\r\n"),
        broken("a chunk's extension with LF", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
        broken("a chunk's length that overflows", "fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
    ]
}

fn targets() -> Vec<Case> {
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n");
    let many = "x-a: 1\r\n".repeat(101);
    let long = format!("host: a\r\nx-a: {}\r\n", "x".repeat(70_000));
    vec![
        case("the target wins", get("http://a/x"), &[200, 200], BOTH),
        case("the target wins over host", "GET http://a/x HTTP/1.1\r\nhost: b\r\n\r\n", &[200, 200], BOTH),
        case("a fragment is not passed on", get("/x#/../y"), &[200, 200], BOTH),
        case("a user in the target", get("http://me@a/x"), &[400], NOBODY),
        case("a user in host", get_of("host: me@a\r\n"), &[400], NOBODY),
        case("another scheme", get("ftp://a/x"), &[400], NOBODY),
        case("no path", get("x"), &[400], NOBODY),
        case("a star", get("*"), &[400], NOBODY),
        case("an authority", get("a:80"), &[400], NOBODY),
        case("NUL in the path", get("/\x00"), &[400], NOBODY),
        case("%00", get("/%00"), &[400], NOBODY),
        case("an escaped line end", get("/a%0d%0ax"), &[400], NOBODY),
        case("a broken escape", get("/%zz"), &[400], NOBODY),
        case("no host", get_of(""), &[400], NOBODY),
        case("two hosts", get_of("host: a\r\nhost: a\r\n"), &[400], NOBODY),
        case("two different hosts", get_of("host: a\r\nhost: b\r\n"), &[400], NOBODY),
        case("a list of hosts", get_of("host: a, b\r\n"), &[400], NOBODY),
        case("an empty host", get_of("host: \r\n"), &[400], NOBODY),
        case("TRACE", "TRACE /x HTTP/1.1\r\nhost: a\r\n\r\n", &[405], NOBODY),
        case("another version", "GET /x HTTP/1.2\r\nhost: a\r\n\r\n", &[400], NOBODY),
        case("no version", "GET /x\r\nhost: a\r\n\r\n", &[400], NOBODY),
        case("two spaces", "GET  /x HTTP/1.1\r\nhost: a\r\n\r\n", &[400], NOBODY),
        case("a space in the target", get("/x y"), &[400], NOBODY),
        case("too many fields", get_of(&format!("host: a\r\n{many}")), &[431], NOBODY),
        case("a head too long", get_of(&long), &[431], NOBODY),
        case("a target too long", get(&format!("/{}", "x".repeat(40_000))), &[414], NOBODY),
        case("pipelined", get("/x") + &get("/y"), &[200, 200, 200], &["GET /x a", "GET /y a", "GET /next a"]),
        case("an expectation", post("expect: 200-ok\r\ncontent-length: 5\r\n", "hello"), &[417], NOBODY),
        case(
            "100-continue",
            post("expect: 100-continue\r\ncontent-length: 5\r\n", "hello"),
            &[100, 200, 200],
            &["POST /x a hello", "GET /next a"],
        ),
        case(
            "an upgrade to h2c",
            get_of("host: a\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAA\r\n"),
            &[200, 200],
            BOTH,
        ),
    ]
}

fn nominated() -> Vec<Case> {
    let refused = |name, connection: &str| {
        let claims =
            "x-forwarded-for: 1.2.3.4\r\nauthorization: x\r\ncookie: a=1\r\nx-forwarded-client-cert: By=me\r\n";
        case(name, get_of(&format!("host: a\r\n{claims}connection: {connection}\r\n")), &[400], NOBODY)
    };
    vec![
        case(
            "a field of this hop",
            get_of("host: a\r\nx-hop: 1\r\nx-kept: 1\r\nconnection: x-hop\r\n"),
            &[200, 200],
            &["GET /x a +x-kept", "GET /next a"],
        ),
        refused("x-forwarded-for", "keep-alive, X-Forwarded-For"),
        refused("x-forwarded-client-cert", "x-forwarded-client-cert"),
        refused("authorization", "authorization"),
        refused("cookie", "cookie"),
        refused("host", "host"),
        case("content-length", post("connection: content-length\r\ncontent-length: 5\r\n", "hello"), &[400], NOBODY),
    ]
}

#[tokio::test]
async fn no_request_reaches_the_application_that_a_proxy_has_not_counted() {
    let (world, origin) = (World::new(), Origin::start().await);
    let server = Server::of(&world, "east", "a", Protocol::Http, origin.at).await;
    // Whatever host a request names, it goes to this service.
    let view = ViewOf::cluster("east").local("a", Protocol::Http, &[server.ip]);
    let client = Client::start(&world, view);
    let captured = client.capture("a").await;
    let doors = [
        ("client's sidecar", captured, &client.records),
        ("server's sidecar", (server.ip, PORT).into(), &server.records),
    ];
    let mut wrong = Vec::new();
    for case in framing().into_iter().chain(chunks()).chain(targets()).chain(nominated()) {
        for (door, at, records) in &doors {
            records.lock().unwrap().clear();
            let got = statuses(*at, format!("{}{NEXT}", case.bytes).as_bytes()).await;
            let (seen, records) = (origin.take(), records.lock().unwrap());
            wrong.extend(
                check(&case, &got, &seen, &records).into_iter().map(|why| format!("{} at {door}: {why}", case.name)),
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is not as it should be.
fn check(case: &Case, got: &[u16], seen: &[String], records: &[Record]) -> Vec<String> {
    let mut wrong = Vec::new();
    // A chunk may break when the head is on its way already; then its refusal is another one.
    let broken = case.name.starts_with("a chunk");
    if broken && !got.iter().all(|status| *status >= 400) || !broken && got != case.statuses {
        wrong.push(format!("answered {got:?}, not {:?}", case.statuses));
    }
    if seen != case.seen {
        wrong.push(format!("the application saw {seen:?}, not {:?}", case.seen));
    }
    let counted = records.iter().filter(|record| record.status == 200).count();
    if seen.len() != counted {
        wrong.push(format!("the application saw {} requests and the proxy {counted}", seen.len()));
    }
    let refused = case.statuses.iter().find(|status| **status >= 400).filter(|_| !broken);
    if let Some(status) = refused {
        let told = |record: &&Record| record.status == *status && record.flags == "DPE";
        if !records.iter().any(|record| told(&record) && !record.response_code_details.is_empty()) {
            let told: Vec<_> = records.iter().map(|record| (record.status, record.flags)).collect();
            wrong.push(format!("the log says nothing of the refusal: {told:?}"));
        }
    }
    wrong
}
