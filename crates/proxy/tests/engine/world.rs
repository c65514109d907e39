//! Two clusters, their authorities, and what runs in them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use api::tunnel::{Accepted, Denied, PathEvent, Reply, reply};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::{ClusterCa, Credentials, PeerPolicy, Svid, TrustBundles};
use mesh::*;
use proxy::access::{Record, Recorder};
use proxy::body::{self, Body};
use proxy::guard::Guard;
use proxy::hbone;
use proxy::inbound::{AppPort, Inbound, InboundConfig};
use proxy::listen::{Lifecycle, Limits};
use proxy::metrics::Metrics;
use proxy::outbound::{Dialled, Outbound, OutboundConfig};
use proxy::resolve::{Resolve, SystemResolver};
use proxy::serve::serve;
use proxy::tunnel;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc, watch};

pub(crate) const PORT: u16 = 9080;

/// An address of 127/8 that nobody else in this process uses, and hardly anybody in another.
pub(crate) fn address() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    Ipv4Addr::new(127, 64 + (process % 128) as u8, (process / 128 % 256) as u8, next as u8).into()
}

pub(crate) fn td(cluster: &str) -> TrustDomain {
    TrustDomain::new(format!("{cluster}.demo")).unwrap()
}

pub(crate) fn id(cluster: &str, account: &str) -> SpiffeId {
    SpiffeId::new(td(cluster), Namespace::new("default").unwrap(), account).unwrap()
}

pub(crate) fn service(name: &str) -> ServiceName {
    ServiceName::new(Namespace::new("default").unwrap(), name).unwrap()
}

/// The authorities of both clusters.
pub(crate) struct World {
    _directory: tempfile::TempDir,
    authorities: BTreeMap<&'static str, ClusterCa>,
}

impl World {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authorities = ["east", "west", "evil"]
            .map(|name| (name, ClusterCa::load_or_create(&directory.path().join(name), &td(name)).unwrap()));
        Self { authorities: authorities.into(), _directory: directory }
    }

    pub(crate) fn svid(&self, cluster: &str, id: &SpiffeId, ttl: Duration) -> Svid {
        self.authorities[cluster].issue_self(id, ttl, SystemTime::now()).unwrap()
    }

    pub(crate) fn bundles(&self) -> TrustBundles {
        let mut bundles = TrustBundles::new();
        for cluster in ["east", "west"] {
            bundles.insert(self.authorities[cluster].bundle(1).unwrap());
        }
        bundles
    }

    pub(crate) fn credentials(&self, cluster: &str, id: &SpiffeId) -> Credentials {
        Credentials::fixed(self.svid(cluster, id, Duration::from_secs(3600)), self.bundles())
    }
}

/// A view that is written as prose.
#[derive(Clone)]
pub(crate) struct ViewOf(pub(crate) View);

impl ViewOf {
    pub(crate) fn cluster(name: &str) -> Self {
        let mesh = MeshInfo {
            mesh_id: MeshId::new("demo").unwrap(),
            cluster: ClusterName::new(name).unwrap(),
            trust_domain: td(name),
            roots: Vec::new(),
            bundle_serial: 1,
        };
        let other = if name == "east" { "west" } else { "east" };
        let clusters = BTreeMap::from([(ClusterName::new(other).unwrap(), Arc::new(member(other)))]);
        Self(View { revision: 1, mesh: Some(Arc::new(mesh)), clusters, ..View::default() })
    }

    fn service(mut self, name: &str, change: impl FnOnce(&mut Service)) -> Self {
        let empty = || Service {
            config: Default::default(),
            name: service(name),
            global: false,
            headless: false,
            clusterset_addresses: Vec::new(),
            listeners: Default::default(),
            cluster_addresses: Vec::new(),
            ports: Vec::new(),
            endpoints: Vec::new(),
            export: Some(ExportPolicy::Everyone),
            imports: BTreeMap::new(),
        };
        let mut edited = self.0.services.remove(&service(name)).map_or_else(empty, |service| (*service).clone());
        change(&mut edited);
        self.0.services.insert(service(name), Arc::new(edited));
        self.0.revision += 1;
        self
    }

