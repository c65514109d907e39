//! AuthorizationPolicy, field by field: what a rule of one kind lets in, over HTTP and TCP; AUDIT and dry runs; names of old
//! trust domains; the client behind trusted proxies.

#![expect(clippy::expect_used, reason = "whatever fails here is a failed test")]

use std::net::SocketAddr;
use std::time::Duration;

use fleet::call::{Call, connect};
use multicluster_tests::{Asked, Scenario, eventually, shoot, step};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const FLEET: &str = "
name: istio-authorization
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    gateways: 1
    ingress: [{}]
    workloads:
      - {name: web, serviceAccount: web, labels: {app: web}}
      - {name: frontend, serviceAccount: frontend, labels: {app: frontend}}
      - name: api
        serviceAccount: api
        labels: {app: api, version: v1}
        ports: [{name: http, port: 8080, protocol: http}, {name: http-two, port: 8081, protocol: http}, {name: tcp, port: 9000, protocol: tcp}]
";

/// An own trust domain of old, two proxies before the ingress, and an authorizer that does not exist.
const MESH: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |-
    trustDomainAliases: [old.example]
    defaultConfig: {gatewayTopology: {numTrustedProxies: 2}}
    extensionProviders:
      - name: nobody-http
        envoyExtAuthzHttp: {service: nobody.default.svc.cluster.local, port: 8000}
      - name: nobody-grpc
        envoyExtAuthzGrpc: {service: nobody.default.svc.cluster.local, port: 9001}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_field_of_a_rule_decides_about_requests_and_connections() {
    let scenario = Scenario::up(FLEET).await;
    scenario.apply("east", MESH).await;
    requests(&scenario).await;
    connections(&scenario).await;
    audit(&scenario).await;
    behind_proxies(&scenario).await;
}

fn policy(action: &str, rules: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: tried}}
spec: {{selector: {{matchLabels: {{app: api}}}}, action: {action}, rules: [{rules}]}}
"
    )
}

/// Whether a request is let in, and that `hubctl explain` says the same, as far as it knows the request.
async fn admits(scenario: &Scenario, request: &str) -> bool {
    let mut words = request.split(' ');
    let mut word = || words.next().unwrap_or_default();
    let (workload, method, path, header) = (word(), word(), word(), word());
    let (from, url) = (format!("east/{workload}"), format!("http://api{path}"));
    let header = header.replace('=', ": ");
    let headers: Vec<&str> = if header.is_empty() { vec![] } else { vec![&header] };
    let shot = scenario.agrees_on(Asked { from: &from, method, url: &url, headers: &headers }).await;
    assert!(matches!(shot.status, 200 | 403), "{request}: {shot:?}");
    shot.status == 200
}

