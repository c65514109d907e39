//! Several connections, UDP that is blocked and comes back, addresses that change.

use std::sync::Arc;
use std::time::{Duration, Instant};

use api::tunnel::{Reply, reply};
use mesh::Transport;
use proxy::hbone::{AnswerError, Connecting, H2Io, Outer};
use proxy::tunnel;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::health::until_usable;
use super::relay::Relay;
use super::world::*;

/// East behind whose only path lies a relay.
pub(super) struct Between {
    pub(super) relay: Relay,
    pub(super) east: Gateway,
    pub(super) west: Gateway,
    pub(super) outer: Outer,
}

pub(super) async fn between(change: impl FnOnce(&Relay)) -> Between {
    let (backend, trust) = (echo().await, Trust::new());
    let west = gateway("west.demo", trust.west_gateway(), west_view(), backend).await;
    let relay = Relay::new(west.quic()).await;
    change(&relay);
    let east = gateway("east.demo", trust.east_gateway(), east_view(&[relay.address]), backend).await;
    let outer = outer(east.hbone(), &trust.web()).await.unwrap();
    Between { relay, east, west, outer }
}

/// Opens a flow and tells the connection that it took. As sidecars do (`mesh::wait_for_a_way`), it asks again while there is no
/// way: on a slow machine TCP may take longer to come about than a gateway lets a flow wait.
pub(super) async fn flow(outer: &Outer) -> (H2Io, String) {
    let begun = OwnTime::begin();
    let (io, parts) = loop {
        let Connecting { io, answer } = open(outer, &request("reviews")).await;
        let refused = match answer.await {
            Ok(parts) => break (io, parts),
            Err(AnswerError::Refused(parts)) => tunnel::reply_of(&parts.headers),
            Err(error) => panic!("{error:?}"),
        };
        match refused {
            Some(Reply { reply: Some(reply::Reply::Denied(denied)) })
                if denied.reason == "cluster-unreachable" && begun.elapsed() < Duration::from_secs(20) => {}
            other => panic!("refused: {other:?}"),
        }
    };
    match tunnel::reply_of(&parts.headers) {
        Some(Reply { reply: Some(reply::Reply::Accepted(accepted)) }) => (io, accepted.path),
        other => panic!("not accepted: {other:?}"),
    }
}

/// The flow still carries bytes both ways.
pub(super) async fn lives(io: &mut H2Io, word: &[u8]) {
    io.write_all(word).await.unwrap();
    let mut seen = vec![0; word.len()];
    tokio::time::timeout(Duration::from_secs(20), io.read_exact(&mut seen)).await.expect("an answer").unwrap();
    assert_eq!(seen, word);
}

fn transport(gateway: &Gateway) -> Transport {
    gateway.running.context.paths.rows()[0].transport
}

