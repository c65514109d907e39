//! The echo server and the client for every protocol, over real sockets; a small CONNECT proxy stands in for a sidecar.

#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot go on says why and ends")]

use std::net::SocketAddr;
use std::time::Duration;

use fleet::call::{Call, Speak, connect};
use fleet::echo::{Answer, Echo, EchoPort, Seen, Whoami};
use fleet::file::PortProtocol;
use fleet::forward::Forward;
use fleet::load::{Load, summarize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

struct Ground {
    echo: Echo,
    proxy: SocketAddr,
}

impl Ground {
    /// The port of a protocol.
    fn port(&self, protocol: PortProtocol) -> SocketAddr {
        let index = PortProtocol::ALL.iter().position(|known| *known == protocol).expect("known");
        self.echo.addresses[index]
    }

    fn call(&self, protocol: PortProtocol, speak: Speak, path: &str) -> Call {
        let port = self.port(protocol);
        // HTTP/1.1 in absolute form needs no proxy: a server must accept it (RFC 9112 §3.2.2).
        let proxy = if speak == Speak::Http1 { port } else { self.proxy };
        let mut call = Call::get(proxy, &format!("http://{port}{path}")).expect("a call");
        call.speak = speak;
        call.within = Duration::from_secs(10);
        call
    }
}

async fn ground() -> Ground {
    let listen: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let ports: Vec<EchoPort> = PortProtocol::ALL
        .into_iter()
        .map(|protocol| EchoPort { name: protocol.as_str().into(), protocol, listen })
        .collect();
    let whoami = Whoami { pod: "web-1".into(), cluster: "east".into(), version: "v1".into(), ..Whoami::default() };
    let echo = Echo::start(&ports, whoami).await.expect("serves");
    let listener = TcpListener::bind(listen).await.expect("binds");
    let proxy = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(tunnel(stream));
        }
    });
    Ground { echo, proxy }
}

async fn tunnel(stream: TcpStream) -> std::io::Result<()> {
    let mut client = BufReader::new(stream);
    let mut line = String::new();
    client.read_line(&mut line).await?;
    let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
    while line.trim_end() != "" {
        line.clear();
        client.read_line(&mut line).await?;
    }
    let Ok(mut server) = TcpStream::connect(&target).await else {
        return client.write_all(b"HTTP/1.1 503 Service Unavailable\r\nx-reason: no endpoint\r\n\r\n").await;
    };
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await.map(|_| ())
}

fn answer(body: &[u8]) -> Answer {
    serde_json::from_slice(body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(body)))
}

#[tokio::test]
async fn http_answers_who_served_and_whom_the_sidecar_vouched_for() {
    let ground = ground().await;
    for (speak, protocol) in [(Speak::Http1, "http/1.1"), (Speak::Http2, "http/2")] {
        let mut call = ground.call(PortProtocol::Http, speak, "/x?y=1");
        call.header("x-forwarded-client-cert: Hash=1;URI=spiffe://east.demo/ns/default/sa/web").expect("a header");
        call.method = http::Method::POST;
        call.body = "hello".into();
        let reply = call.send().await.expect("an answer");
        assert_eq!(reply.status, Some(http::StatusCode::OK));
        let answer = answer(&reply.body);
        assert_eq!((answer.whoami.pod.as_str(), answer.whoami.cluster.as_str()), ("web-1", "east"));
        assert_eq!(
            (answer.protocol.as_str(), answer.method.as_str(), answer.path.as_str()),
            (protocol, "POST", "/x?y=1")
        );
        assert_eq!(answer.client_identity, "spiffe://east.demo/ns/default/sa/web");
        assert_eq!(answer.body_bytes, 5);
    }
}

#[tokio::test]
async fn special_paths_do_what_they_say() {
    let ground = ground().await;
    let get = |path: &str| {
        let call = ground.call(PortProtocol::Http, Speak::Http1, path);
        async move { call.send().await.expect("an answer") }
    };
    assert_eq!(get("/status/418").await.status.map(|status| status.as_u16()), Some(418));
    assert_eq!(get("/status/99").await.status.map(|status| status.as_u16()), Some(400));
    assert_eq!(get("/bytes/200001").await.body.len(), 200_001);
    assert_eq!(get("/bytes/many").await.status.map(|status| status.as_u16()), Some(400));
    assert_eq!(get("/delay/1").await.status.map(|status| status.as_u16()), Some(200));
    let mut sink = ground.call(PortProtocol::Http, Speak::Http2, "/sink");
    sink.method = http::Method::POST;
    sink.body = vec![0; 3_000_000].into();
    assert_eq!(answer(&sink.send().await.expect("an answer").body).body_bytes, 3_000_000);
}

