//! Through an own gateway to another cluster.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api::tunnel::PathEvent;
use bytes::Bytes;
use http::Response;
use mesh::{ConnectionPool, Denial, MTLS_PORT, Protocol, TrafficPolicy};
use proxy::body;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::policy::with_policy;
use crate::world::*;

/// A server in `west`, a gateway in `east` that leads there, and a view of both.
async fn west(world: &World, protocol: Protocol, app: std::net::SocketAddr) -> (Server, Gateway, ViewOf) {
    let server = Server::of(world, "west", "reviews", protocol, app).await;
    let gateway = Gateway::start(world, "gateway-1", Behaviour::Pipe((server.ip, MTLS_PORT).into())).await;
    let view = ViewOf::cluster("east").import("reviews", protocol).gateway("gateway-1", gateway.address);
    (server, gateway, view)
}

#[tokio::test]
async fn a_request_reaches_another_cluster_under_the_clients_own_identity() {
    let world = World::new();
    let (_server, gateway, view) = west(&world, Protocol::Http, http_app("west").await).await;
    let client = Client::start(&world, view);
    let response = client.http1("reviews", get("/")).await;
    let seen = json(&response);
    assert_eq!(seen["app"], "west");
    let xfcc = seen["headers"]["x-forwarded-client-cert"].as_str().unwrap();
    assert!(xfcc.starts_with("By=spiffe://west.demo/ns/default/sa/reviews;"), "{xfcc}");
    assert!(xfcc.ends_with("URI=spiffe://east.demo/ns/default/sa/web"), "{xfcc}");
    client.http1("reviews", get("/again")).await;
    assert!(gateway.flows.load(Ordering::Relaxed) <= 2, "the inner connection is kept, and another one ready");
    let record = client.records.lock().unwrap()[0].clone();
    let via = record.gateways.unwrap();
    assert_eq!((via.source_gateway.as_str(), via.path.as_str()), ("gateway-1", "gateway-1-to-west"));
    assert_eq!((record.destination.workload.as_str(), record.destination.cluster.as_str()), ("reviews-west-1", "west"));
    assert_eq!(record.destination.canonical_service, "reviews-west");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_requests_ride_streams_of_their_own_up_to_a_bound() {
    let world = World::new();
    let (_server, gateway, view) = west(&world, Protocol::Http, http_app("west").await).await;
    let client = Client::start(&world, view);
    let at = client.capture("reviews").await;
    let requests: Vec<_> =
        (0..200).map(|_| tokio::spawn(async move { http1(at, post("/echo", vec![1; 50_000])).await })).collect();
    for request in requests {
        assert_eq!(collect(request.await.unwrap()).await.body().len(), 50_000);
    }
    let flows = gateway.flows.load(Ordering::Relaxed);
    assert!((2..=64).contains(&flows), "{flows}");
}

#[tokio::test]
async fn opaque_flows_cross_clusters_and_each_side_closes_for_itself() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            stream.write_all(&all).await.unwrap();
        }
    });
    let (_server, _gateway, view) = west(&world, Protocol::Tcp, app).await;
    let client = Client::start(&world, view);
    let mut stream = TcpStream::connect(client.capture("reviews").await).await.unwrap();
    stream.write_all(b"over there").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "over there");
}

