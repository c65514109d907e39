//! A hub of in-process nodes, clusters that joined it, and ways to wait for a level.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use api::hub as pb;
use api::trust;
use hub::{Config, Listeners, Member};
use hub_client::{HubClient, HubError, JoinConfig, OperatorCredential};
use identity::{ClusterCa, Credentials, TrustBundle, TrustBundles};
use mesh::{ClusterName, MeshId, SpiffeId, TrustDomain};
use prost::Message as _;
use telemetry::Shutdown;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// A hub under test.
pub(crate) struct Hub {
    pub(crate) directory: TempDir,
    pub(crate) operator: OperatorCredential,
    pub(crate) client: HubClient,
    pub(crate) nodes: BTreeMap<u64, NodeUnderTest>,
}

pub(crate) struct NodeUnderTest {
    pub(crate) config: Config,
    running: Option<(Shutdown, JoinHandle<anyhow::Result<()>>)>,
}

/// How a hub is set up.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) nodes: u64,
    pub(crate) snapshot_every: u64,
    pub(crate) lease_ttl: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Self { nodes: 3, snapshot_every: 5000, lease_ttl: Duration::from_secs(10) }
    }
}

/// Addresses that no outgoing connection takes a port of, so that a restarted node gets its ports back.
fn own_address() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let [_, _, a, b] = std::process::id().to_be_bytes();
    let [_, _, _, n] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, 100 + a % 100, b, n.max(1)))
}