    /// The same view with other routes or destination rules of a service.
    pub(crate) fn configure(self, name: &str, change: impl FnOnce(&mut ServiceConfig)) -> Self {
        self.service(name, |service| change(Arc::make_mut(&mut service.config)))
    }

    /// A local service that speaks `protocol`, with endpoints at these addresses.
    pub(crate) fn local(self, name: &str, protocol: Protocol, endpoints: &[IpAddr]) -> Self {
        let account = name.to_owned();
        self.endpoints(name, protocol, endpoints, PORT, Some(account))
    }

    pub(crate) fn endpoints(
        self,
        name: &str,
        protocol: Protocol,
        at: &[IpAddr],
        port: u16,
        account: Option<String>,
    ) -> Self {
        self.service(name, |service| {
            service.ports = vec![ServicePort { name: "main".into(), number: PORT, protocol }];
            service.endpoints = at
                .iter()
                .enumerate()
                .map(|(number, address)| Endpoint {
                    other_addresses: Vec::new(),
                    plain_ports: Default::default(),
                    stand_in: None,
                    weight: 1,
                    name: format!("{name}-{number}"),
                    address: *address,
                    ports: BTreeMap::from([(PORT, port)]),
                    identity: account.as_deref().map(|account| id("east", account)),
                    labels: Labels::new(),
                    locality: String::new(),
                    ready: true,
                })
                .collect();
        })
    }

    /// The same service in the cluster `west`.
    pub(crate) fn import(mut self, name: &str, protocol: Protocol) -> Self {
        let west = ClusterName::new("west").unwrap();
        let gateways = vec![RemoteGateway { name: "gateway-1".into(), quic_address: "127.0.0.1:1".into() }];
        let remote = RemoteCluster { gateways, imported: true, ..member("west") };
        self.0.clusters.insert(west.clone(), Arc::new(remote));
        let key = GroupKey { service_account: name.to_owned(), labels: Labels::new(), locality: String::new() };
        self.service(name, |service| {
            let ports = vec![ServicePort { name: "main".into(), number: PORT, protocol }];
            service.ports.clone_from(&ports);
            service.imports.insert(
                west,
                Import { serial: 1, ports, groups: vec![Group { key, meshed: true, healthy: 1 }], pods: Vec::new() },
            );
        })
    }

    pub(crate) fn gateway(mut self, name: &str, address: SocketAddr) -> Self {
        let identity = SpiffeId::system(td("east"), "gateway").unwrap();
        let gateway = LocalGateway { name: name.into(), hbone_address: address, identity };
        self.0.gateways.insert(name.into(), Arc::new(gateway));
        self
    }

    pub(crate) fn workload(mut self, name: &str, protocol: Protocol, mtls: MtlsMode) -> Self {
        let port = WorkloadPort {
            number: PORT,
            name: "main".into(),
            protocol,
            service_ports: BTreeSet::from([PORT]),
            exports: BTreeMap::from([(PORT, ExportPolicy::Everyone)]),
        };
        self.0.workload = Some(Arc::new(Workload {
            locality: String::new(),
            config: Default::default(),
            namespace: Namespace::new("default").unwrap(),
            name: format!("{name}-1"),
            service_account: name.into(),
            labels: Labels::new(),
            ports: vec![port],
            mtls,
        }));
        self
    }
}

/// Another cluster, of which nothing is imported.
fn member(name: &str) -> RemoteCluster {
    RemoteCluster {
        name: ClusterName::new(name).unwrap(),
        trust_domain: td(name),
        roots: Vec::new(),
        bundle_serial: 1,
        gateways: Vec::new(),
        imported: false,
        stale_since_ms: None,
        share_percent: 100,
    }
}

type Records = Arc<Mutex<Vec<Record>>>;