/// An ALLOW rule, what it lets in, and what it does not.
const RULES: &[(&str, &[&str], &[&str])] = &[
    (
        "from: [{source: {principals: [cluster.local/ns/default/sa/web]}}]",
        &["web GET :8080/"],
        &["frontend GET :8080/"],
    ),
    ("from: [{source: {principals: [old.example/ns/default/sa/web]}}]", &["web GET :8080/"], &["frontend GET :8080/"]),
    ("from: [{source: {principals: [east.demo/ns/default/*]}}]", &["web GET :8080/"], &[]),
    (
        "from: [{source: {principals: [west.demo/ns/default/sa/web, stranger/ns/default/sa/web]}}]",
        &[],
        &["web GET :8080/"],
    ),
    ("from: [{source: {notPrincipals: ['*/sa/web']}}]", &["frontend GET :8080/"], &["web GET :8080/"]),
    ("from: [{source: {namespaces: [default]}}]", &["web GET :8080/"], &[]),
    ("from: [{source: {namespaces: [def*], notNamespaces: [default]}}]", &[], &["web GET :8080/"]),
    ("from: [{source: {serviceAccounts: [frontend, other/web]}}]", &["frontend GET :8080/"], &["web GET :8080/"]),
    ("from: [{source: {notServiceAccounts: [default/web]}}]", &["frontend GET :8080/"], &["web GET :8080/"]),
    ("from: [{source: {trustDomains: [east.demo]}}]", &["web GET :8080/"], &[]),
    ("from: [{source: {notTrustDomains: [cluster.local]}}]", &[], &["web GET :8080/"]),
    (
        "to: [{operation: {paths: ['/api/{*}/x', '/docs/{**}']}}]",
        &["web GET :8080/api/1/x", "web GET :8080/docs/a/b", "web GET :8080/docs/"],
        &["web GET :8080/api/1/2/x", "web GET :8080/api//x", "web GET :8080/docs", "web GET :8080/"],
    ),
    (
        "to: [{operation: {paths: ['/a/{**}/end']}}]",
        &["web GET :8080/a/b/c/end"],
        &["web GET :8080/a/b/c/end/more", "web GET :8080/b/end"],
    ),
    (
        "to: [{operation: {paths: ['*.html', /only], notPaths: ['/secret*']}}]",
        &["web GET :8080/a.html", "web GET :8080/only?q=1"],
        &["web GET :8080/secret.html", "web GET :8080/only/"],
    ),
    (
        "to: [{operation: {methods: [GET, HEAD], notMethods: [HEAD]}}]",
        &["web GET :8080/"],
        &["web HEAD :8080/", "web POST :8080/"],
    ),
    ("to: [{operation: {ports: ['8080']}}]", &["web GET :8080/"], &["web GET :8081/"]),
    ("to: [{operation: {notPorts: ['8080']}}]", &["web GET :8081/"], &["web GET :8080/"]),
    ("to: [{operation: {hosts: ['api*']}}]", &["web GET :8080/"], &[]),
    ("to: [{operation: {hosts: ['*.example'], notHosts: [x.example]}}]", &[], &["web GET :8080/"]),
    (
        "when: [{key: 'request.headers[x-a]', values: ['v*']}]",
        &["web GET :8080/ x-a=vv"],
        &["web GET :8080/ x-a=w", "web GET :8080/"],
    ),
    ("when: [{key: 'request.headers[x-a]', notValues: ['*']}]", &["web GET :8080/"], &["web GET :8080/ x-a=w"]),
    ("when: [{key: source.namespace, values: [default]}]", &["web GET :8080/"], &[]),
    ("when: [{key: source.namespace, notValues: [default]}]", &[], &["web GET :8080/"]),
    (
        "when: [{key: source.principal, values: ['cluster.local/ns/default/sa/web']}]",
        &["web GET :8080/"],
        &["frontend GET :8080/"],
    ),
    ("when: [{key: source.serviceAccount, values: [default/frontend]}]", &["frontend GET :8080/"], &["web GET :8080/"]),
    ("when: [{key: source.trustDomain, notValues: [east.demo]}]", &[], &["web GET :8080/"]),
    ("when: [{key: destination.port, values: ['8081']}]", &["web GET :8081/"], &["web GET :8080/"]),
    (
        "from: [{source: {serviceAccounts: [web]}}, {source: {serviceAccounts: [frontend]}}], to: [{operation: {methods: [GET]}}, {operation: {paths: [/x]}}], when: [{key: destination.port, values: ['8080']}]",
        &["web GET :8080/", "frontend POST :8080/x"],
        &["web POST :8080/", "frontend GET :8081/x"],
    ),
];

async fn requests(scenario: &Scenario) {
    step("rules of requests");
    for (rule, allowed, refused) in RULES {
        scenario.apply("east", &policy("ALLOW", &format!("{{{rule}}}"))).await;
        for (request, expected) in allowed.iter().map(|it| (it, true)).chain(refused.iter().map(|it| (it, false))) {
            assert_eq!(admits(scenario, request).await, expected, "{rule}: {request}");
        }
    }
    step("rules about addresses, which explanations do not know");
    let at_source = |block: &str| format!("{{from: [{{source: {{ipBlocks: ['{block}']}}}}]}}");
    let pod = scenario.fleet.pod("east/api").expect("the pod exists").1.ip;
    for (rules, expected) in [
        (at_source("127.0.0.0/8"), 200),
        (at_source("10.0.0.0/8"), 403),
        ("{when: [{key: source.ip, values: [127.0.0.0/8]}]}".to_owned(), 200),
        ("{when: [{key: remote.ip, notValues: [127.0.0.0/8]}]}".to_owned(), 403),
        (format!("{{when: [{{key: destination.ip, values: ['{pod}']}}]}}"), 200),
        (format!("{{when: [{{key: destination.ip, notValues: ['{pod}']}}]}}"), 403),
    ] {
        scenario.apply("east", &policy("ALLOW", &rules)).await;
        assert_eq!(scenario.shot("east/web", "http://api:8080/", &[]).await.status, expected, "{rules}");
    }
}

