//! `sessionAffinity` of Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::balance::{Load, pick};
use crate::fixture::{Mesh, service};
use crate::host::Host;
use crate::model::{Labels, View};
use crate::names::Namespace;
use crate::policy::{Balancer, DestinationRules, ObjectRef, PortPolicies, TrafficPolicy, Visibility};
use crate::request::ConnectionFacts;
use crate::route::{RouteDecision, RouteRequest, Target, route};

fn view(change: impl FnOnce(&mut crate::policy::ServiceConfig)) -> View {
    let mut view = Mesh::east().local("cart", 5).view();
    let mut cart = view.services[&service("cart")].as_ref().clone();
    change(Arc::make_mut(&mut cart.config));
    view.services.insert(service("cart"), Arc::new(cart));
    view
}

fn decide(view: &View, client: u8) -> RouteDecision {
    let host = Host::parse("cart", &Namespace::new("default").unwrap());
    let source_ip = Some(IpAddr::from([10, 0, 0, client]));
    let connection = ConnectionFacts { source_ip, ..ConnectionFacts::default() };
    route(view, &RouteRequest { connection, ..RouteRequest::to(&host, 9080) })
}

/// The endpoints that a client meets in many requests; `gone` cannot be used.
fn met(view: &View, client: u8, gone: &str) -> BTreeSet<String> {
    let name = |target: &Target| match target {
        Target::Local { endpoint, .. } => endpoint.clone(),
        other => panic!("{other:?}"),
    };
    let decision = decide(view, client);
    let load = |target: &Target| Load { out: name(target) == gone, ..Load::default() };
    let mix = |turn: u64| (turn + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..50).map(|turn| name(&pick(&decision, &load, mix(turn)).unwrap().target)).collect()
}

#[test]
fn a_client_stays_with_its_endpoint_while_that_can_be_used() {
    let view = view(|config| config.session_affinity = Some(60));
    let mut all = BTreeSet::new();
    for client in 0..12 {
        let first = met(&view, client, "");
        assert_eq!(first.len(), 1, "client {client}");
        let own = first.first().unwrap();
        let next = met(&view, client, own);
        assert!(next.len() == 1 && next != first, "client {client} moves once: {next:?}");
        assert_eq!(met(&view, client, next.first().unwrap()), first, "what becomes of others moves nobody");
        all.extend(first);
    }
    assert!(all.len() > 1, "clients are spread: {all:?}");
}

#[test]
fn without_it_or_with_a_rule_that_balances_otherwise_requests_are_spread() {
    assert!(met(&view(|_| ()), 1, "").len() > 1);
    let policy = Arc::new(TrafficPolicy { balancer: Balancer::Random, ..TrafficPolicy::default() });
    let ruled = view(|config| {
        config.session_affinity = Some(60);
        let origin = ObjectRef { kind: "DestinationRule".into(), namespace: "default".into(), name: "cart".into() };
        config.destinations.push(Arc::new(DestinationRules {
            origin,
            visible_to: Visibility::default(),
            of_service: true,
            workload_selector: Labels::new(),
            policy: PortPolicies { any: policy, ports: BTreeMap::new() },
            subsets: BTreeMap::new(),
        }));
    });
    assert!(met(&ruled, 1, "").len() > 1);
}
