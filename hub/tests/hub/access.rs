//! Who gets in, and what each role may call.

use std::io;
use std::time::{Duration, SystemTime};

use api::hub as pb;
use api::hub::hub_client::HubClient as Rpc;
use api::hub::hub_peer_client::HubPeerClient;
use hyper_util::rt::TokioIo;
use identity::{ClusterCa, Credentials, PeerPolicy, Svid, TrustBundles};
use mesh::{SpiffeId, TrustDomain};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Response, Status};

use crate::support::{Cluster, HOUR, Hub, Setup, eventually, export_key, key, put, signed, transaction};

fn channel_with(address: &str, config: std::sync::Arc<tokio_rustls::rustls::ClientConfig>) -> Channel {
    let target = address.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let (config, target) = (config.clone(), target.clone());
        async move {
            let tcp = TcpStream::connect(&target).await?;
            let (tls, _) =
                identity::connect_tls(config, tcp, Duration::from_secs(5)).await.map_err(io::Error::other)?;
            Ok::<_, io::Error>(TokioIo::new(tls))
        }
    });
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect_with_connector_lazy(connector)
}

/// A channel that shows no certificate.
pub(crate) fn open_channel(address: &str, credentials: &Credentials) -> Channel {
    channel_with(address, credentials.client_config_open(PeerPolicy::AnyKnown, &[b"h2"]).unwrap())
}

fn channel(address: &str, credentials: &Credentials) -> Channel {
    channel_with(address, credentials.client_config(PeerPolicy::AnyKnown, &[b"h2"]).unwrap())
}

fn id(trust_domain: &str, account: &str) -> SpiffeId {
    SpiffeId::system(TrustDomain::new(trust_domain).unwrap(), account).unwrap()
}

async fn one_node() -> Hub {
    Hub::start(Setup { nodes: 1, ..Setup::default() }).await
}

fn code<T>(result: Result<Response<T>, Status>) -> Code {
    result.map(|_| ()).map_or_else(|status| status.code(), |()| Code::Ok)
}

/// The codes that each RPC of `Hub` answers a caller with, and those of `HubPeer` last.
async fn codes(address: &str, credentials: &Credentials) -> Vec<(&'static str, Code)> {
    let channel = channel(address, credentials);
    let mut hub = Rpc::new(channel.clone());
    let mut peer = HubPeerClient::new(channel);
    let blob = || pb::Blob { data: vec![1, 2, 3] };
    let renew = pb::RenewLeaseRequest { min_version: 1, max_version: 1 };
    let create = pb::CreateTokenRequest { cluster: "new".to_owned(), ..Default::default() };
    vec![
        ("transact", code(hub.transact(pb::TransactRequest::default()).await)),
        ("read", code(hub.read(pb::ReadRequest::default()).await)),
        ("watch", code(hub.watch(pb::WatchRequest::default()).await)),
        ("renew_lease", code(hub.renew_lease(renew).await)),
        ("create_token", code(hub.create_token(create).await)),
        ("list_tokens", code(hub.list_tokens(pb::ListTokensRequest {}).await)),
        ("revoke_token", code(hub.revoke_token(pb::RevokeTokenRequest { id: "none".to_owned() }).await)),
        ("status", code(hub.status(pb::StatusRequest {}).await)),
        ("list_audit", code(hub.list_audit(pb::ListAuditRequest::default()).await)),
        ("add_member", code(hub.add_member(pb::AddMemberRequest::default()).await)),
        ("remove_member", code(hub.remove_member(pb::RemoveMemberRequest { id: 77 }).await)),
        ("append", code(peer.append(blob()).await)),
        ("vote", code(peer.vote(blob()).await)),
        ("install_snapshot", code(peer.install_snapshot(tokio_stream::empty()).await)),
        ("forward", code(peer.forward(blob()).await)),
    ]
}