fn recorder() -> (Recorder, Records) {
    let records = Records::default();
    let sink = records.clone();
    (Recorder::new(Metrics::default(), move |record| sink.lock().unwrap().push(record.clone())), records)
}

/// A sidecar in front of an application.
pub(crate) struct Server {
    pub(crate) ip: IpAddr,
    pub(crate) life: Lifecycle,
    pub(crate) records: Records,
    _view: watch::Sender<Arc<View>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.life.draining.cancel();
        self.life.ended.cancel();
    }
}

impl Server {
    pub(crate) async fn start(credentials: Credentials, view: ViewOf, app: SocketAddr, ip: IpAddr) -> Self {
        Self::within(Limits::default(), credentials, view, app, ip).await
    }

    pub(crate) async fn within(
        limits: Limits,
        credentials: Credentials,
        view: ViewOf,
        app: SocketAddr,
        ip: IpAddr,
    ) -> Self {
        let (view, directory) = watch::channel(Arc::new(view.0));
        let (recorder, records) = recorder();
        let life = Lifecycle::default();
        let outbound = Outbound::start(OutboundConfig {
            dialer: dial::Dialer::unmarked(),
            directory: Arc::new(directory.clone()),
            credentials: credentials.clone(),
            resolver: Arc::new(SystemResolver),
            recorder: recorder.clone(),
            life: life.clone(),
            namespace: Namespace::new("default").unwrap(),
        });
        let config = InboundConfig {
            server: None,
            dialer: dial::Dialer::unmarked(),
            directory: Arc::new(directory),
            credentials,
            recorder,
            guard: Guard::new(outbound),
            life: life.clone(),
            limits,
            application: None,
            ports: [Protocol::Auto, Protocol::Udp]
                .map(|protocol| AppPort { number: PORT, app: Some(app), protocol })
                .to_vec(),
        };
        let inbound = Inbound::start(config);
        let mtls = TcpListener::bind((ip, MTLS_PORT)).await.unwrap();
        let plain = TcpListener::bind((ip, PORT)).await.unwrap();
        let (one, two) = (inbound.clone(), inbound);
        tokio::spawn(async move { one.serve_mtls(mtls).await });
        tokio::spawn(async move { two.serve_plain(plain, PORT).await });
        Self { ip, life, records, _view: view }
    }

    /// A meshed server of the service `name`.
    pub(crate) async fn of(world: &World, cluster: &str, name: &str, protocol: Protocol, app: SocketAddr) -> Self {
        let view = ViewOf::cluster(cluster).workload(name, protocol, MtlsMode::Permissive);
        Self::start(world.credentials(cluster, &id(cluster, name)), view, app, address()).await
    }
}

/// The client's side: an outbound engine and a way in.
pub(crate) struct Client {
    pub(crate) outbound: Outbound,
    pub(crate) records: Records,
    pub(crate) view: watch::Sender<Arc<View>>,
}

impl Client {
    pub(crate) fn start(world: &World, view: ViewOf) -> Self {
        Self::with(world.credentials("east", &id("east", "web")), view)
    }

    pub(crate) fn with(credentials: Credentials, view: ViewOf) -> Self {
        Self::as_given(credentials, view.workload("web", Protocol::Http, MtlsMode::Permissive))
    }

    /// Beside the workload that the view names.
    pub(crate) fn as_given(credentials: Credentials, view: ViewOf) -> Self {
        Self::launch(credentials, view, Arc::new(SystemResolver))
    }

    /// With another DNS.
    pub(crate) fn resolving(world: &World, view: ViewOf, resolver: Arc<dyn Resolve>) -> Self {
        let view = view.workload("web", Protocol::Http, MtlsMode::Permissive);
        Self::launch(world.credentials("east", &id("east", "web")), view, resolver)
    }

