//! An agent in this process, with discovery clients over real sockets.

#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot go on says why and fails")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, SystemTime};

use agent::{Config, Listeners};
use discovery::{Client, ClientConfig, Demand, Role};
use identity::bootstrap::{Credential, Registration, Secret, register};
use identity::{ClusterCa, Credentials, PeerPolicy, Svid, TrustBundles};
use mesh::{ServiceName, SpiffeId, TrustDomain, View};
use telemetry::{Registry, Shutdown};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  labels: {kubernetes.io/service-name: web}
  annotations: {isthmus.dev/service-account: web, isthmus.dev/meshed: \"true\"}
addressType: IPv4
endpoints: [{addresses: [127.1.1.1], targetRef: {kind: Pod, name: web-1}}]
ports: [{name: http, port: 8080}]
";

/// An address that no outgoing connection and no other test takes a port of, so that a restarted agent gets its ports back.
fn own_address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, a, b] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 100 + a % 100, b, NEXT.fetch_add(1, Ordering::Relaxed)).into()
}

/// A cluster of one agent in a temporary directory.
struct Cluster {
    directory: TempDir,
    ca: ClusterCa,
    discovery: SocketAddr,
    ca_address: SocketAddr,
    running: Option<(Shutdown, JoinHandle<Result<(), agent::RunError>>)>,
}

impl Cluster {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        std::fs::create_dir(directory.path().join("manifests")).expect("made");
        let ca = ClusterCa::create(&directory.path().join("agent/ca"), &domain("east.demo")).expect("a CA");
        let any = SocketAddr::new(own_address(), 0);
        let mut cluster = Self { directory, ca, discovery: any, ca_address: any, running: None };
        cluster.write("web.yaml", SERVICE);
        cluster.run().await;
        cluster
    }

    /// Starts the agent; from the second time on where it listened before.
    async fn run(&mut self) {
        let listeners = Listeners {
            discovery: TcpListener::bind(self.discovery).await.expect("bound"),
            ca: TcpListener::bind(self.ca_address).await.expect("bound"),
            admin: TcpListener::bind("127.0.0.1:0").await.expect("bound"),
        };
        self.discovery = listeners.discovery.local_addr().expect("bound");
        self.ca_address = listeners.ca.local_addr().expect("bound");
        let text = format!(
            "{{cluster: east, mesh_id: demo, data_dir: {0}/agent, source: {{directory: {0}/manifests}}, \
             listen: {{discovery: '{1}', ca: '{2}', admin: '127.0.0.1:1'}}, \
             gateways: [{{name: gateway-1, hbone: '127.1.0.2:15008', quic: '127.1.0.2:15443'}}]}}",
            self.directory.path().display(),
            self.discovery,
            self.ca_address,
        );
        let file = self.directory.path().join("agent.yaml");
        std::fs::write(&file, text).expect("written");
        let config = Config::load(&file).unwrap_or_else(|error| panic!("{error}"));
        let shutdown = Shutdown::manual();
        let running = tokio::spawn(agent::serve(config, listeners, shutdown.clone()));
        self.running = Some((shutdown, running));
    }

    async fn stop(&mut self) {
        let (shutdown, running) = self.running.take().expect("it runs");
        shutdown.drain();
        within(running).await.expect("no panic").unwrap_or_else(|error| panic!("{error}"));
    }

    /// Replaces a manifest as editors should: by a rename.
    fn write(&self, file: &str, text: &str) {
        let temporary = self.directory.path().join("temporary");
        std::fs::write(&temporary, text).expect("written");
        std::fs::rename(temporary, self.directory.path().join("manifests").join(file)).expect("renamed");
    }

    fn credential(&self, workload: &str, account: &str) -> Credential {
        let (namespace, name) = workload.split_once('/').expect("namespace/name");
        let registration = Registration {
            workload: workload.to_owned(),
            namespace: namespace.parse().expect("valid"),
            service_account: account.to_owned(),
            cluster: "east".parse().expect("valid"),
            trust_domain: domain("east.demo"),
            roots_pem: self.ca.bundle(1).expect("a bundle").to_pem(),
            ca_addresses: vec![self.ca_address.to_string()],
            discovery_addresses: vec![self.discovery.to_string()],
            labels: BTreeMap::new(),
            locality: String::new(),
        };
        let path = self.directory.path().join(format!("{name}/credential.json"));
        register(&self.directory.path().join("agent"), &registration, &path).expect("registered")
    }

    fn client(&self, role: Role, credential: Credential) -> Proxy {
        let name = credential.workload.replace('/', ".");
        let cache_dir: PathBuf = self.directory.path().join(format!("cache-{name}"));
        let (registry, stop) = (Registry::default(), CancellationToken::new());
        let config = ClientConfig { role, credential, cache_dir, dialer: dial::Dialer::unmarked() };
        let client = Client::start(config, stop.clone(), &registry).expect("started");
        Proxy { client, registry, _stop: stop.drop_guard() }
    }

    /// Dials the discovery listener; says whether the server goes on talking after the handshake.
    async fn is_served(&self, credentials: &Credentials) -> bool {
        let policy = PeerPolicy::System { account: "agent", trust_domain: None };
        let config = credentials.client_config(policy, &[b"h2"]).expect("a configuration");
        let tcp = TcpStream::connect(self.discovery).await.expect("connected");
        let Ok((mut stream, _)) = identity::connect_tls(config, tcp, PATIENCE).await else { return false };
        // An HTTP/2 server sends its settings at once; a refusal arrives as an alert.
        matches!(within(stream.read(&mut [0; 1])).await, Ok(1))
    }
}