impl Hub {
    pub(crate) async fn start(setup: Setup) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ip = own_address();
        let mut listeners = BTreeMap::new();
        for id in 1..=setup.nodes {
            listeners.insert(id, bind(SocketAddr::new(ip, 0), SocketAddr::new(ip, 0), SocketAddr::new(ip, 0)).await);
        }
        let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
        let members: BTreeMap<u64, Member> = listeners
            .iter()
            .map(|(id, bound)| (*id, Member { api: address(&bound.api), join: address(&bound.join) }))
            .collect();
        let mesh_id = MeshId::new("demo").unwrap();
        hub_client::init(&hub_client::InitRequest {
            mesh_id: mesh_id.clone(),
            dir: directory.path().to_owned(),
            members: members
                .iter()
                .map(|(id, member)| hub_client::Member { id: *id, api: member.api.clone(), join: member.join.clone() })
                .collect(),
        })
        .unwrap();
        let operator = OperatorCredential::load(&directory.path().join("operator.json")).unwrap();
        let client = operator.client().unwrap();
        let mut hub = Self { directory, operator, client, nodes: BTreeMap::new() };
        for (id, bound) in listeners {
            let config = Config {
                node_id: id,
                mesh_id: mesh_id.clone(),
                data_dir: hub.directory.path().join(format!("hub-{id}")),
                listen_api: bound.api.local_addr().unwrap(),
                listen_join: bound.join.local_addr().unwrap(),
                listen_admin: bound.admin.local_addr().unwrap(),
                members: members.clone(),
                lease_ttl: setup.lease_ttl,
                snapshot_every: setup.snapshot_every,
            };
            let node = NodeUnderTest { config: config.clone(), running: Some(spawn(config, bound)) };
            hub.nodes.insert(id, node);
        }
        hub.leader().await;
        hub
    }

    pub(crate) fn data_dir(&self, id: u64) -> PathBuf {
        self.nodes[&id].config.data_dir.clone()
    }

    pub(crate) fn api(&self, id: u64) -> String {
        self.nodes[&id].config.listen_api.to_string()
    }

    pub(crate) fn root(&self) -> ClusterCa {
        ClusterCa::load(&self.directory.path().join("ca")).unwrap()
    }

    /// A client of one node only.
    pub(crate) fn operator_at(&self, id: u64) -> HubClient {
        let credentials = self.operator.to_credentials().unwrap();
        HubClient::new(vec![self.api(id)], credentials, self.operator.hub_trust_domain.clone()).unwrap()
    }

    pub(crate) async fn stop(&mut self, id: u64) {
        let (shutdown, task) = self.nodes.get_mut(&id).unwrap().running.take().unwrap();
        shutdown.end();
        task.await.unwrap().unwrap();
    }

    pub(crate) async fn restart(&mut self, id: u64) {
        let config = self.nodes[&id].config.clone();
        let bound = bind(config.listen_api, config.listen_join, config.listen_admin).await;
        self.nodes.get_mut(&id).unwrap().running = Some(spawn(config, bound));
    }

    /// Why a node does not start.
    pub(crate) async fn start_error(&self, id: u64) -> String {
        let config = self.nodes[&id].config.clone();
        let bound = bind(config.listen_api, config.listen_join, config.listen_admin).await;
        let error = hub::serve(config, bound, Shutdown::manual()).await.expect_err("it must not start");
        format!("{error:#}")
    }

    pub(crate) fn running(&self) -> Vec<u64> {
        self.nodes.iter().filter(|(_, node)| node.running.is_some()).map(|(id, _)| *id).collect()
    }

    /// Waits until all running nodes agree on a running leader.
    pub(crate) async fn leader(&self) -> u64 {
        eventually("a leader", async || {
            let running = self.running();
            let mut leaders = Vec::new();
            for id in &running {
                leaders.push(self.client.status_of(&self.api(*id)).await.ok()?.leader_id);
            }
            let first = *leaders.first()?;
            (running.contains(&first) && leaders.iter().all(|leader| *leader == first)).then_some(first)
        })
        .await
    }

    /// Waits until all running nodes have applied the same, and checks that it is the same to the byte.
    pub(crate) async fn converged(&self) -> pb::StatusResponse {
        eventually("the same state everywhere", async || {
            let mut all = Vec::new();
            for id in self.running() {
                all.push(self.client.status_of(&self.api(id)).await.ok()?);
            }
            let first = all.first()?.clone();
            let at_same_index = all.iter().all(|status| {
                status.applied_index == first.applied_index && status.last_log_index == first.last_log_index
            });
            if !at_same_index || first.applied_index != first.last_log_index {
                return None;
            }
            for status in &all {
                assert_eq!(status.state_digest, first.state_digest, "node {} differs", status.node_id);
                assert_eq!(status.revision, first.revision);
            }
            Some(first)
        })
        .await
    }

    pub(crate) async fn token(&self, cluster: &str) -> pb::CreateTokenResponse {
        let request = pb::CreateTokenRequest { cluster: cluster.to_owned(), ..Default::default() };
        self.client.create_token(request).await.unwrap()
    }

    pub(crate) fn join_config(&self, token: &pb::CreateTokenResponse, cluster: &str) -> JoinConfig {
        JoinConfig {
            hub: token.join_addresses.clone(),
            token: token.token.clone(),
            ca_hash: token.hub_ca_hash.clone(),
            cluster: ClusterName::new(cluster).unwrap(),
            trust_domain: None,
            data_dir: self.directory.path().join(cluster),
        }
    }

    /// A cluster that joined as `hubctl join-cluster` does.
    pub(crate) async fn join(&self, cluster: &str) -> Cluster {
        let token = self.token(cluster).await;
        let joined = hub_client::join(self.join_config(&token, cluster)).await.unwrap();
        let ca = ClusterCa::load(&self.directory.path().join(cluster).join("ca")).unwrap();
        let id = SpiffeId::system(joined.member.trust_domain.clone(), "agent").unwrap();
        let svid = ca.issue_self(&id, HOUR, SystemTime::now()).unwrap();
        let credentials = Credentials::fixed(svid, TrustBundles::from(joined.member.hub_bundle().unwrap()));
        let client =
            HubClient::new(joined.member.hub_addresses.clone(), credentials.clone(), self.hub_domain()).unwrap();
        Cluster { name: cluster.to_owned(), ca, client, credentials }
    }

    pub(crate) fn hub_domain(&self) -> TrustDomain {
        self.operator.hub_trust_domain.clone()
    }

    pub(crate) fn hub_bundles(&self) -> TrustBundles {
        TrustBundles::from(TrustBundle::from_pem(self.hub_domain(), 0, &self.operator.hub_roots_pem).unwrap())
    }

    /// The value of a metric of a node.
    pub(crate) async fn metric(&self, id: u64, name: &str) -> u64 {
        let mut stream = TcpStream::connect(self.nodes[&id].config.listen_admin).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        line.unwrap_or_else(|| panic!("{name} is not in {text}")).split(' ').nth(1).unwrap().parse().unwrap()
    }
}