#[tokio::test]
async fn a_test_may_ask_for_failures_and_for_what_was_seen() {
    let ground = ground().await;
    let call = |path: &str| ground.call(PortProtocol::Http, Speak::Http1, path);
    let status = |path: &str| {
        let call = call(path);
        async move { call.send().await.expect("an answer").status.map_or(0, |status| status.as_u16()) }
    };
    assert_eq!(status("/control/fail/2/503").await, 200);
    assert_eq!([status("/a").await, status("/b").await, status("/c").await], [503, 503, 200]);
    assert_eq!(status("/control/fail/some/503").await, 400);
    let mut asking = call("/d");
    asking.header("x-echo-status: 429").expect("a header");
    asking.header("x-echo-header: x-a=1").expect("a header");
    let reply = asking.send().await.expect("an answer");
    assert_eq!(reply.status.map(|status| status.as_u16()), Some(429));
    assert_eq!(reply.headers.get("x-a").map(http::HeaderValue::as_bytes), Some(b"1".as_slice()));
    let seen = call("/control/seen").send().await.expect("an answer");
    let seen: Seen = serde_json::from_slice(&seen.body).expect("json");
    assert_eq!((seen.requests, seen.last.expect("a request").path.as_str()), (4, "/d"));
}

#[tokio::test]
async fn grpc_answers_unary_and_both_streams() {
    let ground = ground().await;
    for (path, messages) in [("/", 1), ("/isthmus.echo.v1.Echo/ServerStream", 3), ("/BidiStream", 3)] {
        let mut call = ground.call(PortProtocol::Grpc, Speak::Grpc, path);
        call.body = "hello".into();
        let reply = call.send().await.expect("an answer");
        assert_eq!(reply.grpc_status, Some((0, String::new())));
        let lines: Vec<serde_json::Value> = String::from_utf8_lossy(&reply.body)
            .lines()
            .map(|line| serde_json::from_str(line).expect("json"))
            .collect();
        assert_eq!(lines.len(), messages, "{path}");
        assert_eq!((lines[0]["message"].as_str(), lines[0]["answer"]["pod"].as_str()), (Some("hello"), Some("web-1")));
        assert_eq!(lines[messages - 1]["index"], messages - 1);
    }
}

#[tokio::test]
async fn tcp_echoes_after_a_half_close_and_greets_first_where_declared() {
    let ground = ground().await;
    let mut call = ground.call(PortProtocol::Tcp, Speak::Tcp, "");
    // More than any buffer on the way: both directions must move at once.
    call.body = vec![7; 5_000_000].into();
    assert_eq!(call.send().await.expect("an answer").body, call.body);
    let mut call = ground.call(PortProtocol::TcpServerFirst, Speak::Tcp, "");
    call.body = "bye".into();
    let reply = call.send().await.expect("an answer");
    let end = reply.body.iter().position(|byte| *byte == b'\n').expect("a greeting");
    assert_eq!(answer(&reply.body[..end]).whoami.pod, "web-1");
    assert_eq!(&reply.body[end + 1..], b"bye");
}

#[tokio::test]
async fn a_refused_tunnel_says_why() {
    let ground = ground().await;
    let error = connect(ground.proxy, "127.0.0.1", 1).await.expect_err("refused").to_string();
    assert!(error.contains("503") && error.contains("x-reason: no endpoint"), "{error}");
}

#[tokio::test]
async fn a_forward_carries_a_half_close() {
    let ground = ground().await;
    let target = ground.port(PortProtocol::Tcp);
    let local = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let target = (target.ip().to_string(), target.port());
    let forward = Forward::start(local, ground.proxy, target, |error| panic!("{error}")).expect("an address");
    let mut stream = TcpStream::connect(forward.local).await.expect("connects");
    stream.write_all(b"over and back").await.expect("written");
    stream.shutdown().await.expect("half-closed");
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await.expect("read");
    assert_eq!(received, b"over and back");
}

#[tokio::test]
async fn a_load_starts_requests_when_they_are_due_and_counts_failures() {
    let ground = ground().await;
    let proxy = ground.port(PortProtocol::Http);
    let load = |path: &str, millis, timeout| Load {
        proxy,
        url: format!("http://{proxy}{path}").parse().expect("a URL"),
        rate: 200,
        duration: Some(Duration::from_millis(millis)),
        timeout: Duration::from_millis(timeout),
    };
    let records = load("/", 250, 20_000).start().finish().await;
    assert_eq!(records.len(), 50, "one every 5 ms, from 0 to 245 ms");
    assert!(records.windows(2).all(|pair| pair[0].due < pair[1].due));
    assert_eq!(records[49].due, Duration::from_millis(245));
    assert_eq!((records[0].pod.as_str(), records[0].cluster.as_str()), ("web-1", "east"));
    // Answers take longer than the timeout: every request still starts, and every one fails.
    let stalled = summarize(&load("/delay/5000", 100, 50).start().finish().await);
    assert_eq!((stalled.requests, stalled.failed), (20, 20));
    assert_eq!(stalled.errors.keys().collect::<Vec<_>>(), ["no answer within 50 ms"]);
}

#[tokio::test]
async fn a_stopped_echo_server_accepts_nothing_more() {
    let ground = ground().await;
    let address = ground.port(PortProtocol::Http);
    ground.echo.stop().await;
    assert!(TcpStream::connect(address).await.is_err());
}
