//! No field is ignored in silence: what has no effect has a finding that names it.

use std::collections::BTreeSet;

use federation_crds::Kind;

use super::*;
use crate::support::{self, Support};

/// Kind, spec and the fields that are findings of code ISM0001; `reviews` has a sidecar, `ratings` has no endpoints.
const CASES: &[(&str, &str, &[&str])] = &[
    (
        "DestinationRule",
        "{host: reviews, trafficPolicy: {connectionPool: {tcp: {maxConnections: 1, connectTimeout: 1s, idleTimeout: 1s, \
         tcpKeepalive: {time: 1s}, maxConnectionDuration: 1s}, http: {http1MaxPendingRequests: 1, http2MaxRequests: 1, \
         maxRetries: 1, h2UpgradePolicy: UPGRADE, maxRequestsPerConnection: 1, idleTimeout: 1s, maxConcurrentStreams: 1, \
         http2KeepAlive: {interval: 1s}}}}}",
        &[],
    ),
    (
        "DestinationRule",
        "{host: ratings, trafficPolicy: {proxyProtocol: {version: V1}, connectionPool: {tcp: {tcpKeepalive: {time: 1s}, \
         maxConnectionDuration: 1s}, http: {maxRequestsPerConnection: 1, maxConcurrentStreams: 1}}}}",
        &[],
    ),
    (
        "DestinationRule",
        "{host: '*.default.svc.cluster.local', trafficPolicy: {proxyProtocol: {version: V2}}}",
        &["spec.trafficPolicy.proxyProtocol"],
    ),
    (
        "DestinationRule",
        "{host: cart.shop.svc.clusterset.local, trafficPolicy: {tunnel: {targetHost: db.example, targetPort: 1}}}",
        &["spec.trafficPolicy.tunnel"],
    ),
    (
        "DestinationRule",
        "{host: reviews, trafficPolicy: {tls: {mode: ISTIO_MUTUAL, sni: a.b, subjectAltNames: [a]}}}",
        &["spec.trafficPolicy.tls.sni", "spec.trafficPolicy.tls.subjectAltNames"],
    ),
    (
        "DestinationRule",
        "{host: reviews, trafficPolicy: {retryBudget: {percent: 10, budgetInterval: 1s}, \
         loadBalancer: {zoneAwareLbSetting: {enabled: true}, warmup: {duration: 1s}, consistentHash: {useSourceIp: false}}}}",
        &[
            "spec.trafficPolicy.loadBalancer.consistentHash.useSourceIp",
            "spec.trafficPolicy.loadBalancer.warmup",
            "spec.trafficPolicy.loadBalancer.zoneAwareLbSetting",
        ],
    ),
    (
        "VirtualService",
        "{hosts: [reviews], gateways: [ns/gw], http: [{match: [{statPrefix: a, headers: {'@request.auth.claims.sub': {exact: x}}, \
         withoutHeaders: {'@request.auth.claims.iss': {exact: x}}}], retries: {attempts: 1, \
         retryOn: 'http3-post-connect-failure,5xx'}, headers: {request: {set: {a: '%UPSTREAM_HOST%', b: '50% or 60%'}}, \
         response: {add: {c: '100%%', d: 'x%REQ(a)%y'}}}, route: [{destination: {host: reviews}, \
         headers: {request: {add: {e: '%PROTOCOL% %HOSTNAME%'}}}}]}]}",
        &[
            "spec.http[0].headers.request.set[\"a\"]",
            "spec.http[0].match[0].statPrefix",
            "spec.http[0].retries.retryOn",
            "spec.http[0].route[0].headers.request.add[\"e\"]",
        ],
    ),
    (
        "Sidecar",
        "{ingress: [{port: {number: 9080, protocol: HTTP, name: http}, defaultEndpoint: '127.0.0.1:8080'}], \
         egress: [{port: {number: 80, protocol: HTTP, name: a}, bind: 127.0.0.1, captureMode: NONE, hosts: ['*/*']}], \
         inboundConnectionPool: {tcp: {maxConnections: 5, connectTimeout: 1s, idleTimeout: 1s, tcpKeepalive: {time: 1s}, \
         maxConnectionDuration: 1s}, http: {http1MaxPendingRequests: 1, http2MaxRequests: 1, maxRequestsPerConnection: 1, \
         maxRetries: 1, idleTimeout: 1s, useClientProtocol: true, maxConcurrentStreams: 1, http2KeepAlive: {interval: 1s}}}}",
        &[
            "spec.egress[0].bind",
            "spec.egress[0].captureMode",
            "spec.egress[0].port.protocol",
            "spec.inboundConnectionPool.http.http2KeepAlive",
            "spec.inboundConnectionPool.http.idleTimeout",
            "spec.inboundConnectionPool.http.maxConcurrentStreams",
            "spec.inboundConnectionPool.http.maxRequestsPerConnection",
            "spec.inboundConnectionPool.http.maxRetries",
            "spec.inboundConnectionPool.http.useClientProtocol",
            "spec.inboundConnectionPool.tcp.connectTimeout",
            "spec.inboundConnectionPool.tcp.idleTimeout",
            "spec.inboundConnectionPool.tcp.maxConnectionDuration",
            "spec.inboundConnectionPool.tcp.tcpKeepalive",
        ],
    ),
    (
        "Sidecar",
        "{ingress: [{port: {number: 9080, protocol: HTTP, name: http}, bind: 10.0.0.1, captureMode: NONE, \
         defaultEndpoint: 'unix:///s', tls: {mode: SIMPLE, privateKey: a, serverCertificate: b}, \
         connectionPool: {tcp: {maxConnections: 5, connectTimeout: 1s, idleTimeout: 1s, tcpKeepalive: {time: 1s}, \
         maxConnectionDuration: 1s}, http: {http1MaxPendingRequests: 1, http2MaxRequests: 1, maxRequestsPerConnection: 1, \
         maxRetries: 1, idleTimeout: 1s, useClientProtocol: true, maxConcurrentStreams: 1, http2KeepAlive: {interval: 1s}}}}, \
         {port: {number: 1, protocol: TCP, name: tcp}, defaultEndpoint: '0.0.0.0:2'}]}",
        &[
            "spec.ingress",
            "spec.ingress[0].bind",
            "spec.ingress[0].captureMode",
            "spec.ingress[0].connectionPool.http.http2KeepAlive",
            "spec.ingress[0].connectionPool.http.idleTimeout",
            "spec.ingress[0].connectionPool.http.maxConcurrentStreams",
            "spec.ingress[0].connectionPool.http.maxRequestsPerConnection",
            "spec.ingress[0].connectionPool.http.maxRetries",
            "spec.ingress[0].connectionPool.http.useClientProtocol",
            "spec.ingress[0].connectionPool.tcp.connectTimeout",
            "spec.ingress[0].connectionPool.tcp.idleTimeout",
            "spec.ingress[0].connectionPool.tcp.maxConnectionDuration",
            "spec.ingress[0].connectionPool.tcp.tcpKeepalive",
            "spec.ingress[0].defaultEndpoint",
            "spec.ingress[0].tls",
        ],
    ),
    (
        "Sidecar",
        "{ingress: [{port: {number: 9080, protocol: HTTP, name: http}, \
         connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}]}",
        &["spec.ingress[0].connectionPool.http.h2UpgradePolicy"],
    ),
    (
        "Sidecar",
        "{inboundConnectionPool: {http: {h2UpgradePolicy: UPGRADE}}}",
        &["spec.inboundConnectionPool.http.h2UpgradePolicy"],
    ),
    (
        "ServiceEntry",
        "{hosts: [a.example], resolution: STATIC, ports: [{number: 53, name: dns, protocol: UDP}, {number: 80, name: http, \
         protocol: HTTP}], endpoints: [{address: 127.0.0.9, network: net}]}",
        &["spec.endpoints[0].network", "spec.ports[0].protocol"],
    ),
];