fn denied(codes: &[(&'static str, Code)]) -> Vec<&'static str> {
    codes.iter().filter(|(_, code)| *code == Code::PermissionDenied).map(|(name, _)| *name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_rpc_has_a_role() {
    let hub = one_node().await;
    let east = hub.join("east").await;
    let address = hub.api(1);
    let peers = ["append", "vote", "install_snapshot", "forward"];
    let operators =
        ["create_token", "list_tokens", "revoke_token", "status", "list_audit", "add_member", "remove_member"];

    let agent = codes(&address, &east.credentials).await;
    assert_eq!(denied(&agent), [&operators[..], &peers[..]].concat());

    let operator = codes(&address, &hub.operator.to_credentials().unwrap()).await;
    // The unknown token is a refusal of the state, not of the role.
    assert_eq!(denied(&operator), [&["renew_lease", "revoke_token"][..], &peers[..]].concat());

    let node = hub.root().issue_self(&id("hub.demo", "hub"), HOUR, SystemTime::now()).unwrap();
    let node = codes(&address, &Credentials::fixed(node, hub.hub_bundles())).await;
    assert_eq!(denied(&node), [&["transact", "read", "watch", "renew_lease"][..], &operators[..]].concat());

    // Known trust domains, but no role: a workload, a gateway, and a cluster that calls itself operator.
    for (ca, other) in [
        (&east.ca, id("east.demo", "gateway")),
        (&east.ca, id("east.demo", "operator")),
        (&east.ca, id("east.demo", "hub")),
        (&hub.root(), id("hub.demo", "agent")),
    ] {
        let svid = ca.issue_self(&other, HOUR, SystemTime::now()).unwrap();
        let codes = codes(&address, &Credentials::fixed(svid, hub.hub_bundles())).await;
        assert_eq!(denied(&codes).len(), codes.len(), "{other}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_has_no_role_for_a_service_is_turned_away_before_the_message_is_read() {
    let hub = one_node().await;
    let east = hub.join("east").await;
    let address = hub.api(1);
    let gateway = east.ca.issue_self(&id("east.demo", "gateway"), HOUR, SystemTime::now()).unwrap();
    let gateway = Credentials::fixed(gateway, hub.hub_bundles());
    let node = hub.root().issue_self(&id("hub.demo", "hub"), HOUR, SystemTime::now()).unwrap();
    let node = Credentials::fixed(node, hub.hub_bundles());
    // A message that nobody may send: whoever is asked to decode it says so.
    let to_hub = async |credentials: &Credentials| {
        let request = transaction(&"x".repeat(8 * 1024 * 1024 + 1), vec![]);
        code(Rpc::new(channel(&address, credentials)).transact(request).await)
    };
    let to_peer = async |credentials: &Credentials| {
        let blob = pb::Blob { data: vec![0; 64 * 1024 * 1024 + 1] };
        code(HubPeerClient::new(channel(&address, credentials)).append(blob).await)
    };
    assert_eq!(to_hub(&east.credentials).await, Code::OutOfRange);
    assert_eq!(to_hub(&gateway).await, Code::PermissionDenied);
    assert_eq!(to_hub(&node).await, Code::PermissionDenied);
    assert_eq!(to_peer(&node).await, Code::OutOfRange);
    for credentials in [&gateway, &east.credentials, &hub.operator.to_credentials().unwrap()] {
        assert_eq!(to_peer(credentials).await, Code::PermissionDenied);
    }
}

async fn gets_in(hub: &Hub, credentials: &Credentials) -> bool {
    let mut client = Rpc::new(channel(&hub.api(1), credentials));
    client.read(pb::ReadRequest { stale: true, ..Default::default() }).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_a_valid_certificate_nobody_gets_in() {
    let hub = one_node().await;
    let east = hub.join("east").await;
    let now = SystemTime::now();
    let agent = id("east.demo", "agent");
    let with = |svid: Svid| Credentials::fixed(svid, hub.hub_bundles());
    assert!(gets_in(&hub, &with(east.ca.issue_self(&agent, HOUR, now).unwrap())).await);

    let mut anonymous = Rpc::new(open_channel(&hub.api(1), &Credentials::anonymous(hub.hub_bundles())));
    anonymous.read(pb::ReadRequest::default()).await.expect_err("no certificate");

    let domain = TrustDomain::new("east.demo").unwrap();
    let impostor = ClusterCa::create(&hub.directory.path().join("impostor"), &domain).unwrap();
    assert!(!gets_in(&hub, &with(impostor.issue_self(&agent, HOUR, now).unwrap())).await, "wrong root");
    let expired = east.ca.issue_self(&agent, HOUR, now - 3 * HOUR).unwrap();
    assert!(!gets_in(&hub, &with(expired)).await, "expired");
    let early = east.ca.issue_self(&agent, HOUR, now + 3 * HOUR).unwrap();
    assert!(!gets_in(&hub, &with(early)).await, "not yet valid");
    let unknown_domain = TrustDomain::new("north.demo").unwrap();
    let unknown = ClusterCa::create(&hub.directory.path().join("unknown"), &unknown_domain).unwrap();
    let stranger = unknown.issue_self(&id("north.demo", "agent"), HOUR, now).unwrap();
    assert!(!gets_in(&hub, &with(stranger)).await, "unknown trust domain");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_right_root_vouches_for_its_own_trust_domain_only() {
    let hub = one_node().await;
    let (east, west) = (hub.join("east").await, hub.join("west").await);
    // A certificate of west's trust domain, signed by east's root.
    let request = identity::KeyRequest::generate().unwrap();
    let issued = east.ca.issue(request.csr_der(), &id("west.demo", "agent"), HOUR, SystemTime::now());
    // Our own CA refuses; a hostile one would not. Either way it must not get in.
    if let Ok(chain) = issued {
        let chain = chain.into_iter().map(|der| der.to_vec()).collect();
        let svid = request.complete(chain).unwrap();
        assert!(!gets_in(&hub, &Credentials::fixed(svid, hub.hub_bundles())).await);
    }
    assert!(gets_in(&hub, &west.credentials).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_connection_ends_when_the_certificate_expires() {
    let hub = one_node().await;
    let east = hub.join("east").await;
    let svid = east.ca.issue_self(&id("east.demo", "agent"), Duration::from_secs(6), SystemTime::now()).unwrap();
    let credentials = Credentials::fixed(svid, hub.hub_bundles());
    let mut client = Rpc::new(channel(&hub.api(1), &credentials));
    let mut stream = client.watch(pb::WatchRequest { revision: 0 }).await.unwrap().into_inner();
    stream.message().await.unwrap();
    let ended =
        tokio::time::timeout(Duration::from_secs(11), async { while let Ok(Some(_)) = stream.message().await {} });
    ended.await.expect("it ends within 5 s of the expiry");
    client.read(pb::ReadRequest::default()).await.expect_err("no new connection either");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cluster_cannot_write_another_s_keys_nor_what_it_did_not_sign() {
    let hub = one_node().await;
    let (east, west) = (hub.join("east").await, hub.join("west").await);
    let refused = async |cluster: &Cluster, name: &str, operation: pb::Operation| {
        cluster.client.transact(transaction(name, vec![operation])).await.expect_err("refused").code().unwrap()
    };
    let of_west = west.export("default/web", 1, &[]);
    assert_eq!(refused(&east, "1", of_west.clone()).await, Code::PermissionDenied);
    let Some(pb::operation::Operation::Put(stolen)) = of_west.operation else { unreachable!() };
    let moved = put(export_key("east", "default/web"), stolen.value.clone());
    assert_eq!(refused(&east, "2", moved).await, Code::InvalidArgument);
    let self_signed = put(export_key("west", "default/web"), stolen.value);
    assert_eq!(refused(&east, "3", self_signed).await, Code::PermissionDenied);
    let delete = crate::support::delete(key(pb::Kind::Bundle, "west", ""));
    assert_eq!(refused(&east, "4", delete).await, Code::PermissionDenied);
    for kind in [pb::Kind::Cluster, pb::Kind::Lease] {
        let value = east.sign("gateways", Vec::new());
        assert_eq!(refused(&east, "5", put(key(kind, "east", ""), value)).await, Code::PermissionDenied);
    }
    // East's name, but another key: what a compromised agent without the CA could try.
    let domain = TrustDomain::new("east.demo").unwrap();
    let impostor = ClusterCa::create(&hub.directory.path().join("impostor"), &domain).unwrap();
    let gateways = api::trust::GatewaySet { cluster: "east".to_owned(), serial: 1, gateways: vec![] };
    let forged = signed(&impostor, "gateways", prost::Message::encode_to_vec(&gateways));
    assert_eq!(refused(&east, "6", put(key(pb::Kind::Gateways, "east", ""), forged)).await, Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_bundle_must_be_signed_by_an_old_root_and_is_believed_then() {
    let hub = one_node().await;
    let east = hub.join("east").await;
    let domain = TrustDomain::new("east.demo").unwrap();
    let next = ClusterCa::create(&hub.directory.path().join("next"), &domain).unwrap();
    let bundle = |serial| api::trust::Bundle {
        cluster: "east".to_owned(),
        trust_domain: "east.demo".to_owned(),
        serial,
        roots: vec![east.ca.root_der().to_vec(), next.root_der().to_vec()],
    };
    let encode = |ca: &ClusterCa, serial| signed(ca, "bundle", prost::Message::encode_to_vec(&bundle(serial)));
    let write = async |name: &str, value| east.write(name, vec![put(key(pb::Kind::Bundle, "east", ""), value)]).await;
    let new_agent = next.issue_self(&id("east.demo", "agent"), HOUR, SystemTime::now()).unwrap();
    let new_agent = Credentials::fixed(new_agent, hub.hub_bundles());
    let by_itself = write("1", encode(&next, 2)).await.expect_err("signed by itself");
    assert_eq!(by_itself.code(), Some(Code::InvalidArgument));
    assert!(!gets_in(&hub, &new_agent).await);
    write("2", encode(&east.ca, 2)).await.unwrap();
    eventually("the new root is believed", async || gets_in(&hub, &new_agent).await.then_some(())).await;
    assert_eq!(write("3", encode(&east.ca, 1)).await.expect_err("older").code(), Some(Code::FailedPrecondition));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_join_listener_serves_nothing_but_joins() {
    let hub = one_node().await;
    let address = hub.nodes[&1].config.listen_join.to_string();
    let channel = channel(&address, &hub.operator.to_credentials().unwrap());
    assert_eq!(code(Rpc::new(channel.clone()).read(pb::ReadRequest::default()).await), Code::Unimplemented);
    let blob = pb::Blob { data: Vec::new() };
    assert_eq!(code(HubPeerClient::new(channel).append(blob).await), Code::Unimplemented);
    let _ = TrustBundles::new();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writes_of_operators_are_audited() {
    let hub = one_node().await;
    hub.join("east").await;
    let entries = hub.client.list_audit(10).await.unwrap().entries;
    let words: Vec<(&str, &str)> =
        entries.iter().map(|entry| (entry.actor.as_str(), entry.action.split(' ').next().unwrap())).collect();
    assert_eq!(words.len(), 2);
    assert!(words[0].0.starts_with("token:") && words[0].1 == "join");
    assert_eq!(words[1], ("spiffe://hub.demo/ns/isthmus-system/sa/operator", "create"));
}
