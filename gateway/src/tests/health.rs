//! Paths that die, go silent and come back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::tunnel::{Accepted, Header, Mode};
use proxy::tunnel;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;

use super::relay::Relay;
use super::world::*;
use crate::transport::{TransportOptions, Trips, TunnelSettings, endpoint};

/// Waits until exactly `count` paths are usable, over any connection.
pub(super) async fn until_usable(gateway: &Gateway, count: usize) {
    let mut states = gateway.running.context.paths.states();
    let usable = |states: &Arc<crate::paths::PathStates>| {
        let paths = states.values().filter(|state| state.usable).map(|state| &state.path);
        paths.collect::<std::collections::BTreeSet<_>>().len()
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), states.wait_for(|states| usable(states) == count));
    waited.await.unwrap_or_else(|_| panic!("not {count} usable paths in time")).unwrap();
}

/// A gateway that answers probes and dies with the first flow.
async fn fragile(trust: &Trust) -> SocketAddr {
    let (listen, tunnel) = ("127.0.0.1:0".parse().unwrap(), TunnelSettings::default());
    let options = TransportOptions { listen, tunnel, state_dir: None, trips: Trips::default() };
    let (endpoint, _) = endpoint(&options, &trust.west_gateway()).unwrap();
    let address = endpoint.local_addr().unwrap();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let connection = incoming.await.unwrap();
            while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                let header: Header = tunnel::read_frame(&mut recv).await.unwrap();
                if header.mode() != Mode::Probe {
                    connection.close(9u32.into(), b"killed");
                    break;
                }
                let reply = crate::flow::accepted(Accepted::default());
                send.write_all(&tunnel::to_frame(&reply).unwrap()).await.unwrap();
                send.finish().unwrap();
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_that_were_not_accepted_go_over_another_path() {
    let (backend, trust) = (echo().await, Trust::new());
    let west = gateway("west.demo", trust.west_gateway(), west_view(), backend).await;
    let view = east_view(&[fragile(&trust).await, west.quic()]);
    let east = gateway("east.demo", trust.east_gateway(), view, backend).await;
    let outer = outer(east.hbone(), &trust.web()).await.unwrap();
    until_usable(&east, 2).await;
    for round in 0..40 {
        let question = vec![round; 40_000];
        assert!(ask(&outer, &question).await.unwrap() == question, "round {round}");
    }
    assert!(east.registry.encode().contains("isthmus_gateway_replays_total{"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_was_never_there_fails_nothing() {
    let (backend, trust) = (echo().await, Trust::new());
    let west = gateway("west.demo", trust.west_gateway(), west_view(), backend).await;
    let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let view = east_view(&[dead.local_addr().unwrap(), west.quic()]);
    let east = gateway("east.demo", trust.east_gateway(), view, backend).await;
    let outer = outer(east.hbone(), &trust.web()).await.unwrap();
    assert_eq!(ask(&outer, b"x").await.unwrap(), b"x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_path_in_use_is_ejected_within_two_seconds_and_comes_back_with_its_flows() {
    let (backend, trust) = (echo().await, Trust::new());
    let west = gateway("west.demo", trust.west_gateway(), west_view(), backend).await;
    let relay = Relay::new(west.quic()).await;
    relay.block_tcp(true);
    let east = gateway("east.demo", trust.east_gateway(), east_view(&[relay.address]), backend).await;
    let outer = outer(east.hbone(), &trust.web()).await.unwrap();
    let mut flow = open(&outer, &request("reviews")).await;
    flow.answer.await.unwrap();
    until_usable(&east, 1).await;
    relay.block_udp(true);
    let begun = OwnTime::begin();
    until_usable(&east, 0).await;
    assert!(begun.elapsed() < Duration::from_millis(2300), "{:?}", begun.elapsed());
    assert_eq!(denial(&outer, &request("reviews")).await.reason, "cluster-unreachable");
    relay.block_udp(false);
    until_usable(&east, 1).await;
    flow.io.write_all(b"survived").await.unwrap();
    let mut seen = [0; 8];
    flow.io.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"survived");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_gateway_resets_the_connections_of_its_former_life() {
    let trust = Trust::new();
    let directory = tempfile::tempdir().unwrap();
    let options = |listen: &str| TransportOptions {
        listen: listen.parse().unwrap(),
        tunnel: TunnelSettings::default(),
        state_dir: Some(directory.path().to_owned()),
        trips: Trips::default(),
    };
    // Only the reset key matters here: the second endpoint knows nothing of the first one's connections. The first one
    // lives in a runtime of its own, whose end is as sudden as a kill.
    let doomed = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (address_tx, address) = tokio::sync::oneshot::channel();
    let (first_options, credentials) = (options("127.0.0.1:0"), trust.west_gateway());
    doomed.spawn(async move {
        let (first, _) = endpoint(&first_options, &credentials).unwrap();
        address_tx.send(first.local_addr().unwrap()).unwrap();
        let _connection = first.accept().await.unwrap().await.unwrap();
        std::future::pending::<()>().await
    });
    let address = address.await.unwrap();
    let client = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let domain = mesh::TrustDomain::new("west.demo").unwrap();
    let (tunnel, trips) = (TunnelSettings::default(), Trips::default());
    let config = crate::transport::client_config(&trust.east_gateway(), &domain, &tunnel, &trips).unwrap();
    let connection = client.connect_with(config, address, identity::DUMMY_SERVER_NAME).unwrap().await.unwrap();
    doomed.shutdown_background();
    let deadline = Instant::now() + Duration::from_secs(10);
    let (_second, _) = loop {
        match endpoint(&options(&address.to_string()), &trust.west_gateway()) {
            Ok(second) => break second,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::task::yield_now().await;
    };
    let begun = Instant::now();
    // A packet that was on its way, such as a probe of the MTU, may have met the new endpoint already: then both fail.
    if let Ok((mut send, _recv)) = connection.open_bi().await {
        let _answered_by_reset = send.write_all(&[0; 4000]).await;
    }
    let closed = tokio::time::timeout(Duration::from_secs(10), connection.closed()).await.unwrap();
    assert!(matches!(closed, quinn::ConnectionError::Reset), "{closed:?}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}
