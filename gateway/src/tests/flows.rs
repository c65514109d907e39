//! Flows that are carried.

use std::net::SocketAddr;
use std::time::Duration;

use api::tunnel::{Reply, reply};
use mesh::{TunnelMode, TunnelRequest};
use proxy::hbone::Connecting;
use proxy::tunnel::{self, EventDecoder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::world::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flow_reaches_the_other_cluster_and_each_direction_ends_on_its_own() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = World::new(listener.local_addr().unwrap()).await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut question = String::new();
        stream.read_to_string(&mut question).await.unwrap();
        // The question has ended; the answer still flows.
        stream.write_all(format!("{question}? yes").as_bytes()).await.unwrap();
    });
    let Connecting { mut io, answer } = open(&world.web().await, &request("reviews")).await;
    io.write_all(b"early").await.unwrap();
    let parts = answer.await.unwrap();
    let Some(Reply { reply: Some(reply::Reply::Accepted(accepted)) }) = tunnel::reply_of(&parts.headers) else {
        panic!("not accepted: {parts:?}")
    };
    assert_eq!(accepted.endpoint, "reviews-1");
    assert_eq!((accepted.gateway.as_str(), accepted.source_gateway.as_str()), ("gateway-1", "gateway-1"));
    assert!(accepted.path.starts_with("gateway-1/west/gateway-1#quic-"), "{}", accepted.path);
    io.write_all(b" late").await.unwrap();
    io.shutdown().await.unwrap();
    let mut seen = String::new();
    io.read_to_string(&mut seen).await.unwrap();
    assert_eq!(seen, "early late? yes");
    server.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_speak_to_each_other_in_either_ip_family() {
    let backend = echo().await;
    // The server's address, what the client is told, and the client's own.
    for (listens, told, from) in [("::1", "::1", "::1"), ("::", "127.0.0.1", "::"), ("127.0.0.1", "127.0.0.1", "::")] {
        let trust = Trust::new();
        let west = gateway_at(listens, &trust.west_gateway(), "west.demo", west_view(), backend).await;
        let at = SocketAddr::new(told.parse().unwrap(), west.quic().port());
        let east = gateway_at(from, &trust.east_gateway(), "east.demo", east_view(&[at]), backend).await;
        super::health::until_usable(&east, 1).await;
        let outer = outer(east.hbone(), &trust.web()).await.unwrap();
        let answer = ask(&outer, b"hello").await.unwrap();
        assert!(answer.ends_with(b"hello"), "{from} to {told}, served at {listens}");
    }
}

/// A gateway whose tunnels end at this address.
async fn gateway_at(
    address: &str,
    credentials: &identity::Credentials,
    trust_domain: &str,
    view: mesh::View,
    backend: SocketAddr,
) -> Gateway {
    let tcp = tunnel_port(address.parse().unwrap()).await;
    gateway_with(trust_domain, credentials.clone(), view, backend, |parts, _| {
        parts.quic = tcp.local_addr().unwrap();
        parts.tcp = Some(tcp);
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_flows_at_once_do_not_mix() {
    let world = World::new(echo().await).await;
    let outer = world.web().await;
    let flow = |n: usize| {
        let outer = outer.clone();
        async move {
            let question = vec![(n % 251) as u8; 10_000 + n];
            assert!(ask(&outer, &question).await.unwrap() == question, "flow {n}");
        }
    };
    let mut flows: tokio::task::JoinSet<()> = (0..200).map(flow).collect();
    while let Some(done) = flows.join_next().await {
        done.unwrap();
    }
    let metrics = world.west.registry.encode();
    let wanted = "isthmus_gateway_streams_total{direction=\"inbound\",peer_cluster=\"east\",service=\"default/reviews\",\
                  result=\"accepted\",transport=\"quic\",mode=\"mesh\"}";
    assert!(metrics.contains(wanted), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_megabytes_arrive_whole() {
    let world = World::new(echo().await).await;
    let sent: Vec<u8> = (0..100_000_000u32).map(|i| (i % 251) as u8).collect();
    let seen = ask(&world.web().await, &sent).await.unwrap();
    assert!(seen == sent, "{} of {} bytes", seen.len(), sent.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_speaks_first_is_heard() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = World::new(listener.local_addr().unwrap()).await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"220 hello").await.unwrap();
        let _ = stream.read_u8().await;
    });
    let mut io = open(&world.web().await, &request("reviews")).await.io;
    let mut greeting = [0; 9];
    io.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_stays_a_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = World::new(listener.local_addr().unwrap()).await;
    let mut io = open(&world.web().await, &request("reviews")).await.io;
    io.write_all(b"x").await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.read_u8().await.unwrap();
    proxy::copy::abort_tcp(&stream);
    drop(stream);
    let error = io.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_goes_to_the_other_gateway_and_no_further() {
    // Nothing listens here: dialling would fail.
    let world = World::new("127.0.0.1:9".parse().unwrap()).await;
    let probe = TunnelRequest { mode: TunnelMode::Probe, ..request("reviews") };
    let Connecting { mut io, answer } = open(&world.web().await, &probe).await;
    answer.await.unwrap();
    assert_eq!(io.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(denial(&world.web().await, &request("reviews")).await.reason, "endpoint-unreachable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_sees_the_health_of_paths() {
    let world = World::new(echo().await).await;
    let outer = world.web().await;
    ask(&outer, b"x").await.unwrap();
    let mut body = outer.get("/isthmus/paths").await.unwrap().into_body();
    let mut events = EventDecoder::default();
    let mut next = async || {
        loop {
            if let Some(event) = events.next_event().unwrap() {
                return event;
            }
            let bytes = tokio::time::timeout(Duration::from_secs(5), body.data()).await.unwrap().unwrap().unwrap();
            events.push(&bytes);
            body.flow_control().release_capacity(bytes.len()).unwrap();
        }
    };
    let mut usable = std::collections::BTreeSet::new();
    while usable.len() < 3 {
        let event = next().await;
        assert_eq!(event.cluster, "west");
        if event.usable {
            usable.insert(event.path);
        }
    }
    let expected = ["quic-1", "quic-2", "quic-3"].map(|name| format!("gateway-1/west/gateway-1#{name}"));
    assert!(usable.iter().eq(&expected), "{usable:?}");
    // Nothing is imported any more: the connections go.
    world.east.view.send(std::sync::Arc::new(east_view(&[]))).unwrap();
    while !usable.is_empty() {
        let event = next().await;
        assert!(!event.usable);
        usable.remove(&event.path);
    }
}
