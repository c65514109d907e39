//! The mesh `demo` with the clusters `east` and `west`: their CAs, views, gateways, and a workload in `east` that calls
//! `default/reviews` in `west`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use api::tunnel::{Denied, Header, Reply, reply};
use http::{HeaderName, HeaderValue};
use identity::{ClusterCa, Credentials, PeerPolicy, Svid, TrustBundles, connect_tls};
use mesh::{
    ClusterName, Endpoint, ExportPolicy, Group, GroupKey, Import, Labels, MeshId, MeshInfo, Namespace, Protocol,
    RemoteCluster, RemoteGateway, Service, ServiceName, ServicePort, SpiffeId, TrustDomain, TunnelMode, TunnelRequest,
    View,
};
use proxy::hbone::{AnswerError, Connecting, H2Io, Outer, Settings};
use proxy::tunnel;
use telemetry::{AccessLog, Registry, Shutdown};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::limits::Bounds;
use crate::{Parts, Running, TunnelSettings};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
/// Where the view says that the one endpoint of reviews is; dialling goes to the backend instead.
const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 21));

pub(crate) fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

pub(crate) fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

pub(crate) fn service(name: &str) -> ServiceName {
    ServiceName::new(Namespace::new("default").unwrap(), name).unwrap()
}

/// The certificate authorities.
pub(crate) struct Trust {
    pub(crate) east: ClusterCa,
    pub(crate) west: ClusterCa,
    /// Claims to be `east` but is not.
    pub(crate) impostor: ClusterCa,
    _directories: Vec<TempDir>,
}

impl Trust {
    pub(crate) fn new() -> Self {
        identity::install_crypto();
        let mut directories = Vec::new();
        let mut ca = |trust_domain: &str| {
            let directory = tempfile::tempdir().unwrap();
            let ca = ClusterCa::create(directory.path(), &TrustDomain::new(trust_domain).unwrap()).unwrap();
            directories.push(directory);
            ca
        };
        let (east, west, impostor) = (ca("east.demo"), ca("west.demo"), ca("east.demo"));
        Self { east, west, impostor, _directories: directories }
    }

    pub(crate) fn bundles(&self) -> TrustBundles {
        [&self.east, &self.west].into_iter().map(|ca| ca.bundle(1).unwrap()).collect()
    }

    /// Credentials of `name` from `ca`, valid now.
    pub(crate) fn credentials(&self, ca: &ClusterCa, name: &str) -> Credentials {
        let now = SystemTime::now();
        self.with_validity(ca, name, now - HOUR, now + HOUR)
    }

    pub(crate) fn with_validity(&self, ca: &ClusterCa, name: &str, from: SystemTime, to: SystemTime) -> Credentials {
        let svid: Svid = ca.issue_with_validity(&id(name), from, to).unwrap();
        Credentials::fixed(svid, self.bundles())
    }

    pub(crate) fn web(&self) -> Credentials {
        self.credentials(&self.east, "spiffe://east.demo/ns/default/sa/web")
    }

    pub(crate) fn east_gateway(&self) -> Credentials {
        self.credentials(&self.east, "spiffe://east.demo/ns/isthmus-system/sa/gateway")
    }

    pub(crate) fn west_gateway(&self) -> Credentials {
        self.credentials(&self.west, "spiffe://west.demo/ns/isthmus-system/sa/gateway")
    }
}

fn own(name: &str) -> Option<Arc<MeshInfo>> {
    Some(Arc::new(MeshInfo {
        mesh_id: MeshId::new("demo").unwrap(),
        cluster: cluster(name),
        trust_domain: TrustDomain::new(format!("{name}.demo")).unwrap(),
        roots: Vec::new(),
        bundle_serial: 1,
    }))
}

fn remote(name: &str, gateways: &[SocketAddr]) -> BTreeMap<ClusterName, Arc<RemoteCluster>> {
    let gateway = |(n, address): (usize, &SocketAddr)| RemoteGateway {
        name: format!("gateway-{}", n + 1),
        quic_address: address.to_string(),
    };
    let remote = RemoteCluster {
        name: cluster(name),
        trust_domain: TrustDomain::new(format!("{name}.demo")).unwrap(),
        roots: Vec::new(),
        bundle_serial: 1,
        gateways: gateways.iter().enumerate().map(gateway).collect(),
        imported: !gateways.is_empty(),
        stale_since_ms: None,
        share_percent: 100,
    };
    BTreeMap::from([(cluster(name), Arc::new(remote))])
}

fn reviews(name: &str) -> Service {
    Service {
        config: Default::default(),
        name: service(name),
        global: false,
        headless: false,
        clusterset_addresses: Vec::new(),
        listeners: Default::default(),
        cluster_addresses: Vec::new(),
        ports: [("http", Protocol::Http), ("datagrams", Protocol::Udp)]
            .map(|(name, protocol)| ServicePort { name: name.into(), number: 9080, protocol })
            .to_vec(),
        endpoints: Vec::new(),
        export: None,
        imports: BTreeMap::new(),
    }
}

