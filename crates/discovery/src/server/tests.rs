//! Sessions of server and client against each other, without I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use mesh::{Namespace, SpiffeId, TrustDomain, View};
use proptest::prelude::*;

use super::{NotAdmitted, Peer, Session, Snapshot, Violation};
use crate::client::session::Session as ClientSession;
use crate::client::wanted::Wanted;
use crate::types::{Kind, NodeId, Role};

fn spiffe(namespace: &str, account: &str) -> SpiffeId {
    let trust_domain = TrustDomain::new("east.demo").expect("valid");
    SpiffeId::new(trust_domain, Namespace::new(namespace).expect("valid"), account).expect("valid")
}

fn node(text: &str) -> NodeId {
    text.parse().expect("a valid node id")
}

fn peer(text: &str) -> Peer {
    let node = node(text);
    let identity = match node.role.system_account() {
        Some(account) => spiffe("isthmus-system", account),
        None => spiffe("default", "web"),
    };
    Peer::admit(identity, node).expect("admitted")
}

fn service(name: &str, serial: u64) -> api::discovery::Service {
    let import = api::discovery::Import { cluster: "west".into(), serial, ..Default::default() };
    api::discovery::Service {
        namespace: "default".into(),
        name: name.into(),
        imports: vec![import],
        ..Default::default()
    }
}

/// A snapshot with a mesh, two workloads and these services (name → serial).
fn snapshot(revision: u64, services: &BTreeMap<String, u64>) -> Arc<Snapshot> {
    let mut snapshot = Snapshot { revision, ..Snapshot::default() };
    let mesh = api::discovery::Mesh {
        mesh_id: "demo".into(),
        cluster: "east".into(),
        trust_domain: "east.demo".into(),
        ..Default::default()
    };
    snapshot.insert(Kind::Mesh, "mesh".into(), &mesh);
    for (name, account) in [("web-1", "web"), ("db-1", "db")] {
        let workload = api::discovery::Workload {
            namespace: "default".into(),
            name: name.into(),
            service_account: account.into(),
            ..Default::default()
        };
        snapshot.insert(Kind::Workload, format!("default/{name}"), &workload);
        snapshot.owners.insert(format!("default/{name}"), spiffe("default", account));
    }
    for (name, serial) in services {
        snapshot.insert(Kind::Service, format!("default/{name}"), &service(name, *serial));
        snapshot.shared.insert(format!("default/{name}"));
    }
    Arc::new(snapshot)
}

fn services(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
    pairs.iter().map(|(name, serial)| ((*name).to_owned(), *serial)).collect()
}

/// Carries messages to and fro until both sides are silent.
fn settle(server: &mut Session, client: &mut ClientSession, requests: Vec<DeltaDiscoveryRequest>) {
    for request in &requests {
        server.handle_request(request).expect("a valid request");
    }
    while let Some(response) = server.poll_response() {
        let handled = client.handle_response(&response).expect("asked for");
        server.handle_request(&handled.reply).expect("a valid reply");
    }
}

fn serials(view: &View) -> BTreeMap<String, u64> {
    let serial = |service: &mesh::Service| service.imports.values().map(|import| import.serial).sum();
    view.services.values().map(|service| (service.name.name().to_owned(), serial(service))).collect()
}

fn name(text: &str) -> Wanted {
    Wanted::Service(format!("default/{text}").parse().expect("valid"))
}

#[test]
fn a_gateway_gets_every_shared_service_and_then_only_differences() {
    let (mut server, mut client) = (Session::new(peer("gateway~isthmus-system/gw-1")), gateway());
    server.handle_snapshot(snapshot(1, &services(&[("a", 1), ("b", 1)])));
    let requests = client.handle_connected();
    settle(&mut server, &mut client, requests);
    assert_eq!(serials(&client.known().view), services(&[("a", 1), ("b", 1)]));
    assert!(client.known().view.workload.is_none());

    server.handle_snapshot(snapshot(2, &services(&[("a", 2)])));
    let response = server.poll_response().expect("a change");
    assert_eq!(response.type_url, Kind::Service.type_url());
    assert_eq!((response.resources.len(), response.removed_resources.len()), (1, 1));
    assert!(server.poll_response().is_none(), "nothing more before the ack");
    let reply = client.handle_response(&response).expect("asked for").reply;
    server.handle_request(&reply).expect("an ack");
    assert!(server.poll_response().is_none());
    assert_eq!(serials(&client.known().view), services(&[("a", 2)]));
    assert_eq!(client.known().view.revision, 2);
    assert_eq!(server.progress()[&Kind::Service].acked_revision, 2);
}

