//! A running shim, clients and upstreams.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dns::{CacheLimits, Forwarder, Metrics, Shim, TcpLimits, serve};
use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use mesh::{ClusterName, HostEntry, MeshId, MeshInfo, Namespace, ServiceName, TrustDomain, View, Zones};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const REVIEWS: &str = "reviews.default.svc.clusterset.local.";

pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) view: watch::Sender<Arc<View>>,
    pub(crate) registry: telemetry::Registry,
    _stop: DropGuard,
}

pub(crate) fn host(name: &str, addresses: &[&str]) -> (ServiceName, Arc<HostEntry>) {
    let name = ServiceName::new(Namespace::new("default").unwrap(), name).unwrap();
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    (name.clone(), Arc::new(HostEntry { clusterset: true, ..HostEntry::of_entry(name, addresses) }))
}

pub(crate) fn view(revision: u64, hosts: impl IntoIterator<Item = (ServiceName, Arc<HostEntry>)>) -> Arc<View> {
    let mesh = MeshInfo {
        mesh_id: MeshId::new("demo").unwrap(),
        cluster: ClusterName::new("east").unwrap(),
        trust_domain: TrustDomain::new("east.demo").unwrap(),
        roots: Vec::new(),
        bundle_serial: 1,
    };
    let hosts: BTreeMap<_, _> = hosts.into_iter().collect();
    Arc::new(View { revision, mesh: Some(Arc::new(mesh)), hosts, ..View::default() })
}

/// Both protocols on one free port.
async fn sockets() -> (UdpSocket, TcpListener) {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
}

pub(crate) async fn start(first: Arc<View>, upstreams: Vec<SocketAddr>) -> Running {
    start_with(first, upstreams, CacheLimits::default(), TcpLimits::default()).await
}

pub(crate) async fn start_with(
    first: Arc<View>,
    upstreams: Vec<SocketAddr>,
    cache: CacheLimits,
    tcp_limits: TcpLimits,
) -> Running {
    let (udp, tcp) = sockets().await;
    let address = udp.local_addr().unwrap();
    let (sender, receiver) = watch::channel(first);
    let registry = telemetry::Registry::default();
    let metrics = Metrics::register(&registry);
    let forwarder = Forwarder::new(upstreams, cache, metrics.clone());
    let shim = Arc::new(Shim::new(receiver, Zones { cluster: true }, forwarder, metrics));
    let stop = CancellationToken::new();
    tokio::spawn(serve(shim, udp, tcp, tcp_limits, stop.clone()));
    Running { address, view: sender, registry, _stop: stop.drop_guard() }
}

pub(crate) fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

/// The answer and its length.
pub(crate) async fn over_udp(server: SocketAddr, message: &Message) -> (Message, usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&message.to_vec().unwrap(), server).await.unwrap();
    let mut buffer = vec![0; 65535];
    let length = socket.recv(&mut buffer).await.unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(answer.metadata.id, message.metadata.id);
    (answer, length)
}

pub(crate) async fn over_tcp(server: SocketAddr, message: &Message) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let bytes = message.to_vec().unwrap();
    stream.write_u16(bytes.len() as u16).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut buffer = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut buffer).await.unwrap();
    Message::from_vec(&buffer).unwrap()
}

pub(crate) fn addresses(answer: &Message) -> Vec<String> {
    answer.answers.iter().map(|record| record.data.to_string()).collect()
}

/// An upstream: what it answers is a function of the question and of the protocol.
pub(crate) async fn upstream(
    answer: impl Fn(&Message, bool) -> Option<Message> + Clone + Send + Sync + 'static,
) -> SocketAddr {
    let (udp, tcp) = sockets().await;
    let address = udp.local_addr().unwrap();
    let over_udp = answer.clone();
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        while let Ok((length, client)) = udp.recv_from(&mut buffer).await {
            let asked = Message::from_vec(&buffer[..length]).unwrap();
            if let Some(answer) = over_udp(&asked, false) {
                udp.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
            }
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let mut buffer = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut buffer).await.unwrap();
            let answer = answer(&Message::from_vec(&buffer).unwrap(), true).unwrap().to_vec().unwrap();
            stream.write_u16(answer.len() as u16).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
    address
}

/// An upstream that answers every question when `gate` lets it.
pub(crate) async fn slow_upstream(
    gate: Arc<Semaphore>,
    answer: impl Fn(&Message) -> Message + Send + Sync + 'static,
) -> SocketAddr {
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        while let Ok((length, client)) = udp.recv_from(&mut buffer).await {
            let answer = answer(&Message::from_vec(&buffer[..length]).unwrap());
            gate.acquire().await.unwrap().forget();
            udp.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
        }
    });
    address
}

pub(crate) fn response(asked: &Message, code: ResponseCode, answers: Vec<RData>) -> Message {
    let mut message = Message::response(asked.metadata.id, OpCode::Query);
    message.metadata.response_code = code;
    message.metadata.recursion_available = true;
    message.add_queries(asked.queries.iter().cloned());
    let name = asked.queries[0].name().clone();
    message.add_answers(answers.into_iter().map(|data| Record::from_rdata(name.clone(), 77, data)));
    message
}

/// Looks until it is so.
pub(crate) async fn wait_for(so: impl Fn() -> bool) {
    while !so() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Tries until it is so.
pub(crate) async fn wait_for_async<F: Future<Output = bool>>(so: impl Fn() -> F) {
    while !so().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
