//! Who is refused.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::{Credentials, PeerPolicy};
use mesh::{MTLS_PORT, MtlsMode, Protocol};
use proxy::listen::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::world::*;

#[tokio::test]
async fn a_server_that_proves_another_identity_gets_no_request() {
    let world = World::new();
    let app = http_app("impostor").await;
    let view = ViewOf::cluster("east").workload("reviews", Protocol::Http, MtlsMode::Permissive);
    for (cluster, id) in [("east", id("east", "impostor")), ("west", id("west", "reviews"))] {
        let server = Server::start(world.credentials(cluster, &id), view.clone(), app, address()).await;
        let client = Client::start(&world, ViewOf::cluster("east").local("reviews", Protocol::Http, &[server.ip]));
        assert_eq!(client.http1("reviews", get("/")).await.status(), 503, "{id}");
        assert!(server.records.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_request_waits_for_the_first_certificate_instead_of_blaming_the_server() {
    let world = World::new();
    let server = Server::of(&world, "east", "reviews", Protocol::Http, http_app("one").await).await;
    let (issued, svid) = tokio::sync::watch::channel(None);
    let (_kept, bundles) = tokio::sync::watch::channel(Arc::new(world.bundles()));
    let client = Client::with(Credentials::new(svid, bundles), client_view(&server));
    let answered = client.http1("reviews", get("/"));
    tokio::pin!(answered);
    assert!(tokio::time::timeout(Duration::from_millis(200), answered.as_mut()).await.is_err(), "it does not wait");
    issued.send_replace(Some(Arc::new(world.svid("east", &id("east", "web"), Duration::from_secs(60)))));
    assert_eq!(answered.await.status(), 200);

    let late = Client::with(Credentials::anonymous(world.bundles()), client_view(&server));
    let refused = late.http1("reviews", get("/")).await;
    assert_eq!(refused.status(), 503);
    assert!(String::from_utf8_lossy(refused.body()).contains("no certificate yet"), "{refused:?}");
}

fn client_view(server: &Server) -> ViewOf {
    ViewOf::cluster("east").local("reviews", Protocol::Http, &[server.ip])
}

#[tokio::test]
async fn a_peer_without_a_certificate_or_with_one_of_an_unknown_root_is_refused() {
    let world = World::new();
    let server = Server::of(&world, "east", "reviews", Protocol::Http, http_app("one").await).await;
    let forged = world.svid("evil", &id("evil", "web"), Duration::from_secs(60));
    let claimed = Credentials::fixed(forged, world.bundles());
    let nobody = Credentials::anonymous(world.bundles());
    for (who, credentials) in [("nobody", nobody), ("an unknown root", claimed)] {
        let config = if who == "nobody" {
            credentials.client_config_open(PeerPolicy::AnyKnown, &[b"h2"]).unwrap()
        } else {
            credentials.client_config(PeerPolicy::AnyKnown, &[b"h2"]).unwrap()
        };
        let stream = TcpStream::connect((server.ip, MTLS_PORT)).await.unwrap();
        // TLS 1.3 clients learn from the first read that they were refused.
        let refused = match identity::connect_tls(config, stream, Duration::from_secs(5)).await {
            Err(_) => true,
            Ok((mut tls, _)) => {
                tls.write_all(proxy::detect::HTTP2_PREFACE).await.ok();
                tls.read(&mut [0; 64]).await.map_or(true, |read| read == 0)
            }
        };
        assert!(refused, "{who} was let in");
    }
}

#[tokio::test]
async fn plain_text_is_refused_in_strict_mode() {
    let world = World::new();
    let view = ViewOf::cluster("east").workload("reviews", Protocol::Http, MtlsMode::Strict);
    let credentials = world.credentials("east", &id("east", "reviews"));
    let server = Server::start(credentials, view, http_app("one").await, address()).await;
    let mut stream = TcpStream::connect((server.ip, PORT)).await.unwrap();
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(stream.read(&mut [0; 64]).await.map_or(true, |read| read == 0));
    let client = Client::start(&world, ViewOf::cluster("east").local("reviews", Protocol::Http, &[server.ip]));
    assert_eq!(client.http1("reviews", get("/")).await.status(), 200);
}

#[tokio::test]
async fn a_connection_ends_within_five_seconds_of_its_peers_certificate() {
    let world = World::new();
    let server = Server::of(&world, "east", "reviews", Protocol::Http, http_app("one").await).await;
    let ttl = Duration::from_secs(6);
    let credentials = Credentials::fixed(world.svid("east", &id("east", "web"), ttl), world.bundles());
    let began = Instant::now();
    let config = credentials.client_config(PeerPolicy::AnyKnown, &[b"h2"]).unwrap();
    let stream = TcpStream::connect((server.ip, MTLS_PORT)).await.unwrap();
    let (mut tls, _) = identity::connect_tls(config, stream, ttl).await.unwrap();
    tls.write_all(proxy::detect::HTTP2_PREFACE).await.unwrap();
    tls.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let mut all = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(30), tls.read_to_end(&mut all)).await;
    assert!(ended.is_ok(), "the connection is still open");
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(1) && took <= ttl + Duration::from_secs(5), "{took:?}");
}

/// A gateway dials once for each flow that it carries.
#[tokio::test]
async fn handshakes_beyond_those_that_one_source_may_have_wait_for_them() {
    let world = World::new();
    let view = ViewOf::cluster("east").workload("reviews", Protocol::Http, MtlsMode::Permissive);
    let credentials = world.credentials("east", &id("east", "reviews"));
    // Four of one source.
    let limits = Limits { connections: 16, per_source: 16, ..Limits::default() };
    let server = Server::within(limits, credentials, view, http_app("one").await, address()).await;
    let mut streams = Vec::new();
    for _ in 0..12 {
        streams.push(TcpStream::connect((server.ip, MTLS_PORT)).await.unwrap());
    }
    let credentials = world.credentials("east", &id("east", "web"));
    let one = |stream| {
        let config = credentials.client_config(PeerPolicy::AnyKnown, &[b"h2"]).unwrap();
        tokio::spawn(async move {
            let (mut tls, _) = identity::connect_tls(config, stream, Duration::from_secs(5)).await.unwrap();
            // Of TLS 1.3 a client knows only by the first byte whether its handshake was taken.
            tls.write_all(proxy::detect::HTTP2_PREFACE).await.unwrap();
            tls.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            tls.read_u8().await.unwrap();
        })
    };
    for done in streams.into_iter().map(one).collect::<Vec<_>>() {
        done.await.unwrap();
    }
}

#[tokio::test]
async fn a_proxy_speaks_for_its_client_in_its_own_cluster_only() {
    let world = World::new();
    let server = Server::of(&world, "east", "reviews", Protocol::Http, http_app("one").await).await;
    for (cluster, believed) in [("east", true), ("west", false)] {
        let credentials = world.credentials(cluster, &id(cluster, "edge"));
        let config = credentials.client_config(PeerPolicy::AnyKnown, &[b"h2"]).unwrap();
        let stream = TcpStream::connect((server.ip, MTLS_PORT)).await.unwrap();
        let (tls, _) = identity::connect_tls(config, stream, Duration::from_secs(5)).await.unwrap();
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls));
        let (mut sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::get(format!("http://reviews:{PORT}/"))
            .header("x-forwarded-client-cert", "URI=spiffe://somebody")
            .body(proxy::body::empty())
            .unwrap();
        let seen = json(&collect(sender.send_request(request).await.unwrap()).await);
        let xfcc = seen["headers"]["x-forwarded-client-cert"].as_str().unwrap();
        assert_eq!(xfcc.contains("somebody"), believed, "{cluster}: {xfcc}");
        assert!(xfcc.ends_with(&format!("URI={}", id(cluster, "edge"))), "{xfcc}");
    }
}
