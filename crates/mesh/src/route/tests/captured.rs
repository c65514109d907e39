//! Connections that were captured on their way to an address: whose it is decides.

use std::net::IpAddr;
use std::sync::Arc;

use super::language::view;
use super::question::{Asked, check};
use super::table;
use crate::fixture::{identity, service};
use crate::model::{AddressEntry, Pod, Protocol};

const CONFIG: &str = "
    service reviews v1*2 v2? v3! ports=80 ip=10.96.0.1 vip=243.0.0.1 export
    import west reviews v1
    service db v1*2 ports=3306 headless
    vs reviews
    -> details";

#[test]
fn a_pod_that_is_dialled_is_met_itself() {
    table(
        CONFIG,
        &[
            ("a pod", "tcp 10.1.0.2:1080", "reviews:80 v1-2"),
            ("a pod by its IPv6 address", "tcp [fd00::2]:1080", "reviews:80 v1-2"),
            ("its service's port is not the pod's there either", "tcp [fd00::2]:80", "pass"),
            ("rules are for those who dial the service", "GET 10.1.0.2:1080/", "reviews:80 v1-2"),
            ("a pod that is not ready", "tcp 10.1.0.3:1080", "reviews:80 v2-1"),
            ("a pod without a sidecar", "tcp 10.1.0.4:1080", "reviews:80 v3-1!"),
            ("the service's port is not the pod's", "tcp 10.1.0.2:80", "pass"),
            ("a pod of a headless service", "tcp 10.1.0.2:4306", "db:3306 v1-2"),
            ("nobody's address", "tcp 10.1.0.9:1080", "pass"),
        ],
    );
}

#[test]
fn datagrams_go_to_ports_of_udp_only() {
    let mut known = view(CONFIG);
    let mut db = (*known.services[&service("db")]).clone();
    db.ports[0].protocol = Protocol::Udp;
    known.services.insert(db.name.clone(), Arc::new(db));
    let cases = [
        ("by name", "udp db:3306", "db:3306 v1-1 v1-2"),
        ("by name, TCP", "tcp db:3306", "refuse unknown-port"),
        ("a pod", "udp 10.1.0.2:4306", "db:3306 v1-2"),
        ("that number of TCP is nobody's", "tcp 10.1.0.2:4306", "pass"),
        ("a port of TCP is nobody's for datagrams", "udp 10.1.0.2:1080", "pass"),
        ("nor by the service's address", "udp 10.96.0.1:80", "refuse unknown-port"),
        ("outside", "udp 192.0.2.1:53", "pass"),
    ];
    for (name, request, expected) in cases {
        assert_eq!(check(&known, request), expected, "{name}");
    }
    let passed = Asked::parse("udp 192.0.2.1:53").decide(&known).0;
    assert_eq!(passed.protocol, Protocol::Udp, "it is carried as datagrams");
}

#[test]
fn behind_the_name_of_a_headless_service_is_the_pod_that_was_dialled() {
    table(
        CONFIG,
        &[
            ("by name", "tcp db:3306", "db:3306 v1-1 v1-2"),
            ("by name, at a pod", "tcp db:3306 to=10.1.0.2", "db:3306 v1-2"),
            ("by name, at a pod's IPv6 address", "tcp db:3306 to=fd00::2", "db:3306 v1-2"),
            ("by name, elsewhere", "tcp db:3306 to=192.0.2.1", "db:3306 v1-1 v1-2"),
        ],
    );
}

#[test]
fn a_pod_proves_who_it_is_also_where_no_service_leads() {
    let entry = |address: &str, services: &[&str], account: Option<&str>| {
        let address: IpAddr = address.parse().unwrap();
        let pod = Pod { name: "pod".into(), identity: account.map(|account| identity("east.demo", account)) };
        let services = services.iter().map(|name| service(name)).collect();
        (address, Arc::new(AddressEntry { address, services, pod: Some(pod) }))
    };
    let mut known = view(CONFIG);
    known.addresses = [
        entry("10.1.0.2", &["reviews"], Some("reviews")),
        entry("10.1.0.7", &["missing", "reviews"], Some("missing")),
        entry("10.1.0.8", &[], None),
    ]
    .into();
    let cases = [
        ("a port of a service", "tcp 10.1.0.2:1080", "reviews:80 v1-2"),
        ("another port", "tcp 10.1.0.2:22", " pod"),
        ("its service is asked for first", "tcp 10.1.0.7:1080", " pod; wants missing.default"),
        ("a pod without a sidecar", "tcp 10.1.0.8:22", "pass"),
        ("not by a name", "tcp www.example.org:22", "pass"),
    ];
    for (name, asked, expected) in cases {
        assert_eq!(check(&known, asked), expected, "{name}");
    }
    let mut only = view(&format!("{CONFIG}\nsidecar unknown=refuse"));
    only.addresses = known.addresses;
    assert_eq!(check(&only, "tcp 10.1.0.2:22"), "refuse unknown-host", "REGISTRY_ONLY knows ports of services");
    assert_eq!(check(&only, "tcp 10.1.0.2:1080"), "reviews:80 v1-2");
}
