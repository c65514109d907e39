//! UDP datagrams, within a cluster and to another one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh::*;
use proxy::outbound::Dialled;
use proxy::udp::QUEUE;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;

use crate::world::{Server, *};

/// A server that answers every datagram with itself.
async fn echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut datagram = vec![0; 65_536];
        loop {
            let (length, from) = socket.recv_from(&mut datagram).await.unwrap();
            let _ = socket.send_to(&datagram[..length], from).await;
        }
    });
    at
}

/// One flow of the workload.
struct Flow {
    to: mpsc::Sender<Bytes>,
    back: mpsc::Receiver<Bytes>,
    ended: tokio::task::JoinHandle<()>,
}

impl Flow {
    fn open(client: &Client, host: String) -> Self {
        let ((to, from), (deliver, back)) = (mpsc::channel(QUEUE), mpsc::channel(QUEUE));
        let dialled = Dialled { host, port: PORT, source: None, transparent: false, udp: true };
        let outbound = client.outbound.clone();
        let deliver = Box::new(move |payload: &[u8]| deliver.try_send(Bytes::copy_from_slice(payload)).is_ok());
        let ended = tokio::spawn(async move { outbound.datagrams(from, deliver, dialled).await });
        Self { to, back, ended }
    }

    async fn ask(&mut self, question: Vec<u8>) -> Bytes {
        self.to.send(question.into()).await.unwrap();
        tokio::time::timeout(Duration::from_secs(10), self.back.recv()).await.expect("an answer").expect("no end")
    }

    /// Ends it; when this returns its record is written.
    async fn end(self) {
        drop(self.to);
        self.ended.await.unwrap();
    }
}

/// The first record of one end, once it is there.
async fn first(records: &std::sync::Mutex<Vec<proxy::access::Record>>) -> proxy::access::Record {
    let written = async {
        loop {
            if let Some(record) = records.lock().unwrap().first().cloned() {
                return record;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), written).await.expect("a record")
}

async fn carries(client: &Client, host: String) {
    let mut flow = Flow::open(client, host);
    for size in [0, 1, 1200, 9000] {
        let question: Vec<u8> = (0..size).map(|byte| byte as u8).collect();
        assert_eq!(flow.ask(question.clone()).await, question);
    }
    flow.end().await;
}

#[tokio::test]
async fn datagrams_cross_clusters_under_the_clients_own_identity() {
    let world = World::new();
    let server = Server::of(&world, "west", "reviews", Protocol::Udp, echo().await).await;
    let gateway = Gateway::start(&world, "gateway-1", Behaviour::Pipe((server.ip, MTLS_PORT).into())).await;
    let view = ViewOf::cluster("east").import("reviews", Protocol::Udp).gateway("gateway-1", gateway.address);
    let client = Client::start(&world, view);
    carries(&client, service("reviews").clusterset_host()).await;
    let record = first(&client.records).await;
    assert_eq!((record.protocol, record.bytes_received, record.bytes_sent), ("udp", 10_201, 10_201));
    assert_eq!(record.gateways.unwrap().path, "gateway-1-to-west");
    assert!(record.mutual_tls);
    let record = first(&server.records).await;
    assert_eq!((record.protocol, record.source.cluster.as_str()), ("udp", "east"));
    assert_eq!(record.source.identity, "spiffe://east.demo/ns/default/sa/web");
}

#[tokio::test]
async fn datagrams_reach_a_sidecar_of_the_own_cluster_and_servers_without_one() {
    let world = World::new();
    let app = echo().await;
    let server = Server::of(&world, "east", "reviews", Protocol::Udp, app).await;
    let view = ViewOf::cluster("east").local("reviews", Protocol::Udp, &[server.ip]).endpoints(
        "plain",
        Protocol::Udp,
        &[app.ip()],
        app.port(),
        None,
    );
    let client = Client::start(&world, view);
    carries(&client, "reviews".into()).await;
    carries(&client, "plain".into()).await;
    let records = client.records.lock().unwrap().clone();
    let secured: Vec<bool> = records.iter().map(|record| record.mutual_tls).collect();
    assert_eq!(secured, [true, false]);
}

/// A server whose policy allows this account of the own cluster.
async fn allowing(world: &World, account: &str) -> Server {
    let principals = AnyNot { any: vec![StringMatch::Suffix(format!("/sa/{account}"))], not: Vec::new() };
    let object = ObjectRef { kind: "AuthorizationPolicy".into(), namespace: "default".into(), name: "x".into() };
    let origin = Origin { object: Arc::new(object.clone()), path: "spec.rules[0]".into(), name: None };
    let from = vec![SourceMatch { principals, ..SourceMatch::default() }];
    let rules = vec![AuthorizationRule { origin, from, to: Vec::new(), when: Vec::new() }];
    let allow = AuthorizationRules { origin: object, action: AuthorizationAction::Allow, rules, dry_run: false };
    let inbound = InboundPolicy { authorization: vec![Arc::new(allow)], ..InboundPolicy::default() };
    let mut view = ViewOf::cluster("east").workload("reviews", Protocol::Udp, MtlsMode::Permissive);
    let mut workload = view.0.workload.take().map(Arc::unwrap_or_clone).unwrap();
    workload.config = Arc::new(WorkloadConfig { inbound, ..WorkloadConfig::default() });
    view.0.workload = Some(Arc::new(workload));
    Server::start(world.credentials("east", &id("east", "reviews")), view, echo().await, address()).await
}

#[tokio::test]
async fn a_policy_knows_the_client_of_datagrams() {
    let world = World::new();
    let (open, closed) = (allowing(&world, "web").await, allowing(&world, "other").await);
    let view = |server: &Server| ViewOf::cluster("east").local("reviews", Protocol::Udp, &[server.ip]);
    carries(&Client::start(&world, view(&open)), "reviews".into()).await;
    let client = Client::start(&world, view(&closed));
    let flow = Flow::open(&client, "reviews".into());
    flow.to.send(Bytes::from_static(b"x")).await.unwrap();
    flow.ended.await.unwrap();
    assert!(first(&client.records).await.error.is_some());
    let record = first(&closed.records).await;
    assert_eq!((record.protocol, record.error.is_some(), record.bytes_received), ("udp", true, 0));
}

#[tokio::test]
async fn a_number_is_a_port_of_tcp_or_of_udp() {
    let world = World::new();
    for (offered, udp) in [(Protocol::Udp, false), (Protocol::Tcp, true)] {
        let server = Server::of(&world, "east", "reviews", offered, echo().await).await;
        let client = Client::start(&world, ViewOf::cluster("east").local("reviews", offered, &[server.ip]));
        if udp {
            let flow = Flow::open(&client, "reviews".into());
            flow.to.send(Bytes::from_static(b"x")).await.unwrap();
            flow.ended.await.unwrap();
        } else {
            let mut stream = TcpStream::connect(client.capture_to("reviews".into()).await).await.unwrap();
            let read = stream.read(&mut [0]).await;
            assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
        }
        let record = first(&client.records).await;
        assert!(record.reasons.contains(&Reason::UnknownPort { port: PORT }), "{offered:?}: {record:?}");
    }
}
