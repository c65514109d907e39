//! A hub that was taken over can stop updates. It cannot swap a known cluster's bundle, move its gateways or roll its
//! exports back: not while the agent runs, and not after the agent was restarted.

#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "whatever fails here is a failed test")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use api::hub::hub_server::{Hub, HubServer};
use api::hub::{self, Kind, Resource, WatchResponse};
use api::trust::{Bundle, Gateway, GatewaySet, Signed};
use identity::{ClusterCa, Credentials, PeerPolicy, TrustBundles};
use mesh::{SpiffeId, TrustDomain};
use multicluster_tests::{SMALL, Scenario};
use prost::Message;
use rustix::process::Signal;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

const PATIENCE: Duration = Duration::from_secs(20);
/// Higher than any serial or revision of a young fleet.
const HIGH: u64 = 1_000_000;

/// Tells every agent the same lies, and agrees to everything else.
#[derive(Clone)]
struct HostileHub {
    lies: Vec<Resource>,
}

type Answer<T> = Result<Response<T>, Status>;

fn not_here<T>() -> Answer<T> {
    Err(Status::unimplemented("not needed"))
}

#[tonic::async_trait]
impl Hub for HostileHub {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

    async fn watch(&self, _request: Request<hub::WatchRequest>) -> Answer<Self::WatchStream> {
        let lie = WatchResponse { revision: HIGH, snapshot: true, put: self.lies.clone(), ..Default::default() };
        let (tell, told) = tokio::sync::mpsc::channel(1);
        tell.send(Ok(lie)).await.expect("room for one");
        tokio::spawn(async move { tell.closed().await });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(told))))
    }

    async fn transact(&self, _request: Request<hub::TransactRequest>) -> Answer<hub::TransactResponse> {
        Ok(Response::new(hub::TransactResponse { revision: HIGH }))
    }

    async fn renew_lease(&self, _request: Request<hub::RenewLeaseRequest>) -> Answer<hub::RenewLeaseResponse> {
        Ok(Response::new(hub::RenewLeaseResponse { ttl_ms: 10_000, hub_addresses: Vec::new(), version: 1 }))
    }

    async fn read(&self, _request: Request<hub::ReadRequest>) -> Answer<hub::ReadResponse> {
        not_here()
    }
    async fn drain_cluster(&self, _request: Request<hub::DrainClusterRequest>) -> Answer<hub::MembershipChange> {
        not_here()
    }
    async fn undrain_cluster(&self, _request: Request<hub::UndrainClusterRequest>) -> Answer<hub::MembershipChange> {
        not_here()
    }
    async fn leave_cluster(&self, _request: Request<hub::LeaveClusterRequest>) -> Answer<hub::MembershipChange> {
        not_here()
    }
    async fn create_token(&self, _request: Request<hub::CreateTokenRequest>) -> Answer<hub::CreateTokenResponse> {
        not_here()
    }
    async fn list_tokens(&self, _request: Request<hub::ListTokensRequest>) -> Answer<hub::ListTokensResponse> {
        not_here()
    }
    async fn revoke_token(&self, _request: Request<hub::RevokeTokenRequest>) -> Answer<hub::RevokeTokenResponse> {
        not_here()
    }
    async fn status(&self, _request: Request<hub::StatusRequest>) -> Answer<hub::StatusResponse> {
        not_here()
    }
    async fn list_audit(&self, _request: Request<hub::ListAuditRequest>) -> Answer<hub::ListAuditResponse> {
        not_here()
    }
    async fn add_member(&self, _request: Request<hub::AddMemberRequest>) -> Answer<hub::MembershipResponse> {
        not_here()
    }
    async fn remove_member(&self, _request: Request<hub::RemoveMemberRequest>) -> Answer<hub::MembershipResponse> {
        not_here()
    }
}

/// Serves in place of the hub, under its address and with a certificate that its stolen root signed.
async fn take_over(scenario: &Scenario, lies: Vec<Resource>) {
    let layout = &scenario.fleet.layout;
    let root = ClusterCa::load(&layout.root().join("ca")).unwrap();
    let mut bundles = TrustBundles::from(root.bundle(1).unwrap());
    for cluster in ["east", "west"] {
        let ca = ClusterCa::load(&layout.agent(cluster).join("ca")).unwrap();
        bundles.insert(ca.bundle(1).unwrap());
    }
    let id = SpiffeId::system(root.trust_domain().clone(), "hub").unwrap();
    let svid = root.issue_self(&id, Duration::from_secs(3600), std::time::SystemTime::now()).unwrap();
    let credentials = Credentials::fixed(svid, bundles);
    let tls = credentials.server_config(PeerPolicy::AnyKnown, &[b"h2"]).unwrap();
    let address: SocketAddr = scenario.fleet.plan().hub_api()[0].parse().unwrap();
    let listener = tokio::time::timeout(PATIENCE, freed(address)).await.expect("the hub's address becomes free");
    let incoming = discovery::server::accept_mutual(listener, tls, credentials, CancellationToken::new());
    let service = HubServer::new(HostileHub { lies });
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
}

/// Listens once the threads of the killed hub have let go of their sockets, which takes the kernel a moment.
async fn freed(address: SocketAddr) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn resources(scenario: &Scenario) -> Vec<Resource> {
    let operator = hub_client::OperatorCredential::load(&scenario.fleet.layout.operator()).unwrap();
    let answer = operator.client().unwrap().read(hub::ReadRequest::default()).await.unwrap();
    answer.resources
}

