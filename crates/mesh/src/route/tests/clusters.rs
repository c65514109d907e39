//! The own cluster and the others.

use crate::fixture::{Mesh, cluster, identity, service};
use crate::host::Host;
use crate::model::View;
use crate::names::Namespace;
use crate::reason::{Denial, Reason};
use crate::route::{RouteDecision, RouteOutcome, RouteRequest, Target, route};

fn decide(view: &View, host: &str, port: u16) -> RouteDecision {
    let namespace = Namespace::new("default").unwrap();
    route(view, &RouteRequest::to(&Host::parse(host, &namespace), port))
}

fn places(decision: &RouteDecision) -> Vec<Vec<String>> {
    let RouteOutcome::Forward { tiers } = &decision.outcome else { return Vec::new() };
    let place = |target: &Target| match target {
        Target::Local { endpoint, .. } => endpoint.clone(),
        Target::Named { host, .. } => host.clone(),
        Target::Remote { cluster, weight, .. } => format!("{cluster}*{weight}"),
    };
    tiers.iter().map(|tier| tier.targets.iter().map(place).collect()).collect()
}

#[test]
fn pods_without_a_sidecar_are_reached_only_where_their_export_lets_gateways_speak_for_them() {
    let there = |account| Mesh::east().import("reviews", "west", 2).unmeshed_there("reviews", "west", account).view();
    let decide = |view: &View| decide(view, "reviews.default.svc.clusterset.local", 9080);
    let decision = decide(&there(Some("old")));
    let RouteOutcome::Forward { tiers } = &decision.outcome else { panic!("{decision:?}") };
    let Target::Remote { expected, unmeshed, .. } = &tiers[0].targets[0] else { panic!("not remote") };
    assert_eq!((expected, *unmeshed), (&[identity("west.demo", "old")].into(), true));
    let refused = decide(&there(None));
    assert_eq!(refused.outcome, RouteOutcome::Refuse);
    let why = |reason: &Reason| matches!(reason, Reason::RemoteUnusable { why, .. } if why.contains("no sidecar"));
    assert!(refused.reasons.iter().any(why), "{:?}", refused.reasons);
}

#[test]
fn local_endpoints_come_before_other_clusters() {
    let view = Mesh::east().local("reviews", 2).import("reviews", "west", 3).view();
    let decision = decide(&view, "reviews.default.svc.clusterset.local", 9080);
    assert_eq!(places(&decision), [vec!["reviews-1", "reviews-2"], vec!["west*3"]]);
    assert_eq!(decision.reasons[0], Reason::LocalFirst { endpoints: 2 });
    assert_eq!(decision.service, Some(service("reviews")));
}

#[test]
fn short_and_cluster_local_names_stay_in_the_cluster_unless_the_service_is_global() {
    let mesh = Mesh::east().local("reviews", 1).import("reviews", "west", 3);
    for host in ["reviews", "reviews.default.svc.cluster.local"] {
        let decision = decide(&mesh.clone().view(), host, 9080);
        assert_eq!(places(&decision), [vec!["reviews-1"]], "{host}");
        assert!(decision.reasons.contains(&Reason::ClusterScope));
    }
    let global = decide(&mesh.global("reviews").view(), "reviews", 9080);
    assert_eq!(places(&global), [vec!["reviews-1"], vec!["west*3"]]);
}

#[test]
fn the_identity_expected_of_a_remote_server_is_of_the_remote_trust_domain() {
    let view = Mesh::east().import("reviews", "west", 1).view();
    let RouteOutcome::Forward { tiers } = decide(&view, "reviews.default.svc.clusterset.local", 9080).outcome else {
        panic!("not forwarded")
    };
    let Target::Remote { expected, .. } = &tiers[0].targets[0] else { panic!("not remote") };
    let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
    assert_eq!(expected, ["spiffe://west.demo/ns/default/sa/reviews"]);
}

#[test]
fn what_cannot_be_served_is_refused_with_the_reason() {
    let not_exported = Mesh::east().private("reviews", 1);
    let cases: [(&str, View, &str, u16, Reason, Denial); 5] = [
        (
            "nobody exports it",
            not_exported.view(),
            "reviews.default.svc.clusterset.local",
            9080,
            Reason::UnknownService,
            Denial::NotExported,
        ),
        (
            "no such port",
            Mesh::east().local("reviews", 1).view(),
            "reviews",
            1,
            Reason::UnknownPort { port: 1 },
            Denial::UnknownPort,
        ),
        (
            "no gateway of our own",
            Mesh::east().import("reviews", "west", 1).without_gateways().view(),
            "reviews.default.svc.clusterset.local",
            9080,
            Reason::NoGateway,
            Denial::ClusterUnreachable,
        ),
        (
            "all remote endpoints are gone",
            Mesh::east().import("reviews", "west", 0).view(),
            "reviews.default.svc.clusterset.local",
            9080,
            Reason::RemoteUnusable { cluster: cluster("west"), why: "no healthy endpoint" },
            Denial::NoEndpoint,
        ),
        (
            "not a service name",
            Mesh::east().view(),
            "west.reviews.default.svc.clusterset.local",
            80,
            Reason::UnknownService,
            Denial::NotExported,
        ),
    ];
    for (name, view, host, port, reason, denial) in cases {
        let decision = decide(&view, host, port);
        assert_eq!(decision.outcome, RouteOutcome::Refuse, "{name}");
        assert_eq!(decision.denial(), Some(denial), "{name}");
        assert!(decision.reasons.contains(&reason), "{name}: {:?}", decision.reasons);
    }
}

#[test]
fn a_stale_cluster_is_used_and_said_to_be_stale() {
    let view = Mesh::east().import("reviews", "west", 1).stale("west").view();
    let decision = decide(&view, "reviews.default.svc.clusterset.local", 9080);
    assert_eq!(places(&decision), [vec!["west*1"]]);
    assert!(decision.reasons.contains(&Reason::Remote { cluster: cluster("west"), healthy: 1, stale: true }));
}

#[test]
fn counts_that_another_cluster_makes_up_overflow_nothing() {
    let mut view = Mesh::east().import("reviews", "west", u32::MAX).view();
    let service = view.services.get_mut(&service("reviews")).map(std::sync::Arc::make_mut).unwrap();
    let import = service.imports.get_mut(&cluster("west")).unwrap();
    let mut second = import.groups[0].clone();
    second.key.locality = "zone-2".into();
    import.groups.push(second);
    let decision = decide(&view, "reviews.default.svc.clusterset.local", 9080);
    let remote = Reason::Remote { cluster: cluster("west"), healthy: u32::MAX, stale: false };
    assert!(decision.reasons.contains(&remote), "{:?}", decision.reasons);
}

#[test]
fn what_the_mesh_does_not_know_passes_through() {
    let view = Mesh::east().view();
    for host in ["www.example.org", "10.1.2.3", "unknown.default.svc.cluster.local"] {
        assert_eq!(decide(&view, host, 80).outcome, RouteOutcome::Passthrough, "{host}");
    }
}