    fn launch(credentials: Credentials, view: ViewOf, resolver: Arc<dyn Resolve>) -> Self {
        let (view, directory) = watch::channel(Arc::new(view.0));
        let (recorder, records) = recorder();
        let config = OutboundConfig {
            dialer: dial::Dialer::unmarked(),
            directory: Arc::new(directory),
            credentials,
            resolver,
            recorder,
            life: Lifecycle::default(),
            namespace: Namespace::new("default").unwrap(),
        };
        Self { outbound: Outbound::start(config), records, view }
    }

    /// A port whose connections go to the service `name`.
    pub(crate) async fn capture(&self, name: &str) -> SocketAddr {
        self.capture_to(service(name).clusterset_host()).await
    }

    /// A port whose connections go to a host.
    pub(crate) async fn capture_to(&self, host: String) -> SocketAddr {
        self.capture_as(host, None).await
    }

    /// The same, as if another machine had dialled.
    pub(crate) async fn capture_as(&self, host: String, source: Option<SocketAddr>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let outbound = self.outbound.clone();
        tokio::spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let dialled = Dialled {
                    host: host.clone(),
                    port: PORT,
                    source: source.or(Some(peer)),
                    transparent: false,
                    udp: false,
                };
                let outbound = outbound.clone();
                tokio::spawn(async move { outbound.stream(stream, dialled).await });
            }
        });
        at
    }

    /// One HTTP/1.1 request on a connection of its own.
    pub(crate) async fn http1(&self, name: &str, request: Request<Body>) -> Response<Bytes> {
        let at = self.capture(name).await;
        collect(http1(at, request).await).await
    }
}

pub(crate) async fn http1(at: SocketAddr, mut request: Request<Body>) -> Response<Incoming> {
    let stream = TcpStream::connect(at).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    request.headers_mut().entry("host").or_insert("reviews.default.svc.clusterset.local:9080".parse().unwrap());
    sender.send_request(request).await.unwrap()
}

pub(crate) async fn http2(at: SocketAddr) -> hyper::client::conn::http2::SendRequest<Body> {
    let stream = TcpStream::connect(at).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub(crate) async fn collect(response: Response<Incoming>) -> Response<Bytes> {
    let (head, body) = response.into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(path).body(body::empty()).unwrap()
}

pub(crate) fn post(path: &str, bytes: impl Into<Bytes>) -> Request<Body> {
    Request::post(path).body(body::full(bytes)).unwrap()
}

/// An application that speaks HTTP: `/echo` sends the body back with a trailer, anything else tells what it saw.
pub(crate) async fn http_app(name: &'static str) -> SocketAddr {
    app_with(move |request| async move { answer(name, request) }).await
}

pub(crate) async fn app_with<H, F>(handle: H) -> SocketAddr
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    app_at(([127, 0, 0, 1], 0).into(), handle).await
}

pub(crate) async fn app_at<H, F>(at: SocketAddr, handle: H) -> SocketAddr
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = TcpListener::bind(at).await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let handle = handle.clone();
            tokio::spawn(async move { serve(stream, &Limits::default(), &Lifecycle::default(), handle).await });
        }
    });
    at
}

pub(crate) fn answer(name: &str, request: Request<Incoming>) -> Response<Body> {
    if request.uri().path() == "/echo" {
        let trailers = async {
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            Some(Ok(trailers))
        };
        let grpc = request.headers().get("content-type").cloned();
        let body = body::incoming(request.into_body()).with_trailers(trailers).boxed_unsync();
        let mut response = Response::new(body);
        if let Some(grpc) = grpc {
            response.headers_mut().insert("content-type", grpc);
        }
        return response;
    }
    let headers: BTreeMap<&str, &str> =
        request.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    let seen = serde_json::json!({
        "app": name,
        "version": format!("{:?}", request.version()),
        "method": request.method().as_str(),
        "uri": request.uri().to_string(),
        "headers": headers,
    });
    Response::new(body::full(seen.to_string()))
}

pub(crate) fn json(response: &Response<Bytes>) -> serde_json::Value {
    serde_json::from_slice(response.body()).unwrap_or_else(|_| panic!("{response:?}"))
}