fn object(kind: &str, spec: &str) -> String {
    let (kind, name) = (kind, kind.to_ascii_lowercase());
    format!("---\napiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

fn without_effect(text: &str) -> Vec<String> {
    let compiled = compiled(text);
    let findings = compiled.findings.iter().filter(|finding| finding.code == crate::analyze::codes::WITHOUT_EFFECT);
    findings
        .inspect(|finding| assert!(!finding.hint.is_empty(), "{finding}"))
        .map(|finding| finding.path.clone())
        .collect()
}

#[test]
fn what_has_no_effect_has_a_finding_that_names_it() {
    for (kind, spec, fields) in CASES {
        assert_eq!(without_effect(&object(kind, spec)), *fields, "{kind} {spec}");
    }
}

/// The path with the marks of the support table: `[0]` → `[]`.
fn field(path: &str) -> String {
    path.replace("[0]", "[]")
}

#[test]
fn every_field_that_the_support_table_calls_without_effect_has_a_finding() {
    let entry = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: w, labels: {a: b}}\nspec: {address: 127.0.0.9, \
                 network: net, labels: {a: b}}\n---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: s}\n\
                 spec: {hosts: [b.example], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], \
                 workloadSelector: {labels: {a: b}}}\n";
    let mut named: BTreeSet<(String, String)> =
        without_effect(entry).iter().map(|path| ("WorkloadEntry".to_owned(), field(path))).collect();
    for (kind, spec, _) in CASES {
        named.extend(without_effect(&object(kind, spec)).iter().map(|path| ((*kind).to_owned(), field(path))));
    }
    let mut silent = Vec::new();
    for kind in support::kinds() {
        for row in support::rows(kind).unwrap().into_iter().filter(|row| row.support == Support::NoEffect) {
            let whole = named.iter().any(|(of, path)| {
                of == kind.as_str() && (row.field == *path || row.field.starts_with(&format!("{path}.")))
            });
            if !whole {
                silent.push(format!("{kind}: {}", row.field));
            }
        }
    }
    assert!(silent.is_empty(), "{silent:#?}");
    assert!(support::kinds().any(|kind| kind == Kind::WorkloadEntry));
}
