//! Single pods of headless services, of other clusters too.

use std::sync::Arc;

use crate::fixture::{Mesh, cluster, identity, service};
use crate::host::Host;
use crate::model::{GroupKey, ImportPod, Labels, View};
use crate::names::Namespace;
use crate::route::{RouteOutcome, RouteRequest, Target, route};

/// `db` is headless: two pods here, two in west.
fn view() -> View {
    let mut view = Mesh::east().local("db", 2).import("db", "west", 2).view();
    let mut db = view.services[&service("db")].as_ref().clone();
    db.headless = true;
    let group = GroupKey { service_account: "db".into(), labels: Labels::new(), locality: String::new() };
    let pod = |number: u8, hostname: Option<&str>| ImportPod {
        name: format!("db-{number}"),
        hostname: hostname.map(str::to_owned),
        addresses: vec![[242, 0, 0, number].into()],
        group: group.clone(),
    };
    db.imports.get_mut(&cluster("west")).unwrap().pods = vec![pod(1, Some("first")), pod(2, None)];
    view.services.insert(service("db"), Arc::new(db));
    view
}

fn shown(target: &Target) -> String {
    match target {
        Target::Local { endpoint, .. } => endpoint.clone(),
        Target::Named { host, .. } => host.clone(),
        Target::Remote { cluster, pod, expected, .. } => {
            assert_eq!(*expected, [identity("west.demo", "db")].into());
            format!("{cluster}/{}", pod.as_deref().unwrap_or("any"))
        }
    }
}

fn check(view: &View, host: &str, expected: &str) {
    let named = Host::parse(host, &Namespace::new("default").unwrap());
    let decision = route(view, &RouteRequest::to(&named, 9080));
    let found = match &decision.outcome {
        RouteOutcome::Forward { tiers } => {
            let tier = |tier: &crate::route::Tier| tier.targets.iter().map(shown).collect::<Vec<_>>().join(" ");
            tiers.iter().map(tier).collect::<Vec<_>>().join(", ")
        }
        RouteOutcome::Passthrough => "pass".into(),
        _ => "refused".into(),
    };
    assert_eq!(found, expected, "{host}: {:?}", decision.reasons);
}

#[test]
fn a_pod_is_met_by_its_name_and_by_its_address() {
    let view = view();
    let cases = [
        ("first.west.db.default.svc.clusterset.local", "west/db-1"),
        ("db-2.west.db.default.svc.clusterset.local", "west/db-2"),
        ("242-0-0-2.west.db.default.svc.clusterset.local", "west/db-2"),
        ("db-1.west.db.default.svc.clusterset.local", "refused"),
        ("db-9.west.db.default.svc.clusterset.local", "refused"),
        ("first.north.db.default.svc.clusterset.local", "refused"),
        ("db-1.east.db.default.svc.clusterset.local", "db-1"),
        ("127-0-0-22.east.db.default.svc.clusterset.local", "db-2"),
        ("db-2.db.default.svc.cluster.local", "db-2"),
        ("first.db.default.svc.cluster.local", "pass"),
        ("242.0.0.1", "west/db-1"),
        ("127.0.0.21", "db-1"),
        ("242.0.0.9", "pass"),
        ("db.default.svc.clusterset.local", "db-1 db-2, west/any"),
    ];
    for (host, expected) in cases {
        check(&view, host, expected);
    }
}

#[test]
fn without_gateways_or_trust_a_pod_of_another_cluster_is_not_met() {
    let mut without = view();
    without.gateways.clear();
    check(&without, "first.west.db.default.svc.clusterset.local", "refused");
    let mut without = view();
    without.clusters.clear();
    check(&without, "first.west.db.default.svc.clusterset.local", "refused");
}

#[test]
fn a_service_that_is_not_shared_has_no_pods_in_the_clusterset() {
    let view = Mesh::east().private("db", 2).view();
    check(&view, "db-1.east.db.default.svc.clusterset.local", "refused");
}
