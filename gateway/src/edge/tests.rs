//! A gateway of the edge over real sockets, with certificates made here and a configuration as the agent sends it.

mod proof;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh::{Labels, MtlsMode, Namespace, OriginateTls, Secret, TlsMaterial, View, Workload, WorkloadConfig};
use proxy::access::Recorder;
use proxy::hbone::H2Io;
use proxy::listen::Lifecycle;
use proxy::metrics::Metrics;
use proxy::resolve::SystemResolver;
use proxy::tls::Originator;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use telemetry::{Readiness, Registry};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::client::TlsStream;

use super::{Edge, Parts};
use crate::tests::world::{Trust, outer, own_address};

const PATIENCE: Duration = Duration::from_secs(10);

/// A server's JSON: its hosts, its TLS, and what it answers for each of its hosts.
fn server(hosts: &[&str], tls: Value, answer: &str) -> Value {
    let object = |kind: &str| json!({"kind": kind, "namespace": "default", "name": "gw"});
    let routes = |host: &&str| {
        let rule = json!({
            "origin": {"object": object("VirtualService"), "path": "spec.http[0]"},
            "action": {"direct": {"status": 200, "body": answer.as_bytes()}},
        });
        json!({"host": host, "routes": {
            "origin": object("VirtualService"),
            "gateways": ["default/gw"],
            "http": [rule],
        }})
    };
    json!({
        "origin": {"object": object("Gateway"), "path": "spec.servers[0]"},
        "gateway": "default/gw",
        "protocol": "http",
        "hosts": hosts.iter().map(|host| json!({"host": host})).collect::<Vec<_>>(),
        "tls": tls,
        "routes": hosts.iter().map(routes).collect::<Vec<_>>(),
    })
}

fn tls(mode: &str, secret: &str) -> Value {
    json!({"mode": mode, "certificates": [{"secret": secret}]})
}

/// The listener of a port, bound to any.
fn listener(port: u16, servers: &[Value]) -> Value {
    json!({"port": port, "target_port": 0, "servers": servers})
}

fn view(listeners: &[Value], secrets: &[Secret]) -> View {
    let gateway = serde_json::from_value(json!({"listeners": listeners})).unwrap();
    let workload = Workload {
        namespace: Namespace::new("istio-system").unwrap(),
        name: "istio-ingressgateway".into(),
        service_account: "istio-ingressgateway-service-account".into(),
        labels: Labels::new(),
        ports: Vec::new(),
        mtls: MtlsMode::Permissive,
        locality: String::new(),
        config: Arc::new(WorkloadConfig { gateway: Some(gateway), ..WorkloadConfig::default() }),
    };
    let secrets: BTreeMap<_, _> =
        secrets.iter().map(|secret| (secret.name.clone(), Arc::new(secret.clone()))).collect();
    View { revision: 7, workload: Some(Arc::new(workload)), secrets, ..View::default() }
}

/// An authority that is not the mesh's.
struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn secret(&self, name: &str, host: &str) -> Secret {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        Secret {
            name: name.to_owned(),
            certificate: params.signed_by(&key, &self.0).unwrap().pem().into_bytes(),
            private_key: key.serialize_pem().into_bytes(),
            ca: self.0.pem().into_bytes(),
            crl: Vec::new(),
        }
    }
}

/// A gateway that runs, and the handles that tests turn.
struct World {
    edge: Arc<Edge>,
    views: watch::Sender<Arc<View>>,
    trust: Trust,
    readiness: Readiness,
    registry: Registry,
    /// What the client shows and believes: `client` of the same authority.
    client: View,
}

impl World {
    fn new(ca: &Ca, first: View) -> Self {
        let trust = Trust::new();
        let (views, watched) = watch::channel(Arc::new(first));
        let (readiness, registry) = (Readiness::new(), Registry::new("gateway"));
        let edge = Edge::start(Parts {
            directory: Arc::new(watched.clone()),
            views: watched,
            credentials: trust.credentials(&trust.east, "spiffe://east.demo/ns/istio-system/sa/edge"),
            resolver: Arc::new(SystemResolver),
            recorder: Recorder::new(Metrics::default(), |_| {}),
            life: Lifecycle::default(),
            namespace: Namespace::new("istio-system").unwrap(),
            bind: "127.0.0.1".parse().unwrap(),
            drain: Duration::from_secs(5),
            readiness: readiness.clone(),
            registry: registry.clone(),
        });
        Self { edge, views, trust, readiness, registry, client: view(&[], &[ca.secret("ns/client", "client")]) }
    }

    /// Where a port of the configuration is bound, once it is.
    async fn at(&self, port: u16) -> SocketAddr {
        until(|| self.edge.address(port)).await
    }

    /// TLS to a port with this SNI, with or without a certificate of the client.
    async fn dial(&self, port: u16, sni: &str, shows: bool) -> Result<TlsStream<TcpStream>, String> {
        let stream = TcpStream::connect(self.at(port).await).await.map_err(|error| error.to_string())?;
        let settings = OriginateTls {
            mutual: shows,
            material: TlsMaterial::Secret("ns/client".into()),
            ..OriginateTls::default()
        };
        let connected = Originator::new().connect(stream, &settings, sni, &self.client, &[b"http/1.1"]).await;
        connected.map_err(|fault| fault.to_string())
    }

