//! HTTP inside one cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use mesh::Protocol;
use proxy::body::{self, BodyError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::world::*;

#[tokio::test]
async fn an_http_1_1_request_reaches_the_application_with_the_proven_identity_of_the_client() {
    let world = World::new();
    let server = Server::of(&world, "east", "reviews", Protocol::Http, http_app("one").await).await;
    let client = Client::start(&world, ViewOf::cluster("east").local("reviews", Protocol::Http, &[server.ip]));
    let mut request = get("/x?y=1");
    request.headers_mut().insert("x-forwarded-client-cert", "By=evil;URI=spiffe://forged".parse().unwrap());
    request.headers_mut().insert("x-isthmus-port", "22".parse().unwrap());
    request.headers_mut().insert("connection", "keep-alive, x-hop".parse().unwrap());
    request.headers_mut().insert("x-hop", "1".parse().unwrap());
    let response = client.http1("reviews", request).await;
    assert_eq!(response.status(), 200, "{response:?}");
    let seen = json(&response);
    assert_eq!((&seen["app"], &seen["version"], &seen["uri"]), (&"one".into(), &"HTTP/1.1".into(), &"/x?y=1".into()));
    let headers = seen["headers"].as_object().unwrap();
    let xfcc = headers["x-forwarded-client-cert"].as_str().unwrap();
    assert!(xfcc.starts_with("By=spiffe://east.demo/ns/default/sa/reviews;Hash="), "{xfcc}");
    assert!(xfcc.ends_with(";Subject=\"\";URI=spiffe://east.demo/ns/default/sa/web"), "{xfcc}");
    assert_eq!(headers["host"], "reviews.default.svc.clusterset.local:9080");
    assert!(headers.contains_key("x-request-id"));
    assert!(!headers.contains_key("x-isthmus-port") && !headers.contains_key("x-hop"));
    let record = client.records.lock().unwrap()[0].clone();
    assert_eq!((record.status, record.flags, record.attempts, record.mutual_tls), (200, "-", 1, true));
    let destination = &record.destination;
    assert_eq!((destination.workload.as_str(), destination.namespace.as_str()), ("reviews-0", "default"));
    let canonical = (destination.canonical_service.as_str(), destination.canonical_revision.as_str());
    assert_eq!((canonical, record.source.canonical_service.as_str()), (("reviews", "latest"), "web"));
    assert_eq!(record.destination.identity, id("east", "reviews").to_string());
    let record = server.records.lock().unwrap()[0].clone();
    assert_eq!(record.source.identity, id("east", "web").to_string());
}

#[tokio::test]
async fn an_xfcc_header_never_survives_a_plain_port_either() {
    let world = World::new();
    let server = Server::of(&world, "east", "reviews", Protocol::Http, http_app("one").await).await;
    let mut request = get("/");
    request.headers_mut().insert("x-forwarded-client-cert", "URI=spiffe://forged".parse().unwrap());
    let response = collect(http1((server.ip, PORT).into(), request).await).await;
    assert!(json(&response)["headers"].get("x-forwarded-client-cert").is_none());
}

#[tokio::test]
async fn paths_are_normalised_on_the_way_out_and_on_the_way_in() {
    let world = World::new();
    let server = Server::of(&world, "east", "reviews", Protocol::Http, http_app("one").await).await;
    let client = Client::start(&world, ViewOf::cluster("east").local("reviews", Protocol::Http, &[server.ip]));
    for (path, expected) in [("/a/../b?x=/./", "/b?x=/./"), ("/%61/%2e%2e//c%2fd", "//c%2fd")] {
        let meshed = json(&client.http1("reviews", get(path)).await);
        let plain = json(&collect(http1((server.ip, PORT).into(), get(path)).await).await);
        assert_eq!((&meshed["uri"], &plain["uri"]), (&expected.into(), &expected.into()), "{path}");
    }
}

#[tokio::test]
async fn http2_streams_both_ways_and_keeps_trailers() {
    let world = World::new();
    let server = Server::of(&world, "east", "reviews", Protocol::Grpc, http_app("one").await).await;
    let client = Client::start(&world, ViewOf::cluster("east").local("reviews", Protocol::Grpc, &[server.ip]));
    let mut sender = http2(client.capture("reviews").await).await;
    let (tx, mut rx) = mpsc::channel::<Result<Frame<Bytes>, BodyError>>(1);
    let frames = StreamBody::new(futures(move |cx| rx.poll_recv(cx))).boxed_unsync();
    let request = Request::post("http://reviews:9080/echo").header("content-type", "application/grpc").body(frames);
    let mut response = sender.send_request(request.unwrap()).await.unwrap();
    for message in ["one", "two", "three"] {
        tx.send(Ok(Frame::data(Bytes::from(message)))).await.unwrap();
        let frame = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), message, "the echo of a message comes before the next is sent");
    }
    drop(tx);
    let trailers = response.body_mut().frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert!(response.body_mut().frame().await.is_none());
    let record = client.records.lock().unwrap()[0].clone();
    assert_eq!((record.protocol, record.grpc_status.as_deref()), ("grpc", Some("0")));
    assert_eq!((record.bytes_received, record.bytes_sent), (11, 11));
}

