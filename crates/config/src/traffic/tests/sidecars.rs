//! Sidecars.

use mesh::{AppEndpoint, Destination, Host, OutboundPolicy, Protocol, UnknownHosts};

use super::*;

fn sidecar(metadata: &str, spec: &str) -> String {
    format!("---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {metadata}\nspec: {spec}\n")
}

fn outbound(compiled: &Compiled) -> OutboundPolicy {
    compiled.workloads.get("default/reviews-v1-0").map(|config| config.outbound.clone()).unwrap_or_default()
}

#[test]
fn the_nearest_sidecar_counts() {
    let root = sidecar("{name: root, namespace: istio-system}", "{egress: [{hosts: ['istio-system/*']}]}");
    let own = sidecar("{name: own}", "{egress: [{hosts: ['./*']}]}");
    let selecting =
        sidecar("{name: some}", "{workloadSelector: {labels: {app: reviews}}, egress: [{hosts: ['*/a.example.com']}]}");
    let other = sidecar("{name: other}", "{workloadSelector: {labels: {app: x}}, egress: [{hosts: ['*/*']}]}");
    let cases = [
        (vec![root.clone()], "root"),
        (vec![root.clone(), own.clone()], "own"),
        (vec![root, own, selecting, other], "some"),
    ];
    for (objects, expected) in cases {
        assert_eq!(outbound(&compiled(&objects.concat())).origin.unwrap().name, expected);
    }
}

#[test]
fn hosts_have_namespaces_and_ports() {
    let text = "{egress: [{port: {number: 9080, protocol: HTTP}, hosts: ['./reviews.default.svc.cluster.local']}, \
                {hosts: ['*/*', '~/*', 'shop/*.example.com']}]}";
    let hosts = outbound(&compiled(&sidecar("{name: a}", text))).hosts.unwrap();
    let hosts: Vec<_> = hosts
        .iter()
        .map(|it| (it.namespace.as_ref().map(|it| it.as_str().to_owned()), it.host.to_string(), it.port))
        .collect();
    let expected = [
        (Some("default".to_owned()), "reviews.default.svc.cluster.local".to_owned(), Some(9080)),
        (None, "*".to_owned(), None),
        (Some("shop".to_owned()), "*.example.com".to_owned(), None),
    ];
    assert_eq!(hosts, expected);
}

#[test]
fn unknown_hosts_are_refused_or_sent_through_a_proxy() {
    let refused = compiled(&sidecar("{name: a}", "{outboundTrafficPolicy: {mode: REGISTRY_ONLY}}"));
    assert_eq!((outbound(&refused).unknown, outbound(&refused).hosts), (UnknownHosts::Refuse, None));
    let through = compiled(&sidecar(
        "{name: a}",
        "{outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: reviews.default.svc.cluster.local, port: {number: 9080}}}}",
    ));
    let host = Host::Cluster(name("default/reviews"));
    let expected = UnknownHosts::Through(Destination { host, subset: None, port: Some(9080) });
    assert_eq!(outbound(&through).unknown, expected);
}

#[test]
fn what_has_no_effect_is_said() {
    let compiled = compiled(&sidecar(
        "{name: a}",
        "{ingress: [{port: {number: 9080, protocol: HTTP, name: http}, defaultEndpoint: '127.0.0.1:8080'}], \
         egress: [{port: {number: 80, protocol: HTTP}, bind: 127.0.0.1, captureMode: NONE, hosts: ['*/*']}], \
         inboundConnectionPool: {tcp: {maxConnections: 5}}}",
    ));
    let paths = ["spec.egress[0].bind", "spec.egress[0].captureMode", "spec.egress[0].port.protocol"]
        .map(|path| ("ISM0001", path));
    assert_eq!(found(&compiled), paths);
    let pool = compiled.workloads["default/reviews-v1-0"].inbound.pool.as_ref().unwrap();
    assert_eq!(pool.max_connections, Some(5));
}

#[test]
fn of_two_for_one_workload_the_first_counts() {
    let compiled = compiled(
        &[
            sidecar("{name: b}", "{outboundTrafficPolicy: {mode: ALLOW_ANY}}"),
            sidecar("{name: a}", "{outboundTrafficPolicy: {mode: REGISTRY_ONLY}}"),
        ]
        .concat(),
    );
    assert_eq!(outbound(&compiled).unknown, UnknownHosts::Refuse);
    assert_eq!(found(&compiled), [("IST0111", "spec.workloadSelector")]);
}

#[test]
fn listeners_say_where_the_application_is() {
    let text = "{inboundConnectionPool: {tcp: {maxConnections: 9}}, ingress: [\
                {port: {number: 9080, protocol: HTTP2, name: a}, defaultEndpoint: '127.0.0.1:8080', \
                connectionPool: {tcp: {maxConnections: 3}}}, \
                {port: {number: 1, protocol: TCP, name: b}, defaultEndpoint: ':2'}, \
                {port: {number: 3, protocol: HTTP, name: c}}]}";
    let compiled = compiled(&sidecar("{name: a}", text));
    let inbound = &compiled.workloads["default/reviews-v1-0"].inbound;
    let listeners: Vec<_> = inbound.listeners.iter().map(|(port, it)| (*port, it.protocol, it.endpoint)).collect();
    let expected = [
        (1, Protocol::Tcp, Some(AppEndpoint::Instance(2))),
        (3, Protocol::Http, None),
        (9080, Protocol::Http2, Some(AppEndpoint::Loopback(8080))),
    ];
    assert_eq!(listeners, expected);
    let most = |port| inbound.pool_of(port).map(|(pool, own)| (pool.max_connections, own));
    assert_eq!((most(9080), most(3)), (Some((Some(3), Some(9080))), Some((Some(9), None))));
}
