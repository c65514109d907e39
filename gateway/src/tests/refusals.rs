//! Peers and flows that are refused, on QUIC and on HBONE.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use api::tunnel::{Header, Reply, reply};
use identity::{Credentials, PeerPolicy};
use mesh::{SpiffeId, TunnelMode, TunnelRequest};
use proxy::tunnel;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::rustls::client::Resumption;

use super::world::*;

/// What a raw QUIC client with these credentials is answered.
pub(super) async fn ask_quic(
    world: &World,
    credentials: &Credentials,
    request: &TunnelRequest,
) -> Result<Reply, String> {
    let config = credentials.quic_client_config(PeerPolicy::AnyKnown, &[api::TUNNEL_ALPN]).unwrap();
    ask_with(world, quinn::ClientConfig::new(config), request).await
}

/// A stream of a raw QUIC client with these credentials, which must be accepted.
pub(super) async fn flow_quic(
    world: &World,
    credentials: &Credentials,
    request: &TunnelRequest,
) -> tokio::io::Join<quinn::RecvStream, quinn::SendStream> {
    let config = credentials.quic_client_config(PeerPolicy::AnyKnown, &[api::TUNNEL_ALPN]).unwrap();
    let connection = dial(world, quinn::ClientConfig::new(config)).await.unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&tunnel::to_frame(&Header::from(request)).unwrap()).await.unwrap();
    let reply = tunnel::read_frame(&mut recv).await.map_err(|error| error.to_string());
    assert!(is_accepted(&reply), "{reply:?}");
    tokio::io::join(recv, send)
}

async fn ask_with(world: &World, config: quinn::ClientConfig, request: &TunnelRequest) -> Result<Reply, String> {
    let connection = dial(world, config).await?;
    ask_on(&connection, request).await
}

async fn dial(world: &World, config: quinn::ClientConfig) -> Result<quinn::Connection, String> {
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connecting = endpoint.connect_with(config, world.west.quic(), identity::DUMMY_SERVER_NAME).unwrap();
    connecting.await.map_err(|error| error.to_string())
}

pub(super) async fn ask_on(connection: &quinn::Connection, request: &TunnelRequest) -> Result<Reply, String> {
    let (mut send, mut recv) = connection.open_bi().await.map_err(|error| error.to_string())?;
    let frame = tunnel::to_frame(&Header::from(request)).unwrap();
    send.write_all(&frame).await.map_err(|error| error.to_string())?;
    tunnel::read_frame(&mut recv).await.map_err(|error| error.to_string())
}

pub(super) fn probe() -> TunnelRequest {
    let source = id("spiffe://east.demo/ns/isthmus-system/sa/gateway");
    TunnelRequest { mode: TunnelMode::Probe, source, ..request("reviews") }
}

pub(super) fn is_accepted(reply: &Result<Reply, String>) -> bool {
    matches!(reply, Ok(Reply { reply: Some(reply::Reply::Accepted(_)) }))
}

pub(super) fn reason(reply: Result<Reply, String>) -> String {
    match reply.unwrap().reply {
        Some(reply::Reply::Denied(denied)) => denied.reason,
        other => panic!("not denied but {other:?}"),
    }
}