#[test]
fn changes_while_a_response_is_unacknowledged_are_coalesced() {
    let mut server = Session::new(peer("gateway~isthmus-system/gw-1"));
    let mut client = gateway();
    let requests = client.handle_connected();
    settle(&mut server, &mut client, requests);
    server.handle_snapshot(snapshot(1, &services(&[("a", 1)])));
    let responses: Vec<_> = std::iter::from_fn(|| server.poll_response()).collect();
    assert_eq!(responses.len(), Role::Gateway.wildcards().len(), "one of each kind");
    for revision in 2..50 {
        server.handle_snapshot(snapshot(revision, &services(&[("a", revision)])));
        assert!(server.poll_response().is_none());
    }
    for response in &responses {
        let reply = client.handle_response(response).expect("asked for").reply;
        server.handle_request(&reply).expect("an ack");
    }
    let newest = server.poll_response().expect("the newest state");
    assert_eq!(newest.system_version_info, "49");
    client.handle_response(&newest);
    assert_eq!(serials(&client.known().view), services(&[("a", 49)]));
}

#[test]
fn a_sidecar_gets_its_own_workload_and_the_services_that_it_asks_for() {
    let (mut server, mut client) = (Session::new(peer("sidecar~default/web-1")), sidecar());
    server.handle_snapshot(snapshot(1, &services(&[("a", 1), ("b", 1)])));
    let requests = client.handle_connected();
    settle(&mut server, &mut client, requests);
    assert_eq!(client.known().view.workload.as_ref().map(|workload| workload.name.as_str()), Some("web-1"));
    assert!(client.known().view.services.is_empty());

    for wanted in ["a", "missing"] {
        let request = client.handle_subscribe(name(wanted)).expect("a request");
        settle(&mut server, &mut client, vec![request]);
    }
    assert!(client.handle_subscribe(name("a")).is_none(), "subscribed already");
    assert_eq!(serials(&client.known().view), services(&[("a", 1)]));
    assert_eq!(*client.known().absent, BTreeSet::from([name("missing")]));

    server.handle_snapshot(snapshot(2, &services(&[("missing", 7)])));
    settle(&mut server, &mut client, Vec::new());
    assert_eq!(serials(&client.known().view), services(&[("missing", 7)]));
    assert_eq!(*client.known().absent, BTreeSet::from([name("a")]));

    let request = client.handle_unsubscribe(vec![name("missing")]).pop().expect("a request");
    settle(&mut server, &mut client, vec![request]);
    assert!(client.known().view.services.is_empty());
    server.handle_snapshot(snapshot(3, &services(&[("missing", 8)])));
    assert!(server.poll_response().is_none(), "no longer subscribed");
}

#[test]
fn a_new_stream_carries_only_what_changed_meanwhile() {
    let (mut first, mut client) = (Session::new(peer("sidecar~default/web-1")), sidecar());
    first.handle_snapshot(snapshot(1, &services(&[("a", 1), ("b", 1), ("c", 1)])));
    let _before_the_stream = ["a", "b", "c", "d"].map(|wanted| client.handle_subscribe(name(wanted)));
    let requests = client.handle_connected();
    settle(&mut first, &mut client, requests);
    client.handle_disconnected();
    client.handle_subscribe(name("e"));

    let mut second = Session::new(peer("sidecar~default/web-1"));
    second.handle_snapshot(snapshot(5, &services(&[("a", 1), ("b", 2), ("d", 1)])));
    for request in client.handle_connected() {
        second.handle_request(&request).expect("valid");
    }
    let mut sent = BTreeMap::new();
    while let Some(response) = second.poll_response() {
        let names: Vec<_> = response.resources.iter().map(|resource| resource.name.clone()).collect();
        sent.insert(response.type_url.clone(), (names, response.removed_resources.clone()));
        let reply = client.handle_response(&response).expect("asked for").reply;
        second.handle_request(&reply).expect("an ack");
    }
    let (changed, removed) = &sent[Kind::Service.type_url()];
    assert_eq!(*changed, ["default/b", "default/d"]);
    assert_eq!(*removed, ["default/c", "default/e"]);
    assert!(sent[Kind::Mesh.type_url()].0.is_empty(), "unchanged, but the client learns that it is current");
    assert_eq!(serials(&client.known().view), services(&[("a", 1), ("b", 2), ("d", 1)]));
    assert_eq!(client.known().view.revision, 5);
}