/// A stream from a poll function.
fn futures<T>(
    poll: impl FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<T>> + Unpin,
) -> impl tokio_stream::Stream<Item = T> {
    struct Polled<F>(F);
    impl<T, F: FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<T>> + Unpin> tokio_stream::Stream
        for Polled<F>
    {
        type Item = T;
        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<T>> {
            (self.0)(cx)
        }
    }
    Polled(poll)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_100_mb_passes_both_ways_in_bounded_memory() {
    const CHUNK: usize = 64 * 1024;
    const CHUNKS: usize = 1600;
    let world = World::new();
    let server = Server::of(&world, "east", "reviews", Protocol::Http, http_app("one").await).await;
    let client = Client::start(&world, ViewOf::cluster("east").local("reviews", Protocol::Http, &[server.ip]));
    let chunk = Bytes::from(vec![7; CHUNK]);
    let mut left = CHUNKS;
    let frames = StreamBody::new(futures(move |_| {
        std::task::Poll::Ready(left.checked_sub(1).map(|rest| {
            left = rest;
            Ok::<_, BodyError>(Frame::data(chunk.clone()))
        }))
    }));
    let before = resident();
    let at = client.capture("reviews").await;
    let request = Request::post("/echo").body(frames.boxed_unsync()).unwrap();
    let mut body = http1(at, request).await.into_body();
    let (mut total, mut most) = (0, 0);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.unwrap().into_data() {
            total += data.len();
            most = most.max(resident());
        }
    }
    assert_eq!(total, CHUNK * CHUNKS);
    assert!(most.saturating_sub(before) < 64 << 20, "grew by {} MiB", most.saturating_sub(before) >> 20);
}

/// Resident bytes of this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_requests_at_once_are_all_answered() {
    let world = World::new();
    let server = Server::of(&world, "east", "reviews", Protocol::Http, http_app("one").await).await;
    let client = Client::start(&world, ViewOf::cluster("east").local("reviews", Protocol::Http, &[server.ip]));
    let at = client.capture("reviews").await;
    let requests = (0..200).map(|_| tokio::spawn(async move { http1(at, post("/echo", vec![1; 10_000])).await }));
    for request in requests.collect::<Vec<_>>() {
        let response = collect(request.await.unwrap()).await;
        assert_eq!((response.status(), response.body().len()), (StatusCode::OK, 10_000));
    }
    assert!(client.outbound.pools().len() <= 4, "{:?}", client.outbound.pools());
}

#[tokio::test]
async fn a_request_goes_to_another_endpoint_when_the_first_refuses_whatever_its_method() {
    let world = World::new();
    let good = Server::of(&world, "east", "reviews", Protocol::Http, http_app("good").await).await;
    let (no_sidecar, app_down) = (address(), (address(), PORT).into());
    let no_app = Server::of(&world, "east", "reviews", Protocol::Http, app_down).await;
    let endpoints = [no_sidecar, no_app.ip, good.ip];
    let client = Client::start(&world, ViewOf::cluster("east").local("reviews", Protocol::Http, &endpoints));
    for _ in 0..20 {
        let response = client.http1("reviews", post("/", "body")).await;
        assert_eq!(response.status(), 200, "{response:?}");
        assert_eq!(json(&response)["app"], "good");
    }
}