fn spawn(config: Config, listeners: Listeners) -> (Shutdown, JoinHandle<anyhow::Result<()>>) {
    let shutdown = Shutdown::manual();
    (shutdown.clone(), tokio::spawn(hub::serve(config, listeners, shutdown)))
}

pub(crate) async fn bind(api: SocketAddr, join: SocketAddr, admin: SocketAddr) -> Listeners {
    Listeners {
        api: TcpListener::bind(api).await.unwrap(),
        join: TcpListener::bind(join).await.unwrap(),
        admin: TcpListener::bind(admin).await.unwrap(),
    }
}

/// Polls until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "{what}: did not happen in {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A member.
pub(crate) struct Cluster {
    pub(crate) name: String,
    pub(crate) ca: ClusterCa,
    pub(crate) client: HubClient,
    pub(crate) credentials: Credentials,
}

impl Cluster {
    pub(crate) fn sign(&self, kind: &str, payload: Vec<u8>) -> Vec<u8> {
        signed(&self.ca, kind, payload)
    }

    pub(crate) fn export(&self, service: &str, serial: u64, to: &[&str]) -> pb::Operation {
        let (namespace, name) = service.split_once('/').unwrap();
        let export = trust::Export {
            cluster: self.name.clone(),
            serial,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            to_clusters: to.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        put(export_key(&self.name, service), self.sign("export", export.encode_to_vec()))
    }

    pub(crate) async fn write(&self, id: &str, operations: Vec<pb::Operation>) -> Result<u64, HubError> {
        self.client.transact(transaction(id, operations)).await.map(|response| response.revision)
    }

    /// What the cluster sees, as `kind cluster name`.
    pub(crate) async fn sees(&self) -> Vec<String> {
        let response = self.client.read(pb::ReadRequest::default()).await.unwrap();
        response.resources.iter().map(|resource| words(resource.key.as_ref().unwrap())).collect()
    }
}

pub(crate) fn signed(ca: &ClusterCa, kind: &str, payload: Vec<u8>) -> Vec<u8> {
    let parts = ca.sign(kind, payload).unwrap();
    trust::Signed { kind: parts.kind, payload: parts.payload, signature: parts.signature, signer: parts.signer }
        .encode_to_vec()
}

pub(crate) fn transaction(id: &str, operations: Vec<pb::Operation>) -> pb::TransactRequest {
    pb::TransactRequest { request_id: id.to_owned(), compare: vec![], operations }
}

pub(crate) fn put(key: pb::Key, value: Vec<u8>) -> pb::Operation {
    let put = pb::Put { key: Some(key), value };
    pb::Operation { operation: Some(pb::operation::Operation::Put(put)) }
}

pub(crate) fn delete(key: pb::Key) -> pb::Operation {
    pb::Operation { operation: Some(pb::operation::Operation::Delete(key)) }
}

pub(crate) fn key(kind: pb::Kind, cluster: &str, name: &str) -> pb::Key {
    pb::Key { kind: kind.into(), cluster: cluster.to_owned(), name: name.to_owned() }
}

pub(crate) fn export_key(cluster: &str, service: &str) -> pb::Key {
    key(pb::Kind::Export, cluster, service)
}

pub(crate) fn words(key: &pb::Key) -> String {
    let kind = format!("{:?}", key.kind()).to_lowercase();
    [kind, key.cluster.clone(), key.name.clone()]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Copies a directory, file by file.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

impl Hub {
    /// Runs one more node.
    pub(crate) fn adopt(&mut self, config: Config, bound: Listeners) {
        let running = Some(spawn(config.clone(), bound));
        self.nodes.insert(config.node_id, NodeUnderTest { config, running });
    }
}