#[tokio::test]
async fn opaque_flows_outlive_a_hole_between_clusters() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut reading, mut writing) = stream.split();
        let _ = tokio::io::copy(&mut reading, &mut writing).await;
    });
    let (server, gateway, view) = west(&world, Protocol::Tcp, app).await;
    // Longer than a sidecar of the own cluster may be silent for.
    let (from, lasts) = (Duration::from_secs(1), Duration::from_secs(9));
    gateway.behaviour.send_replace(Behaviour::Hole(from, lasts, (server.ip, MTLS_PORT).into()));
    let client = Client::start(&world, view);
    let mut stream = TcpStream::connect(client.capture("reviews").await).await.unwrap();
    let (begun, mut echoed) = (std::time::Instant::now(), [0]);
    while begun.elapsed() < from + lasts + Duration::from_secs(1) {
        stream.write_all(b"x").await.unwrap();
        stream.read_exact(&mut echoed).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn traffic_fails_over_to_the_other_cluster_and_comes_back_without_losing_a_request() {
    let world = World::new();
    let (_west, _gateway, view) = west(&world, Protocol::Http, http_app("west").await).await;
    let ip = address();
    let start_east = || async {
        let view = ViewOf::cluster("east").workload("reviews", Protocol::Http, mesh::MtlsMode::Permissive);
        let credentials = world.credentials("east", &id("east", "reviews"));
        Server::start(credentials, view, http_app("east").await, ip).await
    };
    let client = Client::start(&world, view.local("reviews", Protocol::Http, &[ip]));
    let ask = async || {
        let response = client.http1("reviews", post("/", "x")).await;
        assert_eq!(response.status(), 200, "{response:?}");
        json(&response)["app"].as_str().unwrap().to_owned()
    };
    let east = start_east().await;
    assert_eq!(ask().await, "east");
    east.life.drain(Duration::from_secs(1)).await;
    drop(east);
    assert_eq!(ask().await, "west");
    let _east = start_east().await;
    let back = async { while ask().await != "east" {} };
    tokio::time::timeout(Duration::from_secs(40), back).await.expect("it comes back");
}

#[tokio::test]
async fn another_gateway_is_used_when_one_is_gone_or_has_no_way() {
    let world = World::new();
    let (server, gone, view) = west(&world, Protocol::Http, http_app("west").await).await;
    let lost = Gateway::start(&world, "gateway-2", Behaviour::Deny(Denial::ClusterUnreachable)).await;
    let good = Gateway::start(&world, "gateway-3", Behaviour::Pipe((server.ip, MTLS_PORT).into())).await;
    gone.life.drain(Duration::ZERO).await;
    let view = view.gateway("gateway-2", lost.address).gateway("gateway-3", good.address);
    let client = Client::start(&world, view);
    for _ in 0..5 {
        assert_eq!(client.http1("reviews", post("/", "x")).await.status(), 200);
    }
}

#[tokio::test]
async fn a_long_way_is_not_the_fault_of_the_gateway_that_is_asked_first() {
    let world = World::new();
    let (server, first, view) = west(&world, Protocol::Http, http_app("west").await).await;
    // A round trip between clusters that is longer than the patience with one gateway while there is another.
    let late = Behaviour::Late(Duration::from_secs(3), (server.ip, MTLS_PORT).into());
    first.behaviour.send_replace(late.clone());
    let (mut view, mut others) = (view, Vec::new());
    for name in ["gateway-2", "gateway-3", "gateway-4"] {
        let other = Gateway::start(&world, name, late.clone()).await;
        view = view.gateway(name, other.address);
        others.push(other);
    }
    let client = Client::start(&world, view);
    let begun = std::time::Instant::now();
    assert_eq!(client.http1("reviews", get("/")).await.status(), 200);
    // Giving up one after the other would have cost two seconds for each of three, and the three of the last.
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_request_waits_for_a_way_when_no_gateway_has_one() {
    let world = World::new();
    let (server, first, view) = west(&world, Protocol::Http, http_app("west").await).await;
    let lost = Behaviour::Deny(Denial::ClusterUnreachable);
    first.behaviour.send_replace(lost.clone());
    let second = Gateway::start(&world, "gateway-2", lost).await;
    let client = Client::start(&world, view.gateway("gateway-2", second.address));
    let (begun, hole) = (std::time::Instant::now(), Duration::from_secs(2));
    let healing = async {
        tokio::time::sleep(hole).await;
        second.behaviour.send_replace(Behaviour::Pipe((server.ip, MTLS_PORT).into()));
    };
    let (answer, ()) = tokio::join!(client.http1("reviews", post("/", "x")), healing);
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert!(begun.elapsed() >= hole);
}

#[tokio::test]
async fn waiting_for_a_way_takes_no_longer_than_connecting_may() {
    let world = World::new();
    let (limit, lost) = (Duration::from_secs(1), Behaviour::DenyOnce(Denial::ClusterUnreachable));
    for protocol in [Protocol::Http, Protocol::Tcp] {
        let (_server, first, view) = west(&world, protocol, http_app("west").await).await;
        first.behaviour.send_replace(lost.clone());
        let second = Gateway::start(&world, "gateway-2", lost.clone()).await;
        let pool = ConnectionPool { connect_timeout: limit, ..ConnectionPool::default() };
        let view = with_policy(view.gateway("gateway-2", second.address), TrafficPolicy { pool, ..Default::default() });
        let client = Client::start(&world, view);
        let begun = std::time::Instant::now();
        match protocol {
            Protocol::Http => assert_eq!(client.http1("reviews", get("/")).await.status(), 503),
            _ => {
                let mut flow = TcpStream::connect(client.capture("reviews").await).await.unwrap();
                flow.write_all(b"hello").await.unwrap();
                assert!(flow.read(&mut [0; 16]).await.map_or(true, |read| read == 0), "it is closed");
            }
        }
        assert!(begun.elapsed() >= limit.mul_f64(0.9), "{protocol:?}");
        // The time is over while the first of them is asked once more; neither the other nor a retry follows.
        let asked = first.flows.load(Ordering::Relaxed) + second.flows.load(Ordering::Relaxed);
        assert_eq!(asked, 3, "{protocol:?}");
    }
}

#[tokio::test]
async fn requests_move_to_another_gateway_when_one_drains() {
    let world = World::new();
    let (server, draining, view) = west(&world, Protocol::Http, http_app("west").await).await;
    let client = Client::start(&world, view.clone());
    assert_eq!(client.http1("reviews", post("/", "x")).await.status(), 200);
    let other = Gateway::start(&world, "gateway-2", Behaviour::Pipe((server.ip, MTLS_PORT).into())).await;
    client.view.send_replace(Arc::new(view.gateway("gateway-2", other.address).0));
    draining.life.draining.cancel();
    let moved = async {
        while other.flows.load(Ordering::Relaxed) == 0 {
            assert_eq!(client.http1("reviews", post("/", "x")).await.status(), 200);
        }
    };
    tokio::time::timeout(Duration::from_secs(20), moved).await.expect("it moves");
    assert!(draining.flows.load(Ordering::Relaxed) <= 2);
}

#[tokio::test]
async fn the_reason_of_a_denial_comes_back_to_the_client() {
    let world = World::new();
    let (_server, gateway, view) = west(&world, Protocol::Http, http_app("west").await).await;
    gateway.behaviour.send_replace(Behaviour::Deny(Denial::NotExported));
    let client = Client::start(&world, view);
    let response = client.http1("reviews", get("/")).await;
    assert_eq!(response.headers()["x-isthmus-denial"], "not-exported");
    let record = client.records.lock().unwrap()[0].clone();
    assert_eq!((record.status, record.attempts), (503, 1));
    assert!(record.error.unwrap().contains("west/gateway-1"));
}

/// The answer to a request whose paths go down. A connection that was being dialled ahead when the way changed leads to the server that is
/// stuck still, and the request may be put on it: that goes down, too. Ever more seldom, so that at last there is time for an answer.
async fn answered_at_last(waiting: tokio::task::JoinHandle<Response<Bytes>>, goes_down: impl Fn()) -> Response<Bytes> {
    let mut pause = Duration::from_millis(20);
    while !waiting.is_finished() && pause < Duration::from_secs(20) {
        goes_down();
        tokio::time::sleep(pause).await;
        pause = pause * 3 / 2;
    }
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("sent again").unwrap()
}

#[tokio::test]
async fn a_request_that_waits_on_a_path_which_goes_down_is_sent_again_elsewhere() {
    let world = World::new();
    // The first gateway's server never answers.
    let stuck = app_with(|_| std::future::pending::<Response<body::Body>>()).await;
    let (_stuck, first, view) = west(&world, Protocol::Http, stuck).await;
    let client = Client::start(&world, view.clone());
    let at = client.capture("reviews").await;
    let waiting = tokio::spawn(async move { collect(http1(at, get("/")).await).await });
    while first.flows.load(Ordering::Relaxed) == 0 || client.outbound.pools().iter().all(|entry| entry.kind != "remote")
    {
        tokio::task::yield_now().await;
    }
    let good = Server::of(&world, "west", "reviews", Protocol::Http, http_app("good").await).await;
    first.behaviour.send_replace(Behaviour::Pipe((good.ip, MTLS_PORT).into()));
    while first.events.receiver_count() == 0 {
        tokio::task::yield_now().await;
    }
    let goes_down = || {
        let event = PathEvent { path: "gateway-1-to-west".into(), cluster: "west".into(), usable: false };
        first.events.send(event).unwrap();
    };
    let response = answered_at_last(waiting, goes_down).await;
    assert_eq!(json(&response)["app"], "good");
    client.view.send_replace(Arc::new(view.0));
}

/// A black hole kills all connections between gateways within moments of each other: the next one that a request is put on may be
/// dead already and not known to be.
#[tokio::test]
async fn a_request_outlives_paths_that_go_down_one_after_the_other() {
    let world = World::new();
    let stuck = app_with(|_| std::future::pending::<Response<body::Body>>()).await;
    let (_stuck, first, view) = west(&world, Protocol::Http, stuck).await;
    let good = Server::of(&world, "west", "reviews", Protocol::Http, http_app("good").await).await;
    let client = Client::start(&world, view);
    let at = client.capture("reviews").await;
    let waiting = tokio::spawn(async move { collect(http1(at, get("/")).await).await });
    let flows = || first.flows.load(Ordering::Relaxed);
    while flows() == 0 || first.events.receiver_count() == 0 {
        tokio::task::yield_now().await;
    }
    let goes_down = || {
        let event = PathEvent { path: "gateway-1-to-west".into(), cluster: "west".into(), usable: false };
        first.events.send(event).unwrap();
    };
    for round in 1..=5 {
        let before = flows();
        // Until the request has got so far as to be put on another connection.
        while flows() == before {
            assert!(!waiting.is_finished(), "the request was given up in round {round}");
            goes_down();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    first.behaviour.send_replace(Behaviour::Pipe((good.ip, MTLS_PORT).into()));
    let response = answered_at_last(waiting, goes_down).await;
    assert_eq!(json(&response)["app"], "good");
}

#[tokio::test]
async fn nothing_new_is_put_on_a_tunnel_that_is_about_to_end() {
    for (millis, is_kept) in [(0, true), (3_600_000, true), (1, false)] {
        let world = World::new();
        let (server, gateway, view) = west(&world, Protocol::Http, http_app("west").await).await;
        gateway.behaviour.send_replace(Behaviour::Ending(millis, (server.ip, MTLS_PORT).into()));
        let client = Client::start(&world, view);
        let flows = || gateway.flows.load(Ordering::Relaxed);
        assert_eq!(client.http1("reviews", get("/")).await.status(), 200);
        // Until the one that is kept ready is connected too.
        let ready = || client.outbound.pools().iter().filter(|entry| entry.kind == "remote").count() == 2;
        while !ready() {
            tokio::task::yield_now().await;
        }
        let before = flows();
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(client.http1("reviews", get("/")).await.status(), 200);
        assert_eq!(flows() == before, is_kept, "usable for {millis} ms");
    }
}