/// What a fake gateway does with flows.
#[derive(Clone)]
pub(crate) enum Behaviour {
    /// Pipes to this sidecar.
    Pipe(SocketAddr),
    /// Pipes to this sidecar, but so much later.
    Late(Duration, SocketAddr),
    /// Pipes to this sidecar; after the first duration nothing moves for the second one.
    Hole(Duration, Duration, SocketAddr),
    /// Pipes to this sidecar; every byte, and the gateway's answer, takes so long in each direction.
    Far(Duration, SocketAddr),
    /// Pipes to this sidecar, over a connection between the gateways that takes new flows for so many milliseconds.
    Ending(u64, SocketAddr),
    /// Denies for this reason.
    Deny(Denial),
    /// Denies the first flow for this reason, and never answers those after it; all of them are counted.
    DenyOnce(Denial),
}

/// An own gateway that pipes to a sidecar of the other cluster, as source and destination gateway in one.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    pub(crate) behaviour: watch::Sender<Behaviour>,
    pub(crate) events: broadcast::Sender<PathEvent>,
    pub(crate) life: Lifecycle,
    /// Flows that were accepted, and those that [`Behaviour::DenyOnce`] has met.
    pub(crate) flows: Arc<AtomicU32>,
}

impl Gateway {
    pub(crate) async fn start(world: &World, name: &'static str, behaviour: Behaviour) -> Self {
        let credentials = world.credentials("east", &SpiffeId::system(td("east"), "gateway").unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (behaviour, current) = watch::channel(behaviour);
        let events = broadcast::channel(8).0;
        let life = Lifecycle::default();
        let flows = Arc::new(AtomicU32::new(0));
        let (sender, stop, count) = (events.clone(), life.ended.clone(), flows.clone());
        let draining = life.draining.clone();
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = draining.cancelled() => return,
                };
                let Ok((stream, _)) = accepted else { return };
                let config = credentials.server_config(PeerPolicy::AnyKnown, &[b"h2"]).unwrap();
                let (current, sender, stop, count) = (current.clone(), sender.clone(), stop.clone(), count.clone());
                let drain = draining.child_token();
                tokio::spawn(async move {
                    let Ok((tls, _)) = identity::accept_tls(config, stream, Duration::from_secs(5)).await else {
                        return;
                    };
                    let ended = stop.clone();
                    let drain = drain.clone();
                    let settings = hbone::Settings::default();
                    let serve = hbone::serve(tls, &settings, drain, move |incoming| {
                        let behaviour = current.borrow().clone();
                        let (events, count) = (sender.subscribe(), count.clone());
                        async move { carry(name, incoming, behaviour, events, &count).await }
                    });
                    tokio::select! {
                        _ = serve => {}
                        () = ended.cancelled() => {}
                    }
                });
            }
        });
        Self { address, behaviour, events, life, flows }
    }
}