#[test]
fn a_bad_resource_is_refused_by_name_and_the_others_apply() {
    let (mut server, mut client) = (Session::new(peer("gateway~isthmus-system/gw-1")), gateway());
    server.handle_snapshot(snapshot(1, &services(&[("a", 1), ("b", 1)])));
    let requests = client.handle_connected();
    settle(&mut server, &mut client, requests);

    let mut bad = Snapshot { revision: 2, ..(*snapshot(2, &services(&[("a", 2), ("b", 2)]))).clone() };
    let port = api::trust::Port { name: "http".into(), number: 70_000, protocol: "http".into() };
    bad.insert(Kind::Service, "default/b".into(), &api::discovery::Service { ports: vec![port], ..service("b", 2) });
    server.handle_snapshot(Arc::new(bad));
    let response = server.poll_response().expect("a change");
    let handled = client.handle_response(&response).expect("asked for");
    let refusal = handled.reply.error_detail.as_ref().expect("a nack").message.clone();
    assert!(refusal.contains("default/b") && refusal.contains("number"), "{refusal}");
    assert_eq!(serials(&client.known().view), services(&[("a", 2), ("b", 1)]));
    server.handle_request(&handled.reply).expect("a nack");
    assert!(server.poll_response().is_none(), "the same bytes are not sent again");
    assert_eq!(server.progress()[&Kind::Service].refused.as_deref(), Some(refusal.as_str()));

    client.handle_disconnected();
    let mut requests = client.handle_connected().into_iter();
    let services_request = requests.find(|request| request.type_url == Kind::Service.type_url());
    let versions = services_request.expect("a request for services").initial_resource_versions;
    assert_eq!(
        versions["default/b"],
        snapshot(1, &services(&[("b", 1)])).get(Kind::Service, "default/b").unwrap().version
    );
}

#[test]
fn roles_see_what_they_may() {
    let mut dns = Session::new(peer("dns~isthmus-system/dns"));
    dns.handle_snapshot(snapshot(1, &services(&[("a", 1)])));
    for kind in [Kind::Service, Kind::Workload, Kind::Cluster] {
        let request = DeltaDiscoveryRequest { type_url: kind.type_url().into(), ..Default::default() };
        dns.handle_request(&request).expect("valid");
        assert!(dns.poll_response().expect("an answer").resources.is_empty(), "{kind}");
    }
    let mut sidecar = Session::new(peer("sidecar~default/web-1"));
    sidecar.handle_snapshot(snapshot(1, &BTreeMap::new()));
    let request = DeltaDiscoveryRequest {
        type_url: Kind::Workload.type_url().into(),
        resource_names_subscribe: vec!["*".into(), "default/db-1".into()],
        ..Default::default()
    };
    sidecar.handle_request(&request).expect("valid");
    let response = sidecar.poll_response().expect("an answer");
    assert_eq!(response.resources.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["default/web-1"]);
    assert_eq!(response.removed_resources, ["default/db-1"]);

    let mut other_account = Session::new(peer("sidecar~default/db-1"));
    other_account.handle_snapshot(snapshot(1, &BTreeMap::new()));
    let request = DeltaDiscoveryRequest { type_url: Kind::Workload.type_url().into(), ..Default::default() };
    other_account.handle_request(&request).expect("valid");
    assert!(other_account.poll_response().expect("an answer").resources.is_empty(), "web may not be db's sidecar");
}

#[test]
fn a_role_without_its_identity_is_not_admitted() {
    let cases = [
        ("gateway~isthmus-system/gw-1", spiffe("default", "gateway"), true),
        ("dns~isthmus-system/dns", spiffe("isthmus-system", "gateway"), true),
        ("sidecar~payments/web-1", spiffe("default", "web"), false),
    ];
    for (text, identity, is_role) in cases {
        let refused = Peer::admit(identity, node(text)).expect_err(text);
        assert_eq!(matches!(refused, NotAdmitted::Role { .. }), is_role, "{text}");
    }
}

#[test]
fn unknown_types_and_too_many_names_end_the_stream() {
    let mut server = Session::new(peer("sidecar~default/web-1"));
    let unknown = DeltaDiscoveryRequest { type_url: "type.isthmus.dev/x".into(), ..Default::default() };
    assert_eq!(server.handle_request(&unknown), Err(Violation::UnknownType("type.isthmus.dev/x".into())));
    let greedy = DeltaDiscoveryRequest {
        type_url: Kind::Service.type_url().into(),
        resource_names_subscribe: (0..=super::MAX_NAMES).map(|index| format!("default/s{index}")).collect(),
        ..Default::default()
    };
    assert_eq!(server.handle_request(&greedy), Err(Violation::TooManyNames));
}