/// Peers that must get nowhere, as `account` of the trust domain `east.demo`.
fn strangers(trust: &Trust, account: &str) -> Vec<(&'static str, Credentials)> {
    let name = format!("spiffe://east.demo/ns/{account}");
    let now = SystemTime::now();
    vec![
        ("no certificate", Credentials::anonymous(trust.bundles())),
        ("wrong root", trust.credentials(&trust.impostor, &name)),
        ("right root, another trust domain", trust.credentials(&trust.west, &name)),
        ("expired", trust.with_validity(&trust.east, &name, now - HOUR * 2, now - HOUR)),
        ("not yet valid", trust.with_validity(&trust.east, &name, now + HOUR, now + HOUR * 2)),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_refuses_peers_that_do_not_prove_who_they_are() {
    let world = World::new(echo().await).await;
    assert!(is_accepted(&ask_quic(&world, &world.trust.east_gateway(), &probe()).await));
    let mut cases = strangers(&world.trust, "isthmus-system/sa/gateway");
    cases.push(("a workload", world.trust.web()));
    cases.push(("a gateway of the own cluster", world.trust.west_gateway()));
    for (name, credentials) in cases {
        let config = if name == "no certificate" {
            let mut config =
                (*credentials.client_config_open(PeerPolicy::AnyKnown, &[api::TUNNEL_ALPN]).unwrap()).clone();
            config.enable_early_data = false;
            quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()))
        } else {
            let config = credentials.quic_client_config(PeerPolicy::AnyKnown, &[api::TUNNEL_ALPN]).unwrap();
            quinn::ClientConfig::new(config)
        };
        let reply = ask_with(&world, config, &probe()).await;
        assert!(reply.is_err(), "{name}: {reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hbone_refuses_peers_that_do_not_prove_who_they_are() {
    let world = World::new(echo().await).await;
    let mut cases = strangers(&world.trust, "default/sa/web");
    let foreign = world.trust.credentials(&world.trust.west, "spiffe://west.demo/ns/default/sa/web");
    cases.push(("a workload of another cluster", foreign));
    for (name, credentials) in cases {
        let config = if name == "no certificate" {
            credentials.client_config_open(PeerPolicy::AnyKnown, &[b"h2"]).unwrap()
        } else {
            credentials.client_config(PeerPolicy::AnyKnown, &[b"h2"]).unwrap()
        };
        let stream = tokio::net::TcpStream::connect(world.east.hbone()).await.unwrap();
        // TLS 1.3 clients finish first, so the refusal may show only on the first answer.
        let answered = match identity::connect_tls(config, stream, Duration::from_secs(5)).await {
            Err(_) => false,
            Ok((stream, _)) => match proxy::hbone::Outer::handshake(stream, &proxy::hbone::Settings::default()).await {
                Err(_) => false,
                Ok(outer) => outer.get("/isthmus/paths").await.is_ok(),
            },
        };
        assert!(!answered, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tunnel_over_tcp_refuses_peers_that_do_not_prove_who_they_are() {
    let world = World::new(echo().await).await;
    assert!(answers_over_tcp(&world, &world.trust.east_gateway(), api::TUNNEL_TCP_ALPN).await);
    let mut cases = strangers(&world.trust, "isthmus-system/sa/gateway");
    cases.push(("a workload", world.trust.web()));
    cases.push(("a gateway of the own cluster", world.trust.west_gateway()));
    for (name, credentials) in cases {
        assert!(!answers_over_tcp(&world, &credentials, api::TUNNEL_TCP_ALPN).await, "{name}");
    }
    assert!(!answers_over_tcp(&world, &world.trust.east_gateway(), b"h2").await, "another protocol");
}

/// Whether the tunnel's TCP listener answers a probe.
async fn answers_over_tcp(world: &World, credentials: &Credentials, alpn: &[u8]) -> bool {
    let config = match credentials.client_config(PeerPolicy::AnyKnown, &[alpn]) {
        Ok(config) => config,
        Err(_) => credentials.client_config_open(PeerPolicy::AnyKnown, &[alpn]).unwrap(),
    };
    let stream = tokio::net::TcpStream::connect(world.west.quic()).await.unwrap();
    let Ok((stream, _)) = identity::connect_tls(config, stream, Duration::from_secs(5)).await else { return false };
    let settings = proxy::hbone::Settings::default();
    let Ok(outer) = proxy::hbone::Outer::handshake(stream, &settings).await else { return false };
    let Ok(mut flow) = outer.connect("gateway.isthmus.invalid:15443", Vec::new()).await else { return false };
    let frame = tunnel::to_frame(&Header::from(&probe())).unwrap();
    let _ = tokio::io::AsyncWriteExt::write_all(&mut flow.io, &frame).await;
    is_accepted(&tunnel::read_frame(&mut flow.io).await.map_err(|error| error.to_string()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_that_claims_another_source_is_denied() {
    let world = World::new(echo().await).await;
    let claim = |source: &str| TunnelRequest { source: id(source), ..request("reviews") };
    let outer = world.web().await;
    for source in ["spiffe://east.demo/ns/default/sa/admin", "spiffe://west.demo/ns/default/sa/web"] {
        assert_eq!(denial(&outer, &claim(source)).await.reason, "source-mismatch", "HBONE, {source}");
    }
    let gateway = world.trust.east_gateway();
    let foreign = claim("spiffe://west.demo/ns/default/sa/web");
    assert_eq!(reason(ask_quic(&world, &gateway, &foreign).await), "source-mismatch");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_exported_is_denied_with_the_reason() {
    let world = World::new(echo().await).await;
    let outer = world.web().await;
    // The own view says that it is imported; the other cluster knows better.
    let denied = denial(&outer, &request("secret")).await;
    assert_eq!((denied.reason.as_str(), denied.by.as_str()), ("not-exported", "west/gateway-1"));
    let denied = denial(&outer, &request("nothing")).await;
    assert_eq!((denied.reason.as_str(), denied.by.as_str()), ("not-exported", "east/gateway-1"));
    let gateway = world.trust.east_gateway();
    for name in ["secret", "nothing"] {
        assert_eq!(reason(ask_quic(&world, &gateway, &request(name)).await), "not-exported", "{name}");
    }
    let elsewhere = TunnelRequest { cluster: cluster("north"), ..request("reviews") };
    assert_eq!(denial(&outer, &elsewhere).await.reason, "cluster-unknown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_are_none_are_denied() {
    let world = World::new(echo().await).await;
    let outer = world.web().await;
    let answer = outer.connect("reviews.default:9080", Vec::new()).await.unwrap().answer.await;
    assert!(matches!(answer, Err(proxy::hbone::AnswerError::Refused(_))));
    let config = world.trust.east_gateway().quic_client_config(PeerPolicy::AnyKnown, &[api::TUNNEL_ALPN]).unwrap();
    let connection = dial(&world, quinn::ClientConfig::new(config)).await.unwrap();
    for bytes in [&[0xff, 0xff, 0, 0][..], &[0, 3, 0xff, 0xff, 0xff]] {
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        assert_eq!(reason(tunnel::read_frame(&mut recv).await.map_err(|error| error.to_string())), "bad-header");
    }
    let mut header = Header::from(&probe());
    header.version = 99;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&tunnel::to_frame(&header).unwrap()).await.unwrap();
    let reply = tunnel::read_frame(&mut recv).await.map_err(|error| error.to_string());
    assert_eq!(reason(reply), "version-unsupported");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_data_is_never_taken() {
    let world = World::new(echo().await).await;
    let credentials = world.trust.east_gateway();
    // A client that would resume and send early data if only it were let.
    let mut config = (*credentials.client_config(PeerPolicy::AnyKnown, &[api::TUNNEL_ALPN]).unwrap()).clone();
    config.enable_early_data = true;
    config.resumption = Resumption::in_memory_sessions(16);
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    for round in 0..3 {
        let connecting = endpoint.connect_with(config.clone(), world.west.quic(), identity::DUMMY_SERVER_NAME).unwrap();
        let Err(connecting) = connecting.into_0rtt() else { panic!("early data in round {round}") };
        let connection = connecting.await.unwrap();
        assert!(is_accepted(&ask_on(&connection, &probe()).await));
    }
}

/// How long after its certificate's end a peer is cut off.
async fn cut_off(end: SystemTime, closed: impl Future<Output = ()>) -> Duration {
    tokio::time::timeout(Duration::from_secs(30), closed).await.expect("closed");
    SystemTime::now().duration_since(end).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_end_soon_after_their_peers_certificate() {
    let world = World::new(echo().await).await;
    // Enough to connect and open a flow.
    let end = SystemTime::now() + Duration::from_secs(8);
    let short = |name: &SpiffeId| {
        world.trust.with_validity(&world.trust.east, &name.to_string(), SystemTime::now() - HOUR, end)
    };
    let gateway = short(&probe().source);
    let config = gateway.quic_client_config(PeerPolicy::AnyKnown, &[api::TUNNEL_ALPN]).unwrap();
    let connection = dial(&world, quinn::ClientConfig::new(config)).await.unwrap();
    assert!(is_accepted(&ask_on(&connection, &probe()).await));
    let outer = outer(world.east.hbone(), &short(&request("reviews").source)).await.unwrap();
    let mut flow = open(&outer, &request("reviews")).await;
    flow.answer.await.unwrap();
    let quic = cut_off(end, async { drop(connection.closed().await) });
    let hbone = cut_off(end, async {
        let _ = tokio::io::AsyncReadExt::read(&mut flow.io, &mut [0]).await;
    });
    for late in [quic.await, hbone.await] {
        assert!(late <= Duration::from_secs(5), "{late:?} late");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_end_soon_after_their_cluster_has_left() {
    let world = World::new(echo().await).await;
    let gateway = world.trust.east_gateway();
    let config = gateway.quic_client_config(PeerPolicy::AnyKnown, &[api::TUNNEL_ALPN]).unwrap();
    let connection = dial(&world, quinn::ClientConfig::new(config.clone())).await.unwrap();
    assert!(is_accepted(&ask_on(&connection, &probe()).await));
    let mut left = west_view();
    left.clusters.clear();
    world.west.view.send(Arc::new(left)).unwrap();
    let begun = Instant::now();
    connection.closed().await;
    assert!(begun.elapsed() <= Duration::from_secs(5));
    assert!(ask_with(&world, quinn::ClientConfig::new(config), &probe()).await.is_err());
}