/// `east` imports `reviews`, and `secret` by an outdated view, from `west` behind these gateways.
pub(crate) fn east_view(gateways: &[SocketAddr]) -> View {
    let import = |name: &str| {
        let mut service = reviews(name);
        let key = GroupKey { service_account: name.into(), labels: Labels::new(), locality: String::new() };
        let groups = vec![Group { key, meshed: true, healthy: 1 }];
        service
            .imports
            .insert(cluster("west"), Import { serial: 1, ports: service.ports.clone(), groups, pods: Vec::new() });
        (service.name.clone(), Arc::new(service))
    };
    let services = BTreeMap::from([import("reviews"), import("secret")]);
    View { revision: 7, mesh: own("east"), clusters: remote("west", gateways), services, ..View::default() }
}

/// `west` exports `reviews`, and runs `secret` without exporting it.
pub(crate) fn west_view() -> View {
    let local = |name: &str, export| {
        let mut service = reviews(name);
        service.export = export;
        service.endpoints.push(Endpoint {
            other_addresses: Vec::new(),
            plain_ports: Default::default(),
            stand_in: None,
            weight: 1,
            name: format!("{name}-1"),
            address: POD,
            ports: BTreeMap::from([(9080, 9080)]),
            identity: Some(id(&format!("spiffe://west.demo/ns/default/sa/{name}"))),
            labels: Labels::new(),
            locality: String::new(),
            ready: true,
        });
        (service.name.clone(), Arc::new(service))
    };
    let services = BTreeMap::from([local("reviews", Some(ExportPolicy::Everyone)), local("secret", None)]);
    View { revision: 9, mesh: own("west"), clusters: remote("east", &[]), services, ..View::default() }
}

/// Certificates that a test has issued.
#[derive(Default)]
pub(crate) struct Fixed(pub(crate) BTreeMap<SpiffeId, Credentials>);

impl crate::Identities for Fixed {
    fn follow(&self, _wanted: &BTreeSet<SpiffeId>) {}

    fn credentials(&self, identity: &SpiffeId) -> Option<Credentials> {
        self.0.get(identity).cloned()
    }
}

/// A gateway with the handles that tests turn.
pub(crate) struct Gateway {
    pub(crate) running: Running,
    pub(crate) view: watch::Sender<Arc<View>>,
    pub(crate) shutdown: Shutdown,
    pub(crate) registry: Registry,
}

impl Gateway {
    pub(crate) fn hbone(&self) -> SocketAddr {
        self.running.hbone_address()
    }

    pub(crate) fn quic(&self) -> SocketAddr {
        self.running.quic_address().unwrap()
    }
}

/// An address of 127/8 that nothing else in this process uses, and hardly anything in another: a port of it that was free a moment ago
/// still is.
pub(crate) fn own_address() -> IpAddr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [_, _, a, b] = std::process::id().to_be_bytes();
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    Ipv4Addr::new(127, 64 + (a & 0x3f), b.wrapping_add(high), low).into()
}

/// A TCP listener on a port of the address that is free for UDP too.
pub(crate) async fn tunnel_port(address: IpAddr) -> TcpListener {
    loop {
        let tcp = TcpListener::bind((address, 0)).await.unwrap();
        if std::net::UdpSocket::bind(tcp.local_addr().unwrap()).is_ok() {
            return tcp;
        }
    }
}

/// Starts a gateway whose endpoints are all at `backend`.
pub(crate) async fn gateway(trust_domain: &str, credentials: Credentials, view: View, backend: SocketAddr) -> Gateway {
    gateway_with(trust_domain, credentials, view, backend, |_, _| {}).await
}

/// As [`gateway`], with some parts or bounds changed.
pub(crate) async fn gateway_with(
    trust_domain: &str,
    credentials: Credentials,
    view: View,
    backend: SocketAddr,
    change: impl FnOnce(&mut Parts, &mut Bounds),
) -> Gateway {
    let address = own_address();
    let tcp = tunnel_port(address).await;
    let (view_tx, view) = watch::channel(Arc::new(view));
    let (shutdown, registry) = (Shutdown::manual(), Registry::new("gateway"));
    let mut parts = Parts {
        name: "gateway-1".into(),
        trust_domain: TrustDomain::new(trust_domain).unwrap(),
        view,
        credentials,
        hbone: TcpListener::bind((address, 0)).await.unwrap(),
        quic: tcp.local_addr().unwrap(),
        tcp: Some(tcp),
        tunnel: TunnelSettings::default(),
        state_dir: None,
        registry: registry.clone(),
        access: AccessLog::disabled(),
        shutdown: shutdown.clone(),
        namespace: Namespace::new(mesh::SYSTEM_NAMESPACE).unwrap(),
        identities: Arc::new(Fixed::default()),
    };
    let dial = move |_: SocketAddr| crate::context::dial_tcp(backend);
    let mut bounds = Bounds::default();
    change(&mut parts, &mut bounds);
    let running = crate::run::start_with(parts, Arc::new(dial), bounds).unwrap();
    Gateway { running, view: view_tx, shutdown, registry }
}

