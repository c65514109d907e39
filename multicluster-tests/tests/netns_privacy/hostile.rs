//! Whoever holds east's gateway: its credential, its address, and every word of the tunnel's protocol.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use api::tunnel::{GroupSelector, Header, Mode, Reply, reply};
use bytes::Bytes;
use fleet::echo::Answer;
use fleet::plan::{at, port};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::{ClusterCa, Credentials, PeerPolicy, TrustBundles, connect_tls};
use mesh::SpiffeId;
use multicluster_tests::{Scenario, on_netns, step, within};
use proxy::hbone::{Outer, Settings};
use proxy::tunnel::{read_frame, to_frame};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, join};
use tokio::net::TcpStream;

use super::{CLIENT, FILE, HOST, SERVER};

const PATIENCE: Duration = Duration::from_secs(20);
const GATEWAY: &str = "spiffe://east.demo/ns/isthmus-system/sa/gateway";

/// Only the client may, at servers with a sidecar and without.
const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-ospreys, namespace: mudflats}
spec:
  selector: {matchLabels: {kind: bird}}
  action: ALLOW
  rules: [{from: [{source: {principals: [east.demo/ns/mudflats/sa/ospreynest]}}]}]
";

/// Gateways of west speak for the server without a sidecar.
const SPOKEN_FOR: &str = "
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {name: sanderling, namespace: mudflats, annotations: {isthmus.dev/unmeshed: allow}}
";

/// A source gateway of ours.
struct Hostile {
    credentials: Credentials,
    tunnel: Tunnel,
}

/// Either way to the gateway of another cluster.
enum Tunnel {
    Quic { connection: quinn::Connection, _endpoint: quinn::Endpoint },
    Tcp(Outer),
}

/// One stream of it.
type Flow = Pin<Box<dyn Io>>;

trait Io: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Io for T {}

/// What east's gateway is given by its agent: the identity of gateways, signed by east's CA.
fn credentials(scenario: &Scenario) -> Credentials {
    let ca = |cluster: &str| ClusterCa::load(&scenario.fleet.layout.agent(cluster).join("ca")).expect("the CA loads");
    let bundles: TrustBundles =
        ["east", "west", "north"].map(|cluster| ca(cluster).bundle(1).expect("a bundle")).into_iter().collect();
    let (now, id) = (SystemTime::now(), GATEWAY.parse::<SpiffeId>().expect("an id"));
    let svid = ca("east").issue_with_validity(&id, now, now + Duration::from_secs(600)).expect("an SVID");
    Credentials::fixed(svid, bundles)
}

/// What an honest gateway would say.
fn honest() -> Header {
    Header {
        version: 1,
        namespace: "mudflats".into(),
        service: "kingfisher".into(),
        port: 9080,
        cluster: "west".into(),
        mode: Mode::Mesh.into(),
        source: CLIENT.into(),
        ..Default::default()
    }
}

impl Hostile {
    async fn over_quic(credentials: Credentials, gateway: SocketAddr) -> Self {
        let endpoint = quinn::Endpoint::client("0.0.0.0:0".parse().expect("an address")).expect("a socket");
        let crypto =
            credentials.quic_client_config(PeerPolicy::AnyKnown, &[api::TUNNEL_ALPN]).expect("a configuration");
        let connecting = endpoint.connect_with(quinn::ClientConfig::new(crypto), gateway, identity::DUMMY_SERVER_NAME);
        let connection = connecting.expect("it starts").await.expect("the credential is good");
        Self { credentials, tunnel: Tunnel::Quic { connection, _endpoint: endpoint } }
    }

    async fn over_tcp(credentials: Credentials, gateway: SocketAddr) -> Self {
        let config = credentials.client_config(PeerPolicy::AnyKnown, &[api::TUNNEL_TCP_ALPN]).expect("a configuration");
        let stream = TcpStream::connect(gateway).await.expect("the gateway accepts");
        let (stream, _) = connect_tls(config, stream, PATIENCE).await.expect("the credential is good");
        let outer = Outer::handshake(stream, &Settings::default()).await.expect("HTTP/2");
        Self { credentials, tunnel: Tunnel::Tcp(outer) }
    }

    async fn stream(&self) -> Flow {
        match &self.tunnel {
            Tunnel::Quic { connection, .. } => {
                let (send, receive) = connection.open_bi().await.expect("a stream");
                Box::pin(join(receive, send))
            }
            Tunnel::Tcp(outer) => {
                Box::pin(outer.connect("gateway.isthmus.invalid:15443", Vec::new()).await.expect("a stream").io)
            }
        }
    }