/// Whether a connection to the TCP port comes through.
async fn connects(scenario: &Scenario, workload: &str) -> bool {
    let echo = async {
        let mut tunnel = connect(scenario.proxy(workload), "api", 9000).await.ok()?;
        tunnel.write_all(b"ping").await.ok()?;
        let mut reply = [0; 4];
        tunnel.read_exact(&mut reply).await.ok().filter(|_| reply == *b"ping")
    };
    tokio::time::timeout(Duration::from_secs(10), echo).await.ok().flatten().is_some()
}

async fn connections(scenario: &Scenario) {
    step("rules of connections: fields of HTTP never allow and never save from DENY");
    for (action, rules, web, frontend) in [
        ("ALLOW", "{when: [{key: source.principal, values: ['*/sa/web']}]}", true, false),
        ("ALLOW", "{from: [{source: {serviceAccounts: [web]}}], to: [{operation: {ports: ['9000']}}]}", true, false),
        ("ALLOW", "{to: [{operation: {ports: ['8080']}}]}", false, false),
        ("ALLOW", "{from: [{source: {serviceAccounts: [web]}}], to: [{operation: {methods: [GET]}}]}", false, false),
        ("ALLOW", "{to: [{operation: {paths: ['/x'], ports: ['9000']}}]}", false, false),
        ("ALLOW", "{when: [{key: 'request.headers[x-a]', values: ['*']}]}", false, false),
        ("DENY", "{from: [{source: {serviceAccounts: [web]}}], to: [{operation: {methods: [GET]}}]}", false, true),
        ("DENY", "{from: [{source: {serviceAccounts: [web]}}], to: [{operation: {ports: ['8080']}}]}", true, true),
        (
            "DENY",
            "{when: [{key: destination.port, values: ['9000']}, {key: source.namespace, values: [default]}]}",
            false,
            false,
        ),
        ("AUDIT", "{to: [{operation: {ports: ['9000']}}]}", true, true),
    ] {
        scenario.apply("east", &policy(action, rules)).await;
        assert_eq!(connects(scenario, "east/web").await, web, "web, {action} {rules}");
        assert_eq!(connects(scenario, "east/frontend").await, frontend, "frontend, {action} {rules}");
    }
    step(
        "CUSTOM: an authorizer over HTTP cannot be asked about connections, one over gRPC can; who cannot be asked refuses",
    );
    let custom = |provider: &str| {
        format!(
            "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: tried}}
spec: {{selector: {{matchLabels: {{app: api}}}}, action: CUSTOM, provider: {{name: {provider}}}, rules: [{{}}]}}
"
        )
    };
    for (provider, connected) in [("nobody-http", true), ("nobody-grpc", false)] {
        scenario.apply("east", &custom(provider)).await;
        assert_eq!(connects(scenario, "east/web").await, connected, "{provider}");
        assert_eq!(scenario.shot("east/web", "http://api:8080/", &[]).await.status, 403, "{provider}");
    }
    let unsupported = custom("nobody-http").replace("[{}]", "[{from: [{source: {principals: ['*']}}]}]");
    let said = scenario.refused("east", &unsupported).await;
    assert!(said.contains("spec.rules[0].from[0].source.principals") && said.contains("CUSTOM"), "{said}");
}

async fn audit(scenario: &Scenario) {
    step("AUDIT marks the access log; a dry run only writes into it");
    scenario.apply("east", &policy("AUDIT", "{to: [{operation: {paths: ['/audited*']}}]}")).await;
    let trial = policy("DENY", "{to: [{operation: {paths: ['*/tried']}}]}");
    let trial = trial.replace("{name: tried}", "{name: trial, annotations: {istio.io/dry-run: 'true'}}");
    scenario.apply("east", &trial).await;
    for path in ["/audited/tried", "/audited/plain", "/plain/tried", "/plain/plain"] {
        assert_eq!(scenario.shot("east/web", &format!("http://api:8080{path}"), &[]).await.status, 200, "{path}");
    }
    let expected = [
        ("/audited/tried", true, true),
        ("/audited/plain", true, false),
        ("/plain/tried", false, true),
        ("/plain/plain", false, false),
    ];
    logged(scenario, "east/api-1/sidecar", &expected).await;
    for object in [trial, policy("AUDIT", "{}")] {
        scenario.delete("east", &object).await;
    }
}