fn fact(resources: &[Resource], kind: Kind) -> Resource {
    let of_west =
        |resource: &&Resource| resource.key.as_ref().is_some_and(|key| key.kind() == kind && key.cluster == "west");
    resources.iter().find(of_west).unwrap_or_else(|| panic!("no {kind:?} of west")).clone()
}

fn signed(ca: &ClusterCa, kind: &str, payload: Vec<u8>) -> Vec<u8> {
    let parts = ca.sign(kind, payload).unwrap();
    let signed = Signed { kind: parts.kind, payload: parts.payload, signature: parts.signature, signer: parts.signer };
    signed.encode_to_vec()
}

/// What the hub tells from now on: everything as it is, but for west's bundle, gateways and export.
fn lies(truth: &[Resource], before: &[Resource], thief: &ClusterCa) -> Vec<Resource> {
    let bundle = Bundle {
        cluster: "west".into(),
        trust_domain: "west.demo".into(),
        serial: HIGH,
        roots: vec![thief.root_der().to_vec()],
    };
    let gateways = GatewaySet {
        cluster: "west".into(),
        serial: HIGH,
        gateways: vec![Gateway { name: "gateway-1".into(), quic_address: "127.0.0.1:9".into() }],
    };
    let lie = |resource: &Resource| {
        let key = resource.key.as_ref().expect("a key");
        let value = match (key.kind(), key.cluster.as_str()) {
            (Kind::Bundle, "west") => signed(thief, "bundle", bundle.encode_to_vec()),
            (Kind::Gateways, "west") => signed(thief, "gateways", gateways.encode_to_vec()),
            (Kind::Export, "west") => fact(before, Kind::Export).value,
            _ => resource.value.clone(),
        };
        Resource { revision: HIGH, value, ..resource.clone() }
    };
    truth.iter().map(lie).collect()
}

async fn imports(scenario: &Scenario) -> Value {
    let admin = SocketAddr::from((scenario.fleet.cluster("east").unwrap().agent, 15020));
    fleet::http::get_json(admin, "/debug/imports", PATIENCE).await.unwrap_or_default()
}

/// What east believes of west: bundle, gateways and exports, with their serials.
fn believed(imports: &Value) -> Value {
    let clusters = imports["clusters"].as_array().cloned().unwrap_or_default();
    let west = clusters.into_iter().find(|cluster| cluster["cluster"] == "west").unwrap_or_default();
    serde_json::json!([west["bundle"], west["gateways"], west["exports"]])
}

/// Waits until east's agent shows what `wanted` asks for, and gives it.
async fn until(scenario: &Scenario, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let seen = async {
        loop {
            let imports = imports(scenario).await;
            if wanted(&imports) {
                return imports;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let seen = tokio::time::timeout(PATIENCE, seen).await;
    match seen {
        Ok(imports) => imports,
        Err(_) => panic!("{what} never came: {:#}\n{}", imports(scenario).await, scenario.logs()),
    }
}

fn refused_kinds(imports: &Value) -> BTreeSet<String> {
    let refused = imports["refused"].as_array().cloned().unwrap_or_default();
    let of_west = refused.iter().filter(|refusal| refusal["cluster"] == "west");
    of_west.filter_map(|refusal| refusal["kind"].as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_was_taken_over_neither_impersonates_nor_moves_nor_rolls_back() {
    identity::install_crypto();
    let scenario = Scenario::up(SMALL).await;
    scenario.get("9080/").await;
    let before = resources(&scenario).await;
    let first = believed(&imports(&scenario).await);

    // A newer export, so that there is an older one to replay.
    let manifest = "apiVersion: multicluster.x-k8s.io/v1alpha1\nkind: ServiceExport\nmetadata: {name: reviews, namespace: default, annotations: {isthmus.dev/export-to: east}}\n";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), manifest).unwrap();
    scenario.ok(&["fleet", "apply", "west", "-f", &file.path().display().to_string()]).await;
    let newer = until(&scenario, "the newer export", |imports| believed(imports) != first).await;
    let truth = believed(&newer);
    let lies = {
        let directory = tempfile::tempdir().unwrap();
        let domain = TrustDomain::new("west.demo").unwrap();
        let thief = ClusterCa::create(&directory.path().join("ca"), &domain).unwrap();
        self::lies(&resources(&scenario).await, &before, &thief)
    };

    scenario.fleet.signal("hub-1", Signal::KILL).await.unwrap();
    take_over(&scenario, lies).await;
    let all = BTreeSet::from(["bundle", "export", "gateways"].map(str::to_owned));
    let seen = until(&scenario, "the refusals", |imports| refused_kinds(imports) == all).await;
    assert_eq!(believed(&seen), truth);
    scenario.get("9080/").await;

    scenario.fleet.signal("east/agent", Signal::KILL).await.unwrap();
    scenario.fleet.start("east/agent", PATIENCE).await.unwrap();
    let seen = until(&scenario, "the refusals after a restart", |imports| refused_kinds(imports) == all).await;
    assert_eq!(believed(&seen), truth);
    scenario.get("9080/").await;
}
