//! Peers that open more than they should, or open and send nothing.

use std::time::{Duration, Instant};

use identity::{PeerPolicy, connect_tls};
use proxy::hbone::{Outer, Settings};
use proxy::tunnel;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket};

use super::refusals::{ask_on, is_accepted, probe, reason};
use super::world::*;

async fn west(streams: usize, connections: usize) -> (Gateway, Trust) {
    let (backend, trust) = (echo().await, Trust::new());
    let gateway = gateway_with("west.demo", trust.west_gateway(), west_view(), backend, |_, bounds| {
        bounds.streams_per_cluster = streams;
        bounds.connections_per_gateway = connections;
    });
    (gateway.await, trust)
}

async fn dial(gateway: &Gateway, trust: &Trust) -> quinn::Connection {
    let config = trust.east_gateway().quic_client_config(PeerPolicy::AnyKnown, &[api::TUNNEL_ALPN]).unwrap();
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = quinn::ClientConfig::new(config);
    endpoint.connect_with(config, gateway.quic(), identity::DUMMY_SERVER_NAME).unwrap().await.unwrap()
}

async fn until(limit: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_with_too_many_streams_is_refused_more_and_gets_places_back() {
    let (west, trust) = west(50, 10).await;
    let connections = [dial(&west, &trust).await, dial(&west, &trust).await];
    let mut silent = Vec::new();
    for n in 0..200 {
        let (mut send, recv) = connections[n % 2].open_bi().await.unwrap();
        // Half a header: the stream is known to the gateway, and never gets any further.
        send.write_all(&[0]).await.unwrap();
        silent.push((send, recv));
    }
    let streams = || west.running.context.streams.taken();
    until(Duration::from_secs(10), "50 streams", || streams() == 50).await;
    let reply = ask_on(&connections[0], &probe()).await;
    assert_eq!(reason(reply), "overloaded");
    assert_eq!(streams(), 50);
    // Those of the other connection may be refused later than the one that asked.
    let refused = "isthmus_gateway_refused_streams_total{transport=\"quic\"} 151\n";
    until(Duration::from_secs(10), "151 refused", || west.registry.encode().contains(refused)).await;
    // Nobody waits for a header for ever, even if the stream is kept open.
    until(Duration::from_secs(20), "no streams", || streams() == 0).await;
    assert!(is_accepted(&ask_on(&connections[1], &probe()).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_with_too_many_connections_is_refused_more_over_both_transports() {
    let (west, trust) = west(50, 2).await;
    let first = dial(&west, &trust).await;
    let second = over_tcp(&west, &trust).await;
    until(Duration::from_secs(10), "2 connections", || west.running.context.peers.taken() == 2).await;
    let third = dial(&west, &trust).await;
    assert!(matches!(third.closed().await, quinn::ConnectionError::ApplicationClosed(_)));
    over_tcp(&west, &trust).await.closed().await;
    assert_eq!(west.running.context.peers.taken(), 2);
    assert!(is_accepted(&ask_on(&first, &probe()).await));
    drop(second);
    until(Duration::from_secs(10), "a place again", || west.running.context.peers.taken() == 1).await;
}

async fn over_tcp(gateway: &Gateway, trust: &Trust) -> Outer {
    let credentials = trust.east_gateway();
    let config = credentials.client_config(PeerPolicy::AnyKnown, &[api::TUNNEL_TCP_ALPN]).unwrap();
    let stream = TcpStream::connect(gateway.quic()).await.unwrap();
    let (stream, _) = connect_tls(config, stream, Duration::from_secs(5)).await.unwrap();
    Outer::handshake(stream, &Settings::default()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tcp_a_stream_without_a_header_and_one_that_is_too_long_end() {
    let (west, trust) = west(50, 10).await;
    let outer = over_tcp(&west, &trust).await;
    let open = async || outer.connect("gateway.isthmus.invalid:15443", Vec::new()).await.unwrap().io;
    let (mut silent, mut long) = (open().await, open().await);
    long.write_all(&[0xff, 0xff, 0, 0]).await.unwrap();
    let reply = tunnel::read_frame(&mut long).await.map_err(|error| error.to_string());
    assert_eq!(reason(reply), "bad-header");
    let reply = tunnel::read_frame(&mut silent).await.map_err(|error| error.to_string());
    assert_eq!(reason(reply), "bad-header");
    drop((silent, long));
    until(Duration::from_secs(10), "no streams", || west.running.context.streams.taken() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_handshakes_that_lead_nowhere_keeps_nobody_out() {
    let (west, trust) = west(50, 300).await;
    let target = west.quic();
    let flood = tokio::spawn(async move {
        // The first packet of real handshakes, from sockets that never answer.
        let config = quinn::ClientConfig::new(
            Trust::new().east_gateway().quic_client_config(PeerPolicy::AnyKnown, &[api::TUNNEL_ALPN]).unwrap(),
        );
        let catcher = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let client = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut packet = vec![0; 2048];
        // Kept: one that is dropped would say that it gives up.
        let mut kept = Vec::new();
        loop {
            let caught = catcher.local_addr().unwrap();
            let connecting = client.connect_with(config.clone(), caught, identity::DUMMY_SERVER_NAME).unwrap();
            // Large key shares make two packets of one hello.
            for _ in 0..2 {
                let (count, _) = catcher.recv_from(&mut packet).await.unwrap();
                socket.send_to(&packet[..count], target).await.unwrap();
            }
            kept.push(connecting);
        }
    });
    let retried = "isthmus_gateway_refused_connections_total{listener=\"quic\",reason=\"retry\"}";
    until(Duration::from_secs(30), "address validation", || west.registry.encode().contains(retried)).await;
    // While the flood goes on.
    let connection = tokio::time::timeout(Duration::from_secs(10), dial(&west, &trust)).await.expect("connected");
    assert!(is_accepted(&ask_on(&connection, &probe()).await));
    assert!(!flood.is_finished());
    flood.abort();
    assert!(west.running.context.peers.taken() <= 1);
}
