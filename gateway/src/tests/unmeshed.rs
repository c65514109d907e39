//! Ends without a sidecar: the gateway speaks for servers and for clients, where policy says so and nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use identity::{Credentials, PeerPolicy};
use mesh::{
    AnyNot, AuthorizationAction, AuthorizationRule, AuthorizationRules, ExportPolicy, InboundPolicy, Labels,
    LocalGateway, MtlsMode, Namespace, ObjectRef, Origin, Protocol, SourceMatch, StandIn, StringMatch, TunnelMode,
    TunnelRequest, View, Workload, WorkloadConfig, WorkloadPort,
};
use proxy::hbone::{Outer, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::health::until_usable;
use super::refusals::{ask_quic, reason};
use super::world::*;

/// Whom the gateway of `west` speaks as.
const OLD: &str = "spiffe://west.demo/ns/default/sa/old";
const WEB: &str = "east.demo/ns/default/sa/web";
const EAST_GATEWAY: &str = "east.demo/ns/isthmus-system/sa/gateway";

/// `west`, where reviews has no sidecar and listens at `pod`; only `allowed` may call it, everyone if it is `None`.
fn unmeshed_west(pod: SocketAddr, allowed: Option<&str>) -> View {
    let mut view = west_view();
    for name in ["reviews", "secret"] {
        let service = Arc::make_mut(view.services.get_mut(&service(name)).unwrap());
        service.ports[0].protocol = Protocol::Tcp;
        let endpoint = &mut service.endpoints[0];
        endpoint.identity = None;
        endpoint.stand_in = Some(id(OLD));
        endpoint.address = pod.ip();
        endpoint.ports = BTreeMap::from([(9080, pod.port())]);
    }
    let port = WorkloadPort {
        number: pod.port(),
        name: "tcp".into(),
        protocol: Protocol::Tcp,
        service_ports: BTreeSet::from([9080]),
        exports: BTreeMap::from([(9080, ExportPolicy::Everyone)]),
    };
    let authorization = allowed.map(only).into_iter().map(Arc::new).collect();
    let inbound = InboundPolicy { authorization, ..InboundPolicy::default() };
    let workload = Workload {
        namespace: Namespace::new("default").unwrap(),
        name: "reviews-1".into(),
        service_account: "old".into(),
        labels: Labels::new(),
        ports: vec![port],
        mtls: MtlsMode::Permissive,
        locality: String::new(),
        config: Arc::new(WorkloadConfig { inbound, ..WorkloadConfig::default() }),
    };
    view.stand_ins.insert("default/reviews-1".into(), Arc::new(StandIn { address: pod.ip(), workload }));
    view
}

/// An AuthorizationPolicy that lets one principal in.
fn only(principal: &str) -> AuthorizationRules {
    let object = ObjectRef { kind: "AuthorizationPolicy".into(), namespace: "default".into(), name: "x".into() };
    let principals = AnyNot { any: vec![StringMatch::Exact(principal.into())], not: Vec::new() };
    let from = vec![SourceMatch { principals, ..SourceMatch::default() }];
    let origin = Origin { object: Arc::new(object.clone()), path: "spec.rules[0]".into(), name: None };
    let rule = AuthorizationRule { origin, from, to: Vec::new(), when: Vec::new() };
    AuthorizationRules { origin: object, action: AuthorizationAction::Allow, rules: vec![rule], dry_run: false }
}

/// Both clusters; the gateway of `west` has a certificate of [`OLD`].
async fn world(west: View) -> World {
    let trust = Trust::new();
    let identities = Fixed(BTreeMap::from([(id(OLD), trust.credentials(&trust.west, OLD))]));
    let nobody = "127.0.0.1:9".parse().unwrap();
    let speaks = |parts: &mut crate::Parts, _: &mut crate::limits::Bounds| parts.identities = Arc::new(identities);
    let west = gateway_with("west.demo", trust.west_gateway(), west, nobody, speaks).await;
    let east = gateway("east.demo", trust.east_gateway(), east_view(&[west.quic()]), nobody).await;
    until_usable(&east, 1).await;
    World { trust, east, west }
}

fn plain(name: &str) -> TunnelRequest {
    TunnelRequest { mode: TunnelMode::Plain, ..request(name) }
}

/// Sends a word to reviews as `credentials` inside, through `outer`, expecting `server`; gives what comes back.
async fn say(outer: &Outer, credentials: &Credentials, server: &str) -> Result<Vec<u8>, String> {
    let flow = open(outer, &plain("reviews")).await;
    say_in(flow.io, credentials, server).await
}

async fn say_in(
    flow: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    credentials: &Credentials,
    server: &str,
) -> Result<Vec<u8>, String> {
    let config = credentials.client_config(PeerPolicy::only(id(server)), &[b"h2"]).unwrap();
    let connecting = identity::connect_tls(config, flow, std::time::Duration::from_secs(10));
    let (stream, _) = connecting.await.map_err(|error| format!("{error:?}"))?;
    let inner = Outer::handshake(stream, &Settings::default()).await.map_err(|error| error.to_string())?;
    let authority = "reviews.default.svc.clusterset.local:9080";
    let mut inside = inner.connect(authority, Vec::new()).await.map_err(|error| error.to_string())?;
    inside.answer.await.map_err(|error| error.to_string())?;
    inside.io.write_all(b"word").await.map_err(|error| error.to_string())?;
    let mut seen = vec![0; 4];
    inside.io.read_exact(&mut seen).await.map_err(|error| error.to_string())?;
    Ok(seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_serves_a_pod_without_a_sidecar_as_the_export_says() {
    let world = world(unmeshed_west(echo().await, None)).await;
    let (outer, web) = (world.web().await, world.trust.web());
    assert_eq!(say(&outer, &web, OLD).await.unwrap(), b"word");
    // The client's sidecar expects the identity that was announced, and no other.
    assert!(say(&outer, &web, "spiffe://west.demo/ns/default/sa/reviews").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_exports_leave_nothing_ends_at_the_gateway() {
    let mut west = unmeshed_west(echo().await, None);
    Arc::make_mut(west.services.get_mut(&service("reviews")).unwrap()).endpoints[0].stand_in = None;
    let world = world(west).await;
    let denied = denial(&world.web().await, &plain("reviews")).await;
    assert_eq!((denied.reason.as_str(), denied.by.as_str()), ("policy", "west/gateway-1"));
    let denied = denial(&world.web().await, &request("reviews")).await;
    assert_eq!(denied.reason, "no-endpoint", "mesh mode does not fall back to plain text");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_of_the_pod_are_about_the_workload_that_the_inner_tls_proves() {
    let backend = echo().await;
    let world = world(unmeshed_west(backend, Some(WEB))).await;
    let (outer, web) = (world.web().await, world.trust.web());
    assert_eq!(say(&outer, &web, OLD).await.unwrap(), b"word");
    world.west.view.send(Arc::new(unmeshed_west(backend, Some("east.demo/ns/default/sa/admin")))).unwrap();
    assert!(say(&outer, &web, OLD).await.is_err(), "the policy lets only admin in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compromised_gateway_reaches_plainly_what_is_exported_to_its_cluster_and_lies_in_vain() {
    let world = world(unmeshed_west(echo().await, Some("east.demo/ns/default/sa/admin"))).await;
    let gateway = world.trust.east_gateway();
    let cases = [
        ("not exported", plain("secret"), "not-exported"),
        ("unknown", plain("nothing"), "not-exported"),
        ("another port", TunnelRequest { port: 22, ..plain("reviews") }, "unknown-port"),
        ("another cluster", TunnelRequest { cluster: cluster("north"), ..plain("reviews") }, "cluster-unknown"),
        ("a source elsewhere", TunnelRequest { source: id(OLD), ..plain("reviews") }, "source-mismatch"),
    ];
    for (name, request, expected) in cases {
        assert_eq!(reason(ask_quic(&world, &gateway, &request).await), expected, "{name}");
    }
    // A lie that the trust domain allows: the header says admin, whom the policy lets in. Inside, nobody proves it.
    let admin = "spiffe://east.demo/ns/default/sa/admin";
    let lie = TunnelRequest { source: id(admin), ..plain("reviews") };
    for (name, inside, let_in) in [
        ("the gateway itself", gateway.clone(), false),
        ("web", world.trust.web(), false),
        ("admin", world.trust.credentials(&world.trust.east, admin), true),
    ] {
        let flow = super::refusals::flow_quic(&world, &gateway, &lie).await;
        assert_eq!(say_in(flow, &inside, OLD).await.is_ok(), let_in, "{name}");
    }
}

/// A port of the gateway's address that nothing listens on.
async fn free_port(gateway: SocketAddr) -> SocketAddr {
    TcpListener::bind((gateway.ip(), 0)).await.unwrap().local_addr().unwrap()
}

/// `east`, whose gateway takes unmeshed clients of reviews at `port`.
fn open_east(world: &World, port: Option<u16>) -> View {
    let mut view = east_view(&[world.west.quic()]);
    let own = LocalGateway {
        name: "gateway-1".into(),
        hbone_address: world.east.hbone(),
        identity: id(&format!("spiffe://{EAST_GATEWAY}")),
    };
    view.gateways.insert("gateway-1".into(), Arc::new(own));
    let reviews = Arc::make_mut(view.services.get_mut(&service("reviews")).unwrap());
    reviews.listeners = port.map(|port| (9080, port)).into_iter().collect();
    let group = &mut reviews.imports.get_mut(&cluster("west")).unwrap().groups[0];
    group.meshed = false;
    group.key.service_account = "old".into();
    view
}

/// Sends a word to a port of the gateway in plain text.
async fn say_plainly(port: SocketAddr) -> Result<Vec<u8>, String> {
    let mut stream = TcpStream::connect(port).await.map_err(|error| error.to_string())?;
    stream.write_all(b"word").await.map_err(|error| error.to_string())?;
    let mut seen = vec![0; 4];
    stream.read_exact(&mut seen).await.map_err(|error| error.to_string())?;
    Ok(seen)
}

async fn until_rows(world: &World, count: usize) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let rows = world.east.running.listeners.rows();
        if rows.iter().filter(|row| row.state == "open").count() == count {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{rows:?}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_a_sidecar_is_seen_as_the_gateway_and_only_while_policy_says_so() {
    let backend = echo().await;
    let world = world(unmeshed_west(backend, Some(EAST_GATEWAY))).await;
    let port = free_port(world.east.hbone()).await;
    assert!(say_plainly(port).await.is_err(), "nothing listens before policy says so");
    world.east.view.send(Arc::new(open_east(&world, Some(port.port())))).unwrap();
    until_rows(&world, 1).await;
    assert_eq!(say_plainly(port).await.unwrap(), b"word");
    // The server's policies see the gateway and nobody else.
    world.west.view.send(Arc::new(unmeshed_west(backend, Some(WEB)))).unwrap();
    assert!(say_plainly(port).await.is_err(), "the policy lets only web in");
    world.west.view.send(Arc::new(unmeshed_west(backend, None))).unwrap();
    // A connection that is open stays; new ones are refused.
    let mut kept = TcpStream::connect(port).await.unwrap();
    kept.write_all(b"once").await.unwrap();
    let mut seen = [0; 4];
    kept.read_exact(&mut seen).await.unwrap();
    world.east.view.send(Arc::new(open_east(&world, None))).unwrap();
    until_rows(&world, 0).await;
    kept.write_all(b"more").await.unwrap();
    kept.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"more");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while TcpStream::connect(port).await.is_ok() {
        assert!(std::time::Instant::now() < deadline, "the port is still open");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