#[tokio::test]
async fn an_answer_of_503_is_an_answer() {
    let world = World::new();
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let app = app_with(move |_| {
        let first = counted.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            let mut response = Response::new(body::empty());
            *response.status_mut() = if first { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
            response
        }
    })
    .await;
    let server = Server::of(&world, "east", "reviews", Protocol::Http, app).await;
    let client = Client::start(&world, ViewOf::cluster("east").local("reviews", Protocol::Http, &[server.ip]));
    for (method, asked_for, status, made) in
        [(Method::GET, "", 503, 1), (Method::POST, "", 503, 1), (Method::POST, "5xx", 200, 2)]
    {
        calls.store(0, Ordering::Relaxed);
        let request = Request::builder().method(method.clone()).uri("/").header("x-envoy-retry-on", asked_for);
        let answer = client.http1("reviews", request.body(body::empty()).unwrap()).await;
        assert_eq!((answer.status().as_u16(), calls.load(Ordering::Relaxed)), (status, made), "{method} {asked_for}");
    }
}

#[tokio::test]
async fn a_server_without_a_sidecar_gets_plain_text() {
    let world = World::new();
    let app = http_app("plain").await;
    let view = ViewOf::cluster("east").endpoints("reviews", Protocol::Http, &[app.ip()], app.port(), None);
    let client = Client::start(&world, view);
    let response = client.http1("reviews", get("/")).await;
    assert_eq!(json(&response)["app"], "plain");
    assert!(!client.records.lock().unwrap()[0].mutual_tls);
}

#[tokio::test]
async fn what_nobody_serves_is_refused_with_the_reason() {
    let world = World::new();
    let client = Client::start(&world, ViewOf::cluster("east").local("reviews", Protocol::Http, &[]));
    let response = client.http1("reviews", get("/")).await;
    assert_eq!(
        (response.status(), &response.headers()["x-isthmus-denial"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"no-endpoint".parse().unwrap())
    );
    assert_eq!(client.records.lock().unwrap()[0].flags, "UH");
}

#[tokio::test]
async fn draining_ends_connections_and_finishes_requests() {
    let world = World::new();
    let server = Server::of(&world, "east", "reviews", Protocol::Http, http_app("one").await).await;
    let client = Client::start(&world, ViewOf::cluster("east").local("reviews", Protocol::Http, &[server.ip]));
    let mut sender = http2(client.capture("reviews").await).await;
    let (tx, mut rx) = mpsc::channel::<Result<Frame<Bytes>, BodyError>>(1);
    let frames = StreamBody::new(futures(move |cx| rx.poll_recv(cx))).boxed_unsync();
    let mut response =
        sender.send_request(Request::post("http://reviews:9080/echo").body(frames).unwrap()).await.unwrap();
    let life = server.life.clone();
    let drained = tokio::spawn(async move { life.drain(std::time::Duration::from_secs(20)).await });
    server.life.draining.cancelled().await;
    tx.send(Ok(Frame::data(Bytes::from("late")))).await.unwrap();
    assert_eq!(response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "late");
    drop(tx);
    while response.body_mut().frame().await.is_some() {}
    tokio::time::timeout(std::time::Duration::from_secs(10), drained).await.expect("drains at once").unwrap();
}

#[tokio::test]
async fn an_upgraded_connection_carries_bytes_both_ways_under_the_proven_identity() {
    let world = World::new();
    let app = app_with(|mut request| async move {
        let identity = request.headers()["x-forwarded-client-cert"].clone();
        assert_eq!(request.headers()["upgrade"], "echo");
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let io = hyper_util::rt::TokioIo::new(upgraded.await.unwrap());
            let (mut reader, mut writer) = tokio::io::split(io);
            tokio::io::copy(&mut reader, &mut writer).await.unwrap();
        });
        let mut response = Response::new(body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert("connection", "upgrade".parse().unwrap());
        response.headers_mut().insert("upgrade", "echo".parse().unwrap());
        response.headers_mut().insert("seen", identity);
        response
    })
    .await;
    let server = Server::of(&world, "east", "reviews", Protocol::Http, app).await;
    let client = Client::start(&world, ViewOf::cluster("east").local("reviews", Protocol::Http, &[server.ip]));
    let mut stream = tokio::net::TcpStream::connect(client.capture("reviews").await).await.unwrap();
    let request = b"GET /ws HTTP/1.1\r\nhost: reviews\r\nconnection: Upgrade\r\nupgrade: echo\r\nx-forwarded-client-cert: forged\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push(char::from(stream.read_u8().await.unwrap()));
    }
    assert!(head.starts_with("HTTP/1.1 101") && head.contains("URI=spiffe://east.demo/ns/default/sa/web"), "{head}");
    stream.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"ping");
}
