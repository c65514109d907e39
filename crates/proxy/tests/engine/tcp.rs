//! Opaque connections.

use mesh::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::world::*;

async fn app<F, H>(handle: H) -> std::net::SocketAddr
where
    H: Fn(TcpStream) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(handle(stream));
        }
    });
    at
}

/// Greets, then says how many bytes the client sent before it closed its side.
async fn greeter(mut stream: TcpStream) {
    stream.write_all(b"hello\n").await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    stream.write_all(format!("{} bytes\n", all.len()).as_bytes()).await.unwrap();
}

async fn check_greeter(at: std::net::SocketAddr, bytes: usize) {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let mut greeting = [0; 6];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"hello\n");
    stream.write_all(&vec![7; bytes]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, format!("{bytes} bytes\n"));
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_and_each_side_closes_for_itself() {
    let world = World::new();
    for protocol in [Protocol::Tcp, Protocol::TcpServerFirst, Protocol::Auto] {
        let server = Server::of(&world, "east", "db", protocol, app(greeter).await).await;
        let client = Client::start(&world, ViewOf::cluster("east").local("db", protocol, &[server.ip]));
        check_greeter(client.capture("db").await, 1_000_000).await;
        check_greeter((server.ip, PORT).into(), 1000).await;
        let record = client.records.lock().unwrap()[0].clone();
        assert_eq!((record.bytes_received, record.flags, record.mutual_tls), (1_000_000, "-", true), "{protocol:?}");
        assert_eq!(record.destination.canonical_service, "db");
    }
}

#[tokio::test]
async fn http_on_an_undeclared_port_is_recognised_also_after_a_silence() {
    let world = World::new();
    let server = Server::of(&world, "east", "reviews", Protocol::Auto, http_app("one").await).await;
    let client = Client::start(&world, ViewOf::cluster("east").local("reviews", Protocol::Auto, &[server.ip]));
    let response = client.http1("reviews", get("/")).await;
    assert!(json(&response)["headers"].get("x-forwarded-client-cert").is_some());
    // On the plain port the application is dialled after the silence; HTTP that follows is HTTP all the same.
    let mut stream = TcpStream::connect((server.ip, PORT)).await.unwrap();
    let mut silence = [0; 1];
    let waited = tokio::time::timeout(2 * proxy::detect::CLIENT_SILENCE, stream.read(&mut silence)).await;
    assert!(waited.is_err(), "nothing was said");
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: reviews\r\nx-forwarded-client-cert: forged\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("forged"), "{answer}");
}

#[tokio::test]
async fn a_reset_stays_a_reset() {
    let world = World::new();
    let resetter = app(|mut stream: TcpStream| async move {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        proxy::copy::abort_tcp(&stream);
    })
    .await;
    let server = Server::of(&world, "east", "db", Protocol::Tcp, resetter).await;
    let client = Client::start(&world, ViewOf::cluster("east").local("db", Protocol::Tcp, &[server.ip]));
    let mut stream = TcpStream::connect(client.capture("db").await).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    let read = stream.read(&mut [0; 16]).await;
    assert!(read.is_err(), "{read:?}");
}

#[tokio::test]
async fn a_connection_goes_to_another_endpoint_when_the_first_refuses() {
    let world = World::new();
    let server = Server::of(&world, "east", "db", Protocol::Tcp, app(greeter).await).await;
    let endpoints = [address(), server.ip];
    let client = Client::start(&world, ViewOf::cluster("east").local("db", Protocol::Tcp, &endpoints));
    let at = client.capture("db").await;
    for _ in 0..10 {
        check_greeter(at, 10).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_flows_at_once_pass() {
    let world = World::new();
    let server = Server::of(&world, "east", "db", Protocol::Tcp, app(greeter).await).await;
    let client = Client::start(&world, ViewOf::cluster("east").local("db", Protocol::Tcp, &[server.ip]));
    let at = client.capture("db").await;
    let flows: Vec<_> = (0..200).map(|_| tokio::spawn(check_greeter(at, 20_000))).collect();
    for flow in flows {
        flow.await.unwrap();
    }
}
