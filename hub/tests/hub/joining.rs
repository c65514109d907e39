//! Joining: what a token is good for, and everything that it is not.

use api::hub as pb;
use api::hub::join_client::JoinClient;
use api::trust;
use hub_client::{JoinConfig, JoinError, join_proof_message};
use identity::ClusterCa;
use mesh::TrustDomain;
use prost::Message as _;
use tonic::{Code, Status};

use crate::support::{Hub, Setup, signed};

async fn one_node() -> Hub {
    Hub::start(Setup { nodes: 1, ..Setup::default() }).await
}

fn code(result: Result<hub_client::Joined, JoinError>) -> Code {
    match result.expect_err("it must be refused") {
        JoinError::Refused { code, .. } => code,
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_retry_with_the_same_key_is_no_second_use_and_anything_else_is() {
    let hub = one_node().await;
    let token = hub.token("east").await;
    let first = hub_client::join(hub.join_config(&token, "east")).await.unwrap();
    let again = hub_client::join(hub.join_config(&token, "east")).await.unwrap();
    assert_eq!(first.revision, again.revision);
    let elsewhere = JoinConfig { data_dir: hub.directory.path().join("thief"), ..hub.join_config(&token, "east") };
    assert_eq!(code(hub_client::join(elsewhere).await), Code::PermissionDenied);
    let listed = hub.client.list_tokens().await.unwrap().tokens;
    assert_eq!(listed.iter().map(|token| token.state.as_str()).collect::<Vec<_>>(), ["used"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_token_for_another_cluster_or_trust_domain_revoked_or_unknown_is_refused() {
    let hub = one_node().await;
    let token = hub.token("east").await;
    assert_eq!(code(hub_client::join(hub.join_config(&token, "west")).await), Code::PermissionDenied);
    let other_domain = TrustDomain::new("other.demo").unwrap();
    let config = JoinConfig {
        trust_domain: Some(other_domain),
        data_dir: hub.directory.path().join("other"),
        ..hub.join_config(&token, "east")
    };
    assert_eq!(code(hub_client::join(config).await), Code::PermissionDenied);
    let wrong_secret = JoinConfig { token: format!("{}.guess", token.id), ..hub.join_config(&token, "east") };
    assert_eq!(code(hub_client::join(wrong_secret).await), Code::PermissionDenied);
    hub.client.revoke_token(&token.id).await.unwrap();
    assert_eq!(code(hub_client::join(hub.join_config(&token, "east")).await), Code::PermissionDenied);
    let members = hub.client.read(pb::ReadRequest::default()).await.unwrap().resources;
    assert!(members.is_empty(), "nobody joined");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_expired_token_is_refused() {
    let hub = one_node().await;
    let request = pb::CreateTokenRequest { cluster: "east".to_owned(), ttl_seconds: 1, ..Default::default() };
    let token = hub.client.create_token(request).await.unwrap();
    crate::support::eventually("the token expires", async || {
        let tokens = hub.client.list_tokens().await.unwrap().tokens;
        (tokens[0].state == "expired").then_some(())
    })
    .await;
    assert_eq!(code(hub_client::join(hub.join_config(&token, "east")).await), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_hub_s_own_name_and_trust_domain_are_not_given_away() {
    let hub = one_node().await;
    for (cluster, trust_domain) in [("hub", ""), ("east", "hub.demo"), ("east", "hub.other")] {
        let request = pb::CreateTokenRequest {
            cluster: cluster.to_owned(),
            trust_domain: trust_domain.to_owned(),
            ttl_seconds: 0,
        };
        let error = hub.client.create_token(request).await.expect_err("reserved");
        assert_eq!(error.code(), Some(Code::InvalidArgument), "{cluster} {trust_domain}");
    }
    hub.join("east").await;
    let request = pb::CreateTokenRequest {
        cluster: "west".to_owned(),
        trust_domain: "east.demo".to_owned(),
        ..Default::default()
    };
    assert_eq!(hub.client.create_token(request).await.expect_err("taken").code(), Some(Code::AlreadyExists));
}

/// A join request by hand, to send what the client would not.
struct ByHand {
    request: pb::JoinRequest,
    ca: ClusterCa,
    stranger: ClusterCa,
}

impl ByHand {
    fn new(hub: &Hub, token: &pb::CreateTokenResponse) -> Self {
        let domain = TrustDomain::new("east.demo").unwrap();
        let ca = ClusterCa::create(&hub.directory.path().join("by-hand"), &domain).unwrap();
        let stranger = ClusterCa::create(&hub.directory.path().join("stranger"), &domain).unwrap();
        let bundle = trust::Bundle {
            cluster: "east".to_owned(),
            trust_domain: "east.demo".to_owned(),
            serial: 1,
            roots: vec![ca.root_der().to_vec()],
        };
        let request = pb::JoinRequest {
            token: token.token.clone(),
            cluster: "east".to_owned(),
            trust_domain: "east.demo".to_owned(),
            request_id: "r".to_owned(),
            bundle: trust::Signed::decode(signed(&ca, "bundle", bundle.encode_to_vec()).as_slice()).ok(),
            proof: ca.prove(&join_proof_message(&token.id, "r")).unwrap(),
            min_version: 1,
            max_version: 1,
        };
        Self { request, ca, stranger }
    }

    async fn send(&self, hub: &Hub, change: impl FnOnce(&mut pb::JoinRequest)) -> Result<pb::JoinResponse, Status> {
        self.send_to(hub, 1, change).await
    }

    async fn send_to(
        &self,
        hub: &Hub,
        node: u64,
        change: impl FnOnce(&mut pb::JoinRequest),
    ) -> Result<pb::JoinResponse, Status> {
        let mut request = self.request.clone();
        change(&mut request);
        let address = hub.nodes[&node].config.listen_join.to_string();
        let credentials = identity::Credentials::anonymous(hub.hub_bundles());
        let channel = crate::access::open_channel(&address, &credentials);
        JoinClient::new(channel).join(request).await.map(tonic::Response::into_inner)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_join_without_possession_of_the_root_key_is_refused() {
    let hub = one_node().await;
    let token = hub.token("east").await;
    let hand = ByHand::new(&hub, &token);
    let refused = async |change: &dyn Fn(&mut pb::JoinRequest)| {
        hand.send(&hub, |request| change(request)).await.expect_err("refused").code()
    };
    let other_proof = hand.stranger.prove(&join_proof_message(&token.id, "r")).unwrap();
    assert_eq!(refused(&|request| request.proof = other_proof.clone()).await, Code::PermissionDenied);
    // The proof covers the request id, so it cannot be used for another request.
    assert_eq!(refused(&|request| request.request_id = "other".to_owned()).await, Code::PermissionDenied);
    assert_eq!(refused(&|request| request.proof.clear()).await, Code::PermissionDenied);
    assert_eq!(refused(&|request| request.bundle = None).await, Code::InvalidArgument);
    let forged = |bundle: &trust::Signed| trust::Signed { payload: Vec::new(), ..bundle.clone() };
    assert_eq!(refused(&|request| request.bundle = request.bundle.as_ref().map(forged)).await, Code::InvalidArgument);
    assert_eq!(
        refused(&|request| (request.min_version, request.max_version) = (9, 10)).await,
        Code::FailedPrecondition
    );
    assert_eq!(refused(&|request| request.token = "no-dot".to_owned()).await, Code::InvalidArgument);
    let bundle_of_west = trust::Bundle {
        cluster: "west".to_owned(),
        trust_domain: "east.demo".to_owned(),
        serial: 1,
        roots: vec![hand.ca.root_der().to_vec()],
    };
    let bundle_of_west = signed(&hand.ca, "bundle", bundle_of_west.encode_to_vec());
    let bundle_of_west = trust::Signed::decode(bundle_of_west.as_slice()).unwrap();
    assert_eq!(refused(&|request| request.bundle = Some(bundle_of_west.clone())).await, Code::InvalidArgument);
    hand.send(&hub, |_| {}).await.expect("untouched, it is accepted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_join_with_a_token_that_is_good_for_nothing_writes_nothing() {
    let hub = Hub::start(Setup::default()).await;
    let leader = hub.leader().await;
    let follower = hub.running().into_iter().find(|id| *id != leader).unwrap();
    let token = hub.token("east").await;
    let revoked = hub.token("east").await;
    hub.client.revoke_token(&revoked.id).await.unwrap();
    let hand = ByHand::new(&hub, &token);
    let before = hub.converged().await.last_log_index;
    let secret = token.token.split_once('.').unwrap().1;
    for bad in [format!("{}.guess", token.id), format!("unknown.{secret}"), revoked.token.clone()] {
        for node in [leader, follower] {
            let refused = hand.send_to(&hub, node, |request| request.token.clone_from(&bad)).await;
            assert_eq!(refused.expect_err("refused").code(), Code::PermissionDenied, "{bad}");
        }
    }
    let elsewhere = hand.send_to(&hub, follower, |request| request.cluster = "west".to_owned()).await;
    assert_eq!(elsewhere.expect_err("refused").code(), Code::PermissionDenied);
    assert_eq!(hub.converged().await.last_log_index, before, "nothing was written");
    let joined = hand.send_to(&hub, follower, |_| {}).await.expect("a good token is accepted");
    let retried = hand.send_to(&hub, leader, |_| {}).await.expect("and its retry");
    assert_eq!(joined.revision, retried.revision);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn any_node_knows_a_token_at_once() {
    let hub = Hub::start(Setup::default()).await;
    for round in 0..5 {
        let name = format!("east-{round}");
        let token = hub.token(&name).await;
        // A node that may not have heard of it yet.
        let last = token.join_addresses.last().cloned();
        let config = JoinConfig { hub: last.into_iter().collect(), ..hub.join_config(&token, &name) };
        hub_client::join(config).await.unwrap();
    }
}