struct Proxy {
    client: Client,
    registry: Registry,
    _stop: tokio_util::sync::DropGuard,
}

impl Proxy {
    async fn sees(&self, wanted: impl FnMut(&Arc<View>) -> bool) -> Arc<View> {
        let mut view = self.client.view();
        let seen = within(view.wait_for(wanted)).await.expect("the client runs");
        Arc::clone(&seen)
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens in time")
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).expect("valid")
}

fn name(text: &str) -> ServiceName {
    text.parse().expect("valid")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_gets_its_identity_its_workload_and_what_it_asks_for() {
    let cluster = Cluster::start().await;
    let proxy = cluster.client(Role::Sidecar, cluster.credential("default/web-1", "web"));
    within(proxy.client.ready()).await;
    let svid = proxy.client.credentials().svid().expect("an svid");
    assert_eq!(svid.id().to_string(), "spiffe://east.demo/ns/default/sa/web");
    let view = proxy.sees(|view| view.workload.is_some() && !view.gateways.is_empty()).await;
    assert_eq!(view.workload.as_ref().expect("seen").ports[0].number, 8080);
    assert!(view.services.is_empty());

    assert_eq!(proxy.client.service(&name("default/web"), PATIENCE).await, Demand::Present);
    assert_eq!(proxy.client.service(&name("default/none"), PATIENCE).await, Demand::Absent);
    // An address tells its service and its pod; nobody has another one, until somebody does.
    let (pod, free) = ("127.1.1.1".parse().expect("valid"), "127.9.0.99".parse().expect("valid"));
    assert_eq!(proxy.client.address(pod, PATIENCE).await, Demand::Present);
    let known = proxy.client.view().borrow().addresses[&pod].clone();
    assert!(known.services.contains(&name("default/web")), "{known:?}");
    assert_eq!(known.pod.as_ref().map(|pod| pod.name.as_str()), Some("web-1"));
    assert_eq!(proxy.client.address(free, PATIENCE).await, Demand::Absent);

    cluster.write("web.yaml", &SERVICE.replace("port: 80}", "port: 81}"));
    proxy.sees(|view| view.services.values().any(|service| service.port(81).is_some())).await;
    assert_eq!(proxy.client.age(), None);

    // A file that does not parse changes nothing; the next good one does.
    cluster.write("web.yaml", "kind: [");
    cluster.write("none.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: none}\nspec: {ports: [{port: 1}]}\n");
    let view = proxy.sees(|view| view.services.contains_key(&name("default/none"))).await;
    assert!(view.services[&name("default/web")].port(81).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_sees_exported_services_and_dns_needs_its_account() {
    let cluster = Cluster::start().await;
    let gateway = cluster.client(Role::Gateway, cluster.credential("isthmus-system/gateway-1", "gateway"));
    let view = gateway.sees(|view| view.mesh.is_some()).await;
    assert!(view.services.is_empty(), "web is not exported");
    cluster.write(
        "export.yaml",
        "apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {name: web}\n",
    );
    gateway.sees(|view| view.services.contains_key(&name("default/web"))).await;

    let impostor = cluster.client(Role::Dns, cluster.credential("default/web-1", "web"));
    within(impostor.client.credentials().ready()).await;
    let dns = cluster.client(Role::Dns, cluster.credential("isthmus-system/dns", "dns"));
    dns.sees(|view| view.mesh.is_some()).await;
    assert!(impostor.client.view().borrow().mesh.is_none(), "a workload may not be the DNS shim");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_secret_gets_no_svid() {
    let cluster = Cluster::start().await;
    let good = cluster.credential("default/web-1", "web");
    let bad = Credential { secret: Secret::new("guess"), ..good.clone() };
    let refused = cluster.client(Role::Sidecar, bad);
    let attempts = async {
        while refused.registry.encode().contains("isthmus_svid_failures_total 0") {
            tokio::task::yield_now().await;
        }
    };
    within(attempts).await;
    assert!(refused.client.credentials().svid().is_none());
    let proxy = cluster.client(Role::Sidecar, good);
    within(proxy.client.ready()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_outlive_the_agent_and_manifests_its_restart() {
    let mut cluster = Cluster::start().await;
    let credential = cluster.credential("default/web-1", "web");
    let proxy = cluster.client(Role::Sidecar, credential.clone());
    within(proxy.client.ready()).await;
    assert_eq!(proxy.client.service(&name("default/web"), PATIENCE).await, Demand::Present);
    let before = proxy.client.view().borrow().revision;

    cluster.stop().await;
    let lost = async {
        while proxy.client.age().is_none() {
            tokio::task::yield_now().await;
        }
    };
    within(lost).await;
    assert_eq!(proxy.client.service(&name("default/web"), PATIENCE).await, Demand::Present, "last good");

    // Damaged while nobody looked: the agent goes on with what it had.
    cluster.write("web.yaml", "kind: [");
    cluster.write("db.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: db}\nspec: {ports: [{port: 1}]}\n");
    cluster.run().await;
    let view = proxy.sees(|view| view.revision > before).await;
    assert!(view.services.contains_key(&name("default/web")));
    assert_eq!(proxy.client.service(&name("default/db"), PATIENCE).await, Demand::Present);

    let cache = cluster.directory.path().join("cache-default.web-1/discovery.cache");
    let cached = async {
        while !std::fs::read(&cache).is_ok_and(|bytes| contains(&bytes, discovery::types::SERVICE)) {
            tokio::task::yield_now().await;
        }
    };
    within(cached).await;
    drop(proxy);
    cluster.stop().await;
    let restarted = cluster.client(Role::Sidecar, credential);
    let view = restarted.client.view().borrow().clone();
    assert!(view.services.contains_key(&name("default/web")), "the cache needs no agent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_discovery_port_serves_only_its_own_trust_domain() {
    let cluster = Cluster::start().await;
    let directory = tempfile::tempdir().expect("directory");
    let foreign = ClusterCa::create(&directory.path().join("west"), &domain("west.demo")).expect("a CA");
    let forged = ClusterCa::create(&directory.path().join("forged"), &domain("east.demo")).expect("a CA");
    let trusts_east = || TrustBundles::from(cluster.ca.bundle(1).expect("a bundle"));
    let with = |svid: Svid| Credentials::fixed(svid, trusts_east());
    let id = |trust_domain: &str| SpiffeId::system(domain(trust_domain), "gateway").expect("valid");
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
    let issued = |ca: &ClusterCa, id: &SpiffeId| ca.issue_self(id, hour, now).expect("issued");

    assert!(cluster.is_served(&with(issued(&cluster.ca, &id("east.demo")))).await, "the control");
    let refused = [
        ("no certificate", Credentials::anonymous(trusts_east())),
        ("another trust domain", with(issued(&foreign, &id("west.demo")))),
        ("another root", with(issued(&forged, &id("east.demo")))),
        (
            "a foreign identity under the own root",
            with(cluster.ca.issue_with_validity(&id("west.demo"), now - hour, now + hour).expect("issued")),
        ),
        (
            "expired",
            with(cluster.ca.issue_with_validity(&id("east.demo"), now - 2 * hour, now - hour).expect("issued")),
        ),
        (
            "not yet valid",
            with(cluster.ca.issue_with_validity(&id("east.demo"), now + hour, now + 2 * hour).expect("issued")),
        ),
    ];
    for (what, credentials) in refused {
        assert!(!cluster.is_served(&credentials).await, "{what} was served");
    }
}