    /// Opens a stream with a header; the reason if it is denied.
    async fn open(&self, header: &Header) -> Result<Flow, String> {
        let mut flow = self.stream().await;
        flow.write_all(&to_frame(header).expect("short")).await.expect("sent");
        let answered = tokio::time::timeout(PATIENCE, read_frame::<Reply, _>(&mut flow)).await;
        match answered.expect("an answer in time").expect("a reply").reply {
            Some(reply::Reply::Accepted(_)) => Ok(flow),
            Some(reply::Reply::Denied(denied)) => Err(denied.reason),
            None => panic!("an empty reply"),
        }
    }

    /// A GET inside a stream to the server's sidecar, or to who speaks for it, with the only identity that we can prove. `port` is
    /// the pod's port.
    async fn get(&self, header: &Header, port: u16) -> (StatusCode, String) {
        let flow = self.open(header).await.expect("the flow is accepted");
        let config = self.credentials.client_config(PeerPolicy::AnyKnown, &[b"h2"]).expect("a configuration");
        let (stream, peer) = connect_tls(config, flow, PATIENCE).await.expect("the server's end is reached");
        let account = if header.mode() == Mode::Plain { "wader" } else { "pelicanry" };
        assert_eq!(peer.id.to_string(), format!("spiffe://west.demo/ns/mudflats/sa/{account}"));
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut requests, connection) = handshake.await.expect("HTTP/2");
        let driving = tokio::spawn(connection);
        let request = Request::get(format!("http://{}.mudflats.svc.clusterset.local:9080/", header.service))
            .header("x-isthmus-port", port)
            .header("x-forwarded-client-cert", format!("By=spiffe://west.demo/x;URI={CLIENT}"));
        let request = request.body(Empty::<Bytes>::new()).expect("a request");
        let response = requests.send_request(request).await.expect("an answer");
        let status = response.status();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        driving.abort();
        (status, String::from_utf8_lossy(&body).into_owned())
    }
}

/// Headers that must be denied, each with its reason.
fn lies(secret_address: &str) -> Vec<(&'static str, Header, &'static str)> {
    let group = GroupSelector { service_account: "bitternreed".into(), ..Default::default() };
    let source = |source: &str| Header { source: source.into(), ..honest() };
    let service = |service: &str| Header { service: service.into(), ..honest() };
    let cluster = |cluster: &str| Header { cluster: cluster.into(), ..honest() };
    let pod = |pod: &str| Header { pod: pod.into(), ..honest() };
    vec![
        ("a service that is not exported", service("bitternreed"), "not-exported"),
        ("one that is exported to another cluster", service("turnstone"), "not-exported"),
        ("one that does not exist", service("nothing"), "not-exported"),
        ("one of another namespace", Header { namespace: "default".into(), ..honest() }, "not-exported"),
        ("a port that the service has not", Header { port: u32::from(port::ADMIN), ..honest() }, "unknown-port"),
        ("a flow for its own cluster", cluster("east"), "cluster-unknown"),
        ("a flow for a third cluster", cluster("north"), "cluster-unknown"),
        ("a flow for a cluster that is none", cluster("south"), "cluster-unknown"),
        ("a source of the destination", source("spiffe://west.demo/ns/mudflats/sa/pelicanry"), "source-mismatch"),
        ("a source of a third cluster", source("spiffe://north.demo/ns/default/sa/guillemot"), "source-mismatch"),
        ("a source of nowhere", source("spiffe://south.demo/ns/default/sa/x"), "source-mismatch"),
        ("no source", source(""), "bad-header"),
        ("a pod of another service by name", pod("bitternreed-1"), "no-endpoint"),
        ("a pod of another service by address", pod(secret_address), "no-endpoint"),
        ("another workload's group", Header { group: Some(group), ..honest() }, "no-endpoint"),
        ("plain text to a server with a sidecar", Header { mode: Mode::Plain.into(), ..honest() }, "policy"),
        (
            "plain text to what is not exported",
            Header { mode: Mode::Plain.into(), ..service("bitternreed") },
            "not-exported",
        ),
        ("a server without a sidecar, as if it had one", service("sanderling"), "no-endpoint"),
        ("another version", Header { version: 99, ..honest() }, "version-unsupported"),
    ]
}