/// Waits until the access log of a process has these paths, each marked by AUDIT or not, and by a dry run or not.
async fn logged(scenario: &Scenario, process: &str, expected: &[(&str, bool, bool)]) {
    let log = scenario.fleet.layout.log(process);
    eventually("the access log says it", Duration::from_secs(10), async || {
        let text = std::fs::read_to_string(&log).map_err(|error| error.to_string())?;
        for (path, audited, tried) in expected {
            let line = text.lines().find(|line| line.contains(&format!("\"{path}\"")));
            let line = line.ok_or_else(|| format!("no line of {path}"))?;
            let said = (line.contains("\"audit\":true"), line.contains("dry run"));
            assert_eq!(said, (*audited, *tried), "{line}");
        }
        Ok(())
    })
    .await;
}

async fn behind_proxies(scenario: &Scenario) {
    step("two trusted proxies: remoteIpBlocks is the client before them, ipBlocks who dialled");
    let ingress = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: shop}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [shop.example]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: [shop.example]
  gateways: [shop]
  http: [{route: [{destination: {host: api, port: {number: 8080}}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: shop, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  rules: [{from: [{source: SOURCE}]}]
";
    let at = SocketAddr::from((scenario.fleet.cluster("east").expect("east").edges[0].ip, 8080));
    let get = async |forwarded: &str| {
        let mut call = Call::get(at, "http://shop.example/").expect("a URL");
        call.header(&format!("x-forwarded-for: {forwarded}")).expect("a header");
        shoot(&call).await
    };
    scenario.apply("east", &ingress.replace("SOURCE", "{remoteIpBlocks: [7.7.7.0/24], ipBlocks: [127.0.0.0/8]}")).await;
    let let_in = get("7.7.7.7, 8.8.8.8").await;
    assert_eq!((let_in.status, let_in.seen("x-envoy-external-address")), (200, "7.7.7.7"), "{let_in:?}");
    assert!(let_in.seen("x-forwarded-for").starts_with("7.7.7.7, 8.8.8.8,127."), "{let_in:?}");
    assert_eq!(get("9.9.9.9, 7.7.7.7, 8.8.8.8").await.status, 200, "what the client itself wrote does not count");
    assert_eq!(get("7.7.7.7, 9.9.9.9, 8.8.8.8").await.status, 403, "what the client itself wrote does not count");
    assert_eq!(get("9.9.9.9, 7.7.7.7").await.status, 403);

    step("AUDIT and dry runs at the gateway, of what it lets in");
    let audit = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: audit, namespace: istio-system}
spec: {selector: {matchLabels: {istio: ingressgateway}}, action: AUDIT, rules: [{to: [{operation: {paths: [/edge/audited]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: trial, namespace: istio-system, annotations: {istio.io/dry-run: 'true'}}
spec: {selector: {matchLabels: {istio: ingressgateway}}, action: DENY, rules: [{to: [{operation: {paths: [/edge/tried]}}]}]}
";
    scenario.apply("east", audit).await;
    let expected = [("/edge/audited", true, false), ("/edge/tried", false, true)];
    for (path, ..) in expected {
        let mut call = Call::get(at, &format!("http://shop.example{path}")).expect("a URL");
        call.header("x-forwarded-for: 7.7.7.7, 8.8.8.8").expect("a header");
        assert_eq!(shoot(&call).await.status, 200);
    }
    logged(scenario, "east/istio-ingressgateway", &expected).await;
    scenario.apply("east", &ingress.replace("SOURCE", "{ipBlocks: [7.7.7.0/24]}")).await;
    assert_eq!(get("7.7.7.7, 8.8.8.8").await.status, 403, "ipBlocks is about who dialled");
}