    /// `status body` of a request over TLS.
    async fn get(&self, port: u16, sni: &str, host: &str, shows: bool) -> Result<String, String> {
        ask(self.dial(port, sni, shows).await?, host).await
    }
}

async fn until<T>(mut done: impl FnMut() -> Option<T>) -> T {
    let waiting = async {
        loop {
            match done() {
                Some(value) => return value,
                None => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap()
}

/// Sends one request and reads to the end: the status line's code, `location` if there is one, and the body.
async fn ask(mut io: impl AsyncRead + AsyncWrite + Unpin, host: &str) -> Result<String, String> {
    let failed = |error: std::io::Error| error.to_string();
    let request = format!("GET /a?b=1 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    io.write_all(request.as_bytes()).await.map_err(failed)?;
    io.flush().await.map_err(failed)?;
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, io.read_to_end(&mut answer))
        .await
        .map_err(|late| late.to_string())?
        .map_err(failed)?;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    let location = head.lines().find_map(|line| line.strip_prefix("location: ")).unwrap_or_default();
    Ok(format!("{status} {location}{body}"))
}

#[tokio::test]
async fn certificates_and_routes_follow_the_name_in_the_hello() {
    let ca = Ca::new();
    let secrets = [ca.secret("ns/a", "a.example"), ca.secret("ns/b", "*.b.example")];
    let servers = [
        server(&["a.example"], tls("simple", "ns/a"), "from a"),
        server(&["*.b.example"], tls("simple", "ns/b"), "from b"),
        server(&["broken.example"], tls("simple", "ns/missing"), "never"),
    ];
    let world = World::new(&ca, view(&[listener(443, &servers)], &secrets));
    assert_eq!(world.get(443, "a.example", "a.example", false).await.unwrap(), "200 from a");
    assert_eq!(world.get(443, "x.b.example", "x.b.example", false).await.unwrap(), "200 from b");
    assert!(world.get(443, "a.example", "else.example", false).await.unwrap().starts_with("404"), "no route");
    for refused in ["else.example", "broken.example"] {
        assert!(world.get(443, refused, refused, false).await.is_err(), "{refused}");
    }
    let plain = TcpStream::connect(world.at(443).await).await.unwrap();
    assert!(ask(plain, "a.example").await.is_err(), "no TLS");
    let metrics = world.registry.encode();
    for reason in ["no_server", "no_certificate", "not_tls"] {
        assert!(metrics.contains(&format!("reason=\"{reason}\"")), "{reason}: {metrics}");
    }
}

#[tokio::test]
async fn clients_prove_themselves_where_they_must() {
    let ca = Ca::new();
    let secret = ca.secret("ns/a", "*.a.example");
    let servers = [
        server(&["must.a.example"], tls("mutual", "ns/a"), "proven"),
        server(&["may.a.example"], tls("optional-mutual", "ns/a"), "welcome"),
    ];
    let world = World::new(&ca, view(&[listener(443, &servers)], &[secret]));
    assert_eq!(world.get(443, "must.a.example", "must.a.example", true).await.unwrap(), "200 proven");
    assert!(world.get(443, "must.a.example", "must.a.example", false).await.is_err());
    for shows in [true, false] {
        assert_eq!(world.get(443, "may.a.example", "may.a.example", shows).await.unwrap(), "200 welcome");
    }
}

#[tokio::test]
async fn plain_text_is_served_or_sent_to_https() {
    let ca = Ca::new();
    let mut redirecting = server(&["old.example"], Value::Null, "never");
    redirecting["https_redirect"] = json!(true);
    let servers = [redirecting, server(&["new.example"], Value::Null, "plain")];
    let world = World::new(&ca, view(&[listener(80, &servers)], &[]));
    for (host, expected) in [("new.example", "200 plain"), ("old.example", "301 https://old.example/a?b=1")] {
        let stream = TcpStream::connect(world.at(80).await).await.unwrap();
        assert_eq!(ask(stream, host).await.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections_and_a_listener_that_goes_lets_old_ones_end() {
    let ca = Ca::new();
    let servers = [server(&["a.example"], tls("simple", "ns/a"), "here")];
    let listeners = [listener(443, &servers)];
    let world = World::new(&ca, view(&listeners, &[ca.secret("ns/a", "a.example")]));
    let old = world.dial(443, "a.example", false).await.unwrap();
    let shown = |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    world.views.send_replace(Arc::new(view(&listeners, &[ca.secret("ns/a", "a.example")])));
    let new = world.dial(443, "a.example", false).await.unwrap();
    assert_ne!(shown(&old), shown(&new));
    assert_eq!(ask(old, "a.example").await.unwrap(), "200 here");
    let address = world.at(443).await;
    world.views.send_replace(Arc::new(view(&[], &[])));
    until(|| world.edge.address(443).is_none().then_some(())).await;
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.unwrap();
    drop(new);
}

#[tokio::test]
async fn a_port_that_is_taken_is_reported_and_tried_again() {
    let ca = Ca::new();
    // Nobody else takes it when it is given back.
    let taken = TcpListener::bind((own_address(), 0)).await.unwrap();
    let at = taken.local_addr().unwrap();
    let mut own = listener(80, &[server(&["*"], Value::Null, "at last")]);
    (own["bind"], own["target_port"]) = (json!(at.ip()), json!(at.port()));
    let world = World::new(&ca, view(&[own], &[]));
    until(|| (!world.readiness.is_ready()).then_some(())).await;
    assert!(serde_json::to_string(&world.edge.rows()).unwrap().contains("\"state\":\"failed\""));
    drop(taken);
    let stream = TcpStream::connect(world.at(80).await).await.unwrap();
    assert_eq!(ask(stream, "any.example").await.unwrap(), "200 at last");
    assert!(world.readiness.is_ready());
}

#[tokio::test]
async fn peers_of_the_mesh_meet_the_same_servers_on_one_port() {
    let ca = Ca::new();
    let mesh_tls = json!({"mode": "istio-mutual"});
    let listeners = [
        listener(80, &[server(&["a.example"], Value::Null, "plain")]),
        listener(443, &[server(&["a.example"], mesh_tls, "mesh")]),
    ];
    let world = World::new(&ca, view(&listeners, &[]));
    let mtls = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = mtls.local_addr().unwrap();
    tokio::spawn(world.edge.clone().serve_mesh(mtls));
    let peer = outer(address, &world.trust.web()).await.unwrap();
    for (port, expected) in [(80, "200 plain"), (443, "200 mesh")] {
        let connecting = peer.connect(&format!("egress.istio-system:{port}"), Vec::new()).await.unwrap();
        let io: H2Io = connecting.io;
        connecting.answer.await.unwrap();
        assert_eq!(ask(io, "a.example").await.unwrap(), expected);
    }
    let unknown = peer.connect("egress.istio-system:81", Vec::new()).await.unwrap();
    assert!(unknown.answer.await.is_err(), "no such port");
}

#[tokio::test]
async fn a_peer_of_the_mesh_is_no_trusted_hop() {
    let ca = Ca::new();
    let mut told = server(&["*"], Value::Null, "told");
    told["routes"][0]["routes"]["http"][0]["headers"] =
        json!({"request": {}, "response": {"set": {"location": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}}});
    let mut first = view(&[listener(80, &[told])], &[]);
    let workload = Arc::make_mut(first.workload.as_mut().unwrap());
    Arc::make_mut(&mut workload.config).inbound.trusted_hops = 1;
    let world = World::new(&ca, first);
    let mtls = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = mtls.local_addr().unwrap();
    tokio::spawn(world.edge.clone().serve_mesh(mtls));
    let forged = "a.example\r\nx-forwarded-for: 6.6.6.6";
    let plain = TcpStream::connect(world.at(80).await).await.unwrap();
    assert_eq!(ask(plain, forged).await.unwrap(), "200 6.6.6.6told", "a proxy in front is believed");
    let peer = outer(address, &world.trust.web()).await.unwrap();
    let connecting = peer.connect("ingress.istio-system:80", Vec::new()).await.unwrap();
    let io: H2Io = connecting.io;
    connecting.answer.await.unwrap();
    assert_eq!(ask(io, forged).await.unwrap(), "200 127.0.0.1told");
}

#[tokio::test]
async fn what_a_gateway_found_out_about_its_client_stays_and_requests_mean_one_thing() {
    let ca = Ca::new();
    let mut told = server(&["*"], Value::Null, "told");
    told["routes"][0]["routes"]["http"][0]["headers"] =
        json!({"request": {}, "response": {"set": {"location": "%REQ(X-FORWARDED-FOR)%"}}});
    let world = World::new(&ca, view(&[listener(80, &[told])], &[]));
    let cases = [
        ("a.example\r\nx-forwarded-for: 6.6.6.6", "200 6.6.6.6,127.0.0.1told"),
        ("a.example\r\nconnection: keep-alive, x-hop\r\nx-hop: 1", "200 127.0.0.1told"),
        ("a.example\r\nconnection: X-Forwarded-For", "400"),
        ("a.example\r\nconnection: close, x-forwarded-client-cert", "400"),
        ("a.example\r\nhost: b.example", "400"),
        ("me@a.example", "400"),
        ("a.example\r\ntransfer-encoding: gzip, chunked", "501"),
        ("a.example\r\ntransfer-encoding : chunked", "400"),
        ("a.example\r\nexpect: tea", "417"),
    ];
    for (host, expected) in cases {
        let plain = TcpStream::connect(world.at(80).await).await.unwrap();
        let answer = ask(plain, host).await.unwrap();
        assert!(answer.starts_with(expected), "{host:?}: {answer}");
    }
}