/// The time in which this process ran. It stands still, as everything in the process does, while the machine has no time for it,
/// so that what it measures is what gateways do and not what else the machine does.
pub(crate) struct OwnTime {
    micros: Arc<AtomicU64>,
    _counting: AbortOnDropHandle<()>,
}

impl OwnTime {
    /// More than this between two looks is time in which nothing ran.
    const LOOK_MAX: Duration = Duration::from_millis(30);

    pub(crate) fn begin() -> Self {
        let micros = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&micros);
        let counting = tokio::spawn(async move {
            let mut looked = Instant::now();
            loop {
                tokio::time::sleep(Duration::from_millis(10)).await;
                let now = Instant::now();
                let ran = now.duration_since(looked).min(Self::LOOK_MAX);
                counted.fetch_add(u64::try_from(ran.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
                looked = now;
            }
        });
        Self { micros, _counting: AbortOnDropHandle::new(counting) }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        Duration::from_micros(self.micros.load(Ordering::Relaxed))
    }
}

/// Both clusters, with one gateway each.
pub(crate) struct World {
    pub(crate) trust: Trust,
    pub(crate) east: Gateway,
    pub(crate) west: Gateway,
}

impl World {
    /// `backend` is what answers in `west`.
    pub(crate) async fn new(backend: SocketAddr) -> Self {
        let trust = Trust::new();
        let west = gateway("west.demo", trust.west_gateway(), west_view(), backend).await;
        let east = gateway("east.demo", trust.east_gateway(), east_view(&[west.quic()]), backend).await;
        super::health::until_usable(&east, 1).await;
        Self { trust, east, west }
    }

    /// The workload's connection to its gateway.
    pub(crate) async fn web(&self) -> Outer {
        outer(self.east.hbone(), &self.trust.web()).await.unwrap()
    }
}

/// Connects to an HBONE listener.
pub(crate) async fn outer(address: SocketAddr, credentials: &Credentials) -> Result<Outer, String> {
    let config = credentials.client_config(PeerPolicy::AnyKnown, &[b"h2"]).map_err(|error| error.to_string())?;
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let connected = connect_tls(config, stream, Duration::from_secs(5)).await;
    let (stream, _) = connected.map_err(|error| error.to_string())?;
    Outer::handshake(stream, &Settings::default()).await.map_err(|error| error.to_string())
}

/// What the workload `web` asks for.
pub(crate) fn request(name: &str) -> TunnelRequest {
    TunnelRequest {
        service: service(name),
        port: 9080,
        udp: false,
        cluster: cluster("west"),
        group: None,
        pod: None,
        mode: TunnelMode::Mesh,
        source: id("spiffe://east.demo/ns/default/sa/web"),
    }
}

pub(crate) async fn open(outer: &Outer, request: &TunnelRequest) -> Connecting {
    let value = tunnel::to_header_value(&Header::from(request)).unwrap();
    let headers: Vec<(HeaderName, HeaderValue)> = vec![(HeaderName::from_static(api::TUNNEL_HEADER), value)];
    outer.connect("reviews.default.svc.clusterset.local:9080", headers).await.unwrap()
}

/// The denial of a flow that must be denied.
pub(crate) async fn denial(outer: &Outer, request: &TunnelRequest) -> Denied {
    match open(outer, request).await.answer.await {
        Err(AnswerError::Refused(parts)) => match tunnel::reply_of(&parts.headers) {
            Some(Reply { reply: Some(reply::Reply::Denied(denied)) }) => denied,
            other => panic!("no denial but {other:?}"),
        },
        other => panic!("not refused but {other:?}"),
    }
}

/// Sends `question`, ends, and reads the whole answer.
pub(crate) async fn ask(outer: &Outer, question: &[u8]) -> Result<Vec<u8>, String> {
    let Connecting { io, answer } = open(outer, &request("reviews")).await;
    let (mut reader, mut writer): (_, _) = H2Io::split(io);
    let asking = async {
        writer.write_all(question).await?;
        writer.shutdown().await
    };
    let mut seen = Vec::new();
    let (asked, read) = tokio::join!(asking, reader.read_to_end(&mut seen));
    answer.await.map_err(|error| error.to_string())?;
    asked.map_err(|error| error.to_string())?;
    read.map_err(|error| error.to_string())?;
    Ok(seen)
}

/// A server that answers everything with itself, after a greeting, and ends when the client has ended.
pub(crate) async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            });
        }
    });
    address
}