#[test]
fn what_the_cache_keeps_restores_the_client() {
    let (mut server, mut client) = (Session::new(peer("sidecar~default/web-1")), sidecar());
    server.handle_snapshot(snapshot(9, &services(&[("a", 1)])));
    let _before_the_stream = ["a", "missing"].map(|wanted| client.handle_subscribe(name(wanted)));
    let requests = client.handle_connected();
    settle(&mut server, &mut client, requests);

    let mut restored = sidecar();
    assert!(restored.import(&client.export()).is_empty());
    assert_eq!(restored.known().view, client.known().view);
    assert_eq!(restored.known().absent, client.known().absent);
    assert_eq!(restored.wanted(), client.wanted());
    client.handle_disconnected();
    assert_eq!(restored.handle_connected(), client.handle_connected());
}

fn gateway() -> ClientSession {
    ClientSession::new(NodeId { role: Role::Gateway, workload: "isthmus-system/gw-1".into() })
}

fn sidecar() -> ClientSession {
    ClientSession::new(NodeId { role: Role::Sidecar, workload: "default/web-1".into() })
}

#[derive(Debug, Clone)]
enum Step {
    Publish(BTreeMap<String, u64>),
    Deliver,
    Reconnect,
    Demand(String),
    Forget(String),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let some_name = "[a-e]";
    let step = prop_oneof![
        prop::collection::btree_map(some_name, 0..4_u64, 0..5).prop_map(Step::Publish),
        Just(Step::Deliver),
        Just(Step::Reconnect),
        some_name.prop_map(Step::Demand),
        some_name.prop_map(Step::Forget),
    ];
    prop::collection::vec(step, 1..30)
}

proptest! {
    /// Whatever is published, lost and reconnected in between: once both sides are silent, the view is the snapshot.
    #[test]
    fn a_client_converges_to_the_newest_snapshot(steps in steps(), is_gateway in any::<bool>()) {
        let node_text = if is_gateway { "gateway~isthmus-system/gw-1" } else { "sidecar~default/web-1" };
        let mut client = if is_gateway { gateway() } else { sidecar() };
        let mut server = Session::new(peer(node_text));
        let mut published = BTreeMap::new();
        let mut wanted = BTreeSet::new();
        let mut revision = 1;
        server.handle_snapshot(snapshot(revision, &published));
        for request in client.handle_connected() {
            server.handle_request(&request).unwrap();
        }
        for step in steps {
            match step {
                Step::Publish(services) => {
                    revision += 1;
                    server.handle_snapshot(snapshot(revision, &services));
                    published = services;
                }
                Step::Deliver => {
                    if let Some(response) = server.poll_response() {
                        let reply = client.handle_response(&response).unwrap().reply;
                        server.handle_request(&reply).unwrap();
                    }
                }
                Step::Reconnect => {
                    // A response is lost on the way.
                    let _lost = server.poll_response();
                    client.handle_disconnected();
                    server = Session::new(peer(node_text));
                    server.handle_snapshot(snapshot(revision, &published));
                    for request in client.handle_connected() {
                        server.handle_request(&request).unwrap();
                    }
                }
                Step::Demand(text) => {
                    wanted.insert(text.clone());
                    if let Some(request) = client.handle_subscribe(name(&text)) {
                        server.handle_request(&request).unwrap();
                    }
                }
                Step::Forget(text) => {
                    wanted.remove(&text);
                    for request in client.handle_unsubscribe(vec![name(&text)]) {
                        server.handle_request(&request).unwrap();
                    }
                }
            }
        }
        settle(&mut server, &mut client, Vec::new());
        let mut expected = published.clone();
        if !is_gateway {
            expected.retain(|text, _| wanted.contains(text));
            let absent: BTreeSet<_> = wanted.iter().filter(|text| !published.contains_key(*text)).collect();
            let absent: BTreeSet<_> = absent.into_iter().map(|text| name(text)).collect();
            prop_assert_eq!(&*client.known().absent, &absent);
        }
        prop_assert_eq!(serials(&client.known().view), expected);
        prop_assert_eq!(client.known().view.mesh.as_ref().map(|mesh| mesh.cluster.as_str()), Some("east"));
    }
}