async fn carry(
    name: &str,
    incoming: hbone::Incoming,
    behaviour: Behaviour,
    mut events: broadcast::Receiver<PathEvent>,
    flows: &AtomicU32,
) {
    if incoming.request.method() == Method::GET {
        let mut io = incoming.accept(Vec::new()).unwrap();
        while let Ok(event) = events.recv().await {
            io.write_all(&tunnel::encode_event(&event)).await.unwrap();
            io.flush().await.unwrap();
        }
        return;
    }
    let header = tunnel::header_of(incoming.request.headers()).unwrap().unwrap();
    assert_eq!((header.version, header.cluster.as_str(), header.port), (1, "west", u32::from(PORT)));
    let reply_header = |reply| {
        let value = tunnel::to_header_value(&Reply { reply: Some(reply) }).unwrap();
        vec![(HeaderName::from_static(api::TUNNEL_REPLY), value)]
    };
    match behaviour {
        Behaviour::Deny(denial) | Behaviour::DenyOnce(denial) => {
            if matches!(behaviour, Behaviour::DenyOnce(_)) && flows.fetch_add(1, Ordering::Relaxed) > 0 {
                std::future::pending::<()>().await;
            }
            let denied = Denied { reason: denial.as_str().into(), message: "no".into(), by: "west/gateway-1".into() };
            let headers = reply_header(reply::Reply::Denied(denied));
            incoming.refuse(http::StatusCode::SERVICE_UNAVAILABLE, headers);
        }
        Behaviour::Pipe(to)
        | Behaviour::Late(_, to)
        | Behaviour::Far(_, to)
        | Behaviour::Hole(_, _, to)
        | Behaviour::Ending(_, to) => {
            if let Behaviour::Late(delay, _) = behaviour {
                tokio::time::sleep(delay).await;
            }
            let Ok(mut server) = TcpStream::connect(to).await else {
                let denied = Denied { reason: "endpoint-unreachable".into(), ..Denied::default() };
                return incoming
                    .refuse(http::StatusCode::SERVICE_UNAVAILABLE, reply_header(reply::Reply::Denied(denied)));
            };
            let accepted = Accepted {
                gateway: "gateway-1".into(),
                endpoint: "reviews-west-1".into(),
                path: format!("{name}-to-west"),
                source_gateway: name.into(),
                usable_for_ms: if let Behaviour::Ending(millis, _) = behaviour { millis } else { 0 },
            };
            flows.fetch_add(1, Ordering::Relaxed);
            if let Behaviour::Far(way, _) = behaviour {
                return carry_far(incoming, reply_header(reply::Reply::Accepted(accepted)), server, way).await;
            }
            let mut io = incoming.accept(reply_header(reply::Reply::Accepted(accepted))).unwrap();
            let outcome = pipe(&mut io, &mut server, &behaviour).await;
            if outcome.error.is_some() {
                proxy::copy::abort_tcp(&server);
            }
        }
    }
}

/// Copies in both directions; in a hole nothing moves.
async fn pipe(io: &mut hbone::H2Io, server: &mut TcpStream, behaviour: &Behaviour) -> proxy::copy::CopyOutcome {
    let copy = proxy::copy::copy_bidirectional(io, server, None);
    tokio::pin!(copy);
    if let Behaviour::Hole(from, lasts, _) = behaviour {
        tokio::select! {
            outcome = copy.as_mut() => return outcome,
            () = tokio::time::sleep(*from) => tokio::time::sleep(*lasts).await,
        }
    }
    copy.await
}

/// Copies in both directions over a long way, which the answer has to come too.
async fn carry_far(
    incoming: hbone::Incoming,
    answer: Vec<(HeaderName, HeaderValue)>,
    server: TcpStream,
    way: Duration,
) {
    let (_, reader, responder) = incoming.split();
    let (of_server, to_server) = server.into_split();
    let (there_tx, there) = mpsc::unbounded_channel();
    let (back_tx, back) = mpsc::unbounded_channel();
    let answering = async {
        tokio::time::sleep(way * 2).await;
        if let Ok(writer) = responder.accept(answer) {
            arrive(back, writer).await;
        }
    };
    tokio::join!(depart(reader, there_tx, way), arrive(there, to_server), depart(of_server, back_tx, way), answering);
}

type Departed = (tokio::time::Instant, Vec<u8>);

async fn depart(mut reader: impl AsyncRead + Unpin, way: mpsc::UnboundedSender<Departed>, takes: Duration) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = reader.read(&mut bytes).await {
        let _ = way.send((tokio::time::Instant::now() + takes, bytes[..count].to_vec()));
    }
}

async fn arrive(mut way: mpsc::UnboundedReceiver<Departed>, mut writer: impl AsyncWrite + Unpin) {
    while let Some((due, bytes)) = way.recv().await {
        tokio::time::sleep_until(due).await;
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
        let _ = writer.flush().await;
    }
    let _ = writer.shutdown().await;
}
