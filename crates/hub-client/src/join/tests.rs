use identity::SignedParts;
use tonic::{Code, Status};

use super::*;
use crate::testing::{FakeNode, Files, files};

fn config(files: &Files, address: &str) -> JoinConfig {
    JoinConfig {
        hub: vec![address.to_owned()],
        token: "t1.secret".to_owned(),
        ca_hash: files.ca_hash(),
        cluster: ClusterName::new("east").unwrap(),
        trust_domain: None,
        data_dir: files.data_dir().join("east"),
    }
}

fn accept(files: &Files) -> JoinResponse {
    let root = identity::files::certs_from_pem(&files.operator.hub_roots_pem).unwrap().remove(0);
    JoinResponse {
        revision: 9,
        mesh_id: "demo".to_owned(),
        hub_trust_domain: "hub.demo".to_owned(),
        hub_roots: vec![root.to_vec()],
        hub_addresses: vec!["127.0.0.1:7443".to_owned()],
        version: 1,
    }
}

#[tokio::test]
async fn a_cluster_joins_and_a_repetition_is_the_same_request() {
    let files = files();
    let answer = accept(&files);
    let node = FakeNode::new(|| Ok(())).joining(move |_| Ok(answer.clone()));
    let (_, address) = node.serve(files.node()).await;
    let config = config(&files, &address);
    let joined = join(config.clone()).await.unwrap();
    assert_eq!((joined.revision, joined.version), (9, 1));
    assert_eq!(joined.member.trust_domain.as_str(), "east.demo");
    assert_eq!(MemberFile::load(&config.data_dir).unwrap(), joined.member);
    assert_eq!(joined.member.hub_bundle().unwrap().trust_domain().as_str(), "hub.demo");
    assert_eq!(join(config.clone()).await.unwrap(), joined);

    let joins = node.joins.lock().unwrap().clone();
    assert_eq!(joins.len(), 2);
    assert_eq!(joins[0].request_id, joins[1].request_id);
    let bundle = joins[0].bundle.clone().unwrap();
    assert_eq!(bundle.payload, joins[1].bundle.clone().unwrap().payload);

    // What a hub checks: the bundle is signed by the root in it, and the key was there.
    let decoded = Bundle::decode(bundle.payload.as_slice()).unwrap();
    assert_eq!((decoded.cluster.as_str(), decoded.serial), ("east", FIRST_BUNDLE_SERIAL));
    let ca = ClusterCa::load(&config.data_dir.join("ca")).unwrap();
    assert_eq!(decoded.roots, [ca.root_der().to_vec()]);
    let parts =
        SignedParts { kind: bundle.kind, payload: bundle.payload, signature: bundle.signature, signer: bundle.signer };
    identity::verify_signed(&parts, &ca.bundle(1).unwrap()).unwrap();
    let message = join_proof_message("t1", &joins[0].request_id);
    identity::verify_proof(ca.root_der(), &message, &joins[0].proof).unwrap();

    let other = JoinConfig { cluster: ClusterName::new("west").unwrap(), ..config };
    assert!(matches!(join(other).await, Err(JoinError::OtherMember { .. })));
}

#[tokio::test]
async fn whoever_is_not_the_hub_of_the_token_gets_no_token() {
    let files = files();
    let stranger = crate::testing::files();
    let answer = accept(&files);
    for credentials in [stranger.node(), files.account("operator")] {
        let answer = answer.clone();
        let node = FakeNode::new(|| Ok(())).joining(move |_| Ok(answer.clone()));
        let (_, address) = node.serve(credentials).await;
        let error = join(config(&files, &address)).await.unwrap_err();
        assert!(matches!(error, JoinError::NotTheHub { .. }), "{error}");
        assert!(node.joins.lock().unwrap().is_empty());
    }
    assert!(!files.data_dir().join("east/hub.json").exists());
}

#[tokio::test]
async fn refusals_and_answers_that_contradict_the_certificate_write_nothing() {
    let files = files();
    let good = accept(&files);
    let foreign_roots = crate::testing::files();
    let cases: Vec<(Result<JoinResponse, Status>, &str)> = vec![
        (Err(Status::permission_denied("the token is used")), "the hub refused: the token is used"),
        (Ok(JoinResponse { mesh_id: "other".to_owned(), ..good.clone() }), "it names another mesh"),
        (Ok(JoinResponse { hub_roots: accept(&foreign_roots).hub_roots, ..good.clone() }), "its roots do not include"),
        (Ok(JoinResponse { hub_addresses: Vec::new(), ..good.clone() }), "no usable API addresses"),
        (Ok(JoinResponse { version: 9, ..good.clone() }), "the hub speaks protocol version 9"),
    ];
    for (answer, expected) in cases {
        let node = FakeNode::new(|| Ok(())).joining(move |_| answer.clone());
        let (_, address) = node.serve(files.node()).await;
        let error = join(config(&files, &address)).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!files.data_dir().join("east/hub.json").exists(), "{expected}");
        if let JoinError::Refused { code, .. } = error {
            assert_eq!(code, Code::PermissionDenied);
        }
    }
}

#[tokio::test]
async fn arguments_that_cannot_be_right_are_named_before_anything_is_sent() {
    let files = files();
    let good = config(&files, "127.0.0.1:7444");
    let cases = [
        (JoinConfig { token: "abc".to_owned(), ..good.clone() }, "the token is not <id>.<secret>"),
        (JoinConfig { ca_hash: "sha256:12".to_owned(), ..good.clone() }, "the hub's CA hash"),
        (JoinConfig { hub: Vec::new(), ..good.clone() }, "no address of the hub"),
        (JoinConfig { hub: vec!["localhost".to_owned()], ..good.clone() }, "\"localhost\" is not host:port"),
    ];
    for (config, expected) in cases {
        let error = join(config).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(!format!("{good:?}").contains("secret"));
}