async fn until_transport(gateway: &Gateway, wanted: Transport, limit: Duration) {
    let begun = OwnTime::begin();
    while transport(gateway) != wanted {
        assert!(begun.elapsed() < limit, "not over {wanted:?} within {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_is_several_connections_with_a_udp_port_each() {
    let between = between(|_| {}).await;
    until_usable(&between.east, 1).await;
    let begun = Instant::now();
    let usable = || between.east.running.context.paths.rows()[0].connections.iter().filter(|it| it.usable).count();
    while usable() < 3 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{} connections", usable());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(between.relay.clients(), 3);
    assert_eq!(between.west.running.context.peers.taken(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_flows_keep_away_from_bulk() {
    let between = between(|_| {}).await;
    let rows = || between.east.running.context.paths.rows().remove(0).connections;
    let begun = Instant::now();
    while rows().iter().filter(|it| it.usable).count() < 3 {
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (bulk, path) = flow(&between.outer).await;
    let (mut reader, mut writer) = bulk.split();
    let writing = tokio::spawn(async move {
        let block = vec![7; 1 << 20];
        while writer.write_all(&block).await.is_ok() {}
    });
    let reading = tokio::spawn(async move {
        let mut block = vec![0; 1 << 20];
        while reader.read(&mut block).await.is_ok_and(|count| count > 0) {}
    });
    while rows().iter().map(|it| it.bulk).sum::<usize>() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(40), "never seen as bulk");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..10 {
        assert_ne!(flow(&between.outer).await.1, path, "beside bulk");
    }
    writing.abort();
    reading.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_udp_flows_go_over_tcp_from_the_beginning() {
    let between = between(|relay| relay.block_udp(true)).await;
    let begun = OwnTime::begin();
    let (mut io, path) = flow(&between.outer).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(path.starts_with("gateway-1/west/gateway-1#tcp-"), "{path}");
    lives(&mut io, b"over TCP").await;
    until_transport(&between.east, Transport::Tcp, Duration::from_secs(5)).await;
    let sent: Vec<u8> = (0..10_000_000_u32).map(|i| (i % 251) as u8).collect();
    assert!(ask(&between.outer, &sent).await.unwrap() == sent);
    assert_eq!(denial(&between.outer, &request("secret")).await.reason, "not-exported");
    let metrics = between.west.registry.encode();
    assert!(metrics.contains("result=\"accepted\",transport=\"tcp\",mode=\"mesh\"}"), "{metrics}");
    let metrics = between.east.registry.encode();
    let wanted = "isthmus_gateway_path_transport{cluster=\"west\",remote_gateway=\"gateway-1\",transport=\"tcp\"} 1";
    assert!(metrics.contains(wanted), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn udp_blocked_amid_flows_moves_new_ones_to_tcp_and_back_and_drops_none() {
    let between = between(|_| {}).await;
    let (mut first, path) = flow(&between.outer).await;
    assert!(path.contains("#quic-"), "{path}");
    lives(&mut first, b"over QUIC").await;
    between.relay.block_udp(true);
    let begun = OwnTime::begin();
    let (mut second, path) = flow(&between.outer).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "a new flow waited {:?}", begun.elapsed());
    assert!(path.contains("#tcp-"), "{path}");
    lives(&mut second, b"over TCP").await;
    until_transport(&between.east, Transport::Tcp, Duration::from_secs(5)).await;
    between.relay.block_udp(false);
    until_transport(&between.east, Transport::Quic, Duration::from_secs(30)).await;
    let (mut third, path) = flow(&between.outer).await;
    assert!(path.contains("#quic-"), "{path}");
    for io in [&mut first, &mut second, &mut third] {
        lives(io, b"still here").await;
    }
    // The TCP connection goes with its last flow.
    drop(second);
    let begun = Instant::now();
    let over_tcp = |gateway: &Gateway| {
        let rows = gateway.running.context.paths.rows().remove(0).connections;
        rows.iter().filter(|it| it.transport == Transport::Tcp && it.usable).count()
    };
    while over_tcp(&between.east) > 0 {
        assert!(begun.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_survive_a_nat_that_changes_their_port() {
    let between = between(|_| {}).await;
    let (mut io, _) = flow(&between.outer).await;
    for round in 0..3_u8 {
        lives(&mut io, &[round; 1000]).await;
        between.relay.rebind();
    }
    lives(&mut io, b"survived").await;
    assert_eq!(transport(&between.east), Transport::Quic);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_whose_address_changes_keeps_its_flows() {
    let between = between(|_| {}).await;
    let (mut old, _) = flow(&between.outer).await;
    let moved = Relay::new(between.west.quic()).await;
    between.east.view.send(Arc::new(east_view(&[moved.address]))).unwrap();
    let begun = Instant::now();
    while moved.clients() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (mut new, _) = flow(&between.outer).await;
    lives(&mut new, b"over the new address").await;
    lives(&mut old, b"over the old address").await;
    assert_eq!(between.east.running.context.paths.rows()[0].address, moved.address.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_drains_finishes_what_came_over_tcp() {
    let between = between(|relay| relay.block_udp(true)).await;
    let (mut io, path) = flow(&between.outer).await;
    assert!(path.contains("#tcp-"), "{path}");
    between.west.shutdown.drain();
    let refused = denial(&between.outer, &request("reviews")).await;
    assert!(["draining", "cluster-unreachable"].contains(&refused.reason.as_str()), "{refused:?}");
    let finished = tokio::spawn(between.west.running.finish(Duration::from_secs(20)));
    io.write_all(b"still here").await.unwrap();
    io.shutdown().await.unwrap();
    let mut seen = String::new();
    io.read_to_string(&mut seen).await.unwrap();
    assert_eq!(seen, "still here");
    assert!(finished.await.unwrap(), "all flows were done");
}