/// The same to the server without a sidecar, for which the gateway speaks.
fn plain(source: &str) -> Header {
    Header { service: "sanderling".into(), mode: Mode::Plain.into(), source: source.into(), ..honest() }
}

/// What a stolen gateway can do: nothing but use what is exported, as itself.
async fn attack(hostile: Hostile, secret_address: String) {
    for (what, header, reason) in lies(&secret_address) {
        let denied = hostile.open(&header).await.map(drop);
        assert_eq!(denied, Err(reason.to_owned()), "{what}");
    }
    let denied = hostile.open(&plain(CLIENT)).await.map(drop);
    assert_eq!(denied, Err("policy".to_owned()), "the export lets nobody speak for the server");
    uses_as_itself(&hostile, |source| Header { source: source.into(), ..honest() }).await;
    // Nor does the way to a pod lead to its other ports.
    for port in [port::ADMIN, port::OUTBOUND, 22] {
        let (status, body) = hostile.get(&honest(), port).await;
        assert!(!status.is_success(), "port {port}: {status} {body}");
    }
    println!("{} false headers were denied with their reasons", lies("").len());
}

/// A false source inside the own trust domain is not told from a true one here, and changes nothing: the server sees who proved
/// itself, whatever the headers claim.
async fn uses_as_itself(hostile: &Hostile, header: impl Fn(&str) -> Header) {
    for source in [GATEWAY, CLIENT, "spiffe://east.demo/ns/mudflats/sa/stilthouse"] {
        let (status, body) = hostile.get(&header(source), 9080).await;
        let answer: Answer =
            serde_json::from_str(&body).unwrap_or_else(|error| panic!("{source}: {status} {error}: {body}"));
        assert_eq!((status, answer.client_identity.as_str()), (StatusCode::OK, GATEWAY), "{source}");
        let passed = answer.headers.get("x-forwarded-client-cert").expect("the server's end vouches");
        assert!(!passed.contains("ospreynest"), "the claim was passed on: {passed}");
    }
}

#[test]
fn a_stolen_gateway_reaches_only_what_is_exported_to_its_cluster_and_only_as_itself() {
    on_netns(FILE, async |scenario| {
        let west = scenario.fleet.cluster("west").expect("west");
        let gateway = at(west.gateways[0].ip, port::QUIC);
        let secret = scenario.fleet.pod("west/bitternreed").expect("a pod").1.ip.to_string();
        let url = format!("http://{HOST}:9080/");
        let credentials = credentials(scenario);
        step("as east's gateway, from its address, before there is a policy, over QUIC and over TCP");
        within(&scenario.fleet, "east/gateway-1", async || {
            attack(Hostile::over_quic(credentials.clone(), gateway).await, secret.clone()).await;
            attack(Hostile::over_tcp(credentials.clone(), gateway).await, secret).await;
        });

        step("once west's gateways speak for the server without a sidecar");
        scenario.apply("west", SPOKEN_FOR).await;
        within(&scenario.fleet, "east/gateway-1", async || {
            let quic = Hostile::over_quic(credentials.clone(), gateway).await;
            let tcp = Hostile::over_tcp(credentials.clone(), gateway).await;
            for hostile in [quic, tcp] {
                uses_as_itself(&hostile, plain).await;
                for port in [port::ADMIN, port::HBONE, 22] {
                    let (status, body) = hostile.get(&plain(CLIENT), port).await;
                    assert!(!status.is_success(), "port {port}: {status} {body}");
                }
            }
        });

        step("with a policy at the servers");
        scenario.apply("west", POLICY).await;
        assert_eq!(scenario.shot("east/heronries", &url, &[]).await.status, 200);
        assert_eq!(scenario.shot("east/stilthouse", &url, &[]).await.status, 403);
        within(&scenario.fleet, "east/gateway-1", async || {
            let quic = Hostile::over_quic(credentials.clone(), gateway).await;
            let tcp = Hostile::over_tcp(credentials.clone(), gateway).await;
            for hostile in [quic, tcp] {
                for source in [GATEWAY, CLIENT] {
                    for header in [Header { source: source.into(), ..honest() }, plain(source)] {
                        let (status, body) = hostile.get(&header, 9080).await;
                        assert_eq!(status, StatusCode::FORBIDDEN, "{source} {}: {body}", header.service);
                    }
                }
            }
        });
        let seen = scenario.fleet.pod(SERVER).expect("a pod").1.name.clone();
        println!("{seen} judged by the inner identity");
    });
}
