//! Who may reach a workload: tokens, policies, external authorizers, limits.

#![expect(clippy::expect_used, clippy::panic, reason = "whatever fails here is a failed test")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fleet::call::{Speak, connect};
use multicluster_tests::{Scenario, eventually, python, shoot, step, tally, volley};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");
const PACKAGES: [&str; 4] = ["PyJWT==2.15.1", "cryptography==50.0.2", "grpcio==1.85.1", "xds-protos==1.85.0"];

/// `api` is protected; `jwks`, `checker` and `checker-grpc` are Python servers without sidecars.
fn fleet(python: &Path, keys: &Path) -> String {
    let (python, keys) = (python.display(), keys.display());
    format!(
        "
name: istio-security
mesh: demo
hub: {{nodes: 1}}
clusters:
  - name: east
    gateways: 1
    workloads:
      - {{name: web, serviceAccount: web, labels: {{app: web}}}}
      - {{name: frontend, serviceAccount: frontend, labels: {{app: frontend}}}}
      - name: api
        serviceAccount: api
        labels: {{app: api, version: v1}}
        ports: [{{name: http, port: 8080, protocol: http}}, {{name: tcp, port: 9000, protocol: tcp}}]
      - name: jwks
        mesh: false
        command: [{python}, -m, http.server, \"{{port}}\", --bind, \"{{host}}\", --directory, {keys}]
        ports: [{{name: http, port: 8000, protocol: http}}]
      - name: checker
        mesh: false
        command: [{python}, {SCRIPTS}/authz_http.py, \"{{host}}\", \"{{port}}\"]
        ports: [{{name: http, port: 8000, protocol: http}}]
      - name: checker-grpc
        mesh: false
        command: [{python}, {SCRIPTS}/authz_grpc.py, \"{{host}}:{{port}}\"]
        ports: [{{name: grpc, port: 9001, protocol: grpc}}]
"
    )
}

const API: &str = "http://api:8080";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_policies_authorizers_and_limits_decide_who_gets_in() {
    let python = python(&PACKAGES);
    let keys = tempfile::tempdir().expect("a directory");
    make_tokens(&python, keys.path(), "first");
    let scenario = Scenario::up(&fleet(&python, keys.path())).await;
    tokens(&scenario, &python, keys.path()).await;
    policies(&scenario).await;
    opaque(&scenario).await;
    authorizers(&scenario).await;
    limits(&scenario).await;
}

fn make_tokens(python: &Path, keys: &Path, name: &str) {
    let script = format!("{SCRIPTS}/tokens.py");
    let output = Command::new(python).arg(script).arg(keys).arg(name).output().expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

const TOKENS: &str = r#"
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: api}
spec:
  selector: {matchLabels: {app: api}}
  jwtRules:
    - issuer: https://issuer.example
      audiences: [shop]
      jwksUri: http://jwks.default.svc.cluster.local:8000/jwks.json
      fromParams: [token]
      fromHeaders: [{name: Authorization, prefix: "Bearer "}]
      fromCookies: [session]
      outputPayloadToHeader: x-payload
      outputClaimToHeaders: [{header: x-sub, claim: sub}, {header: x-country, claim: address.country}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: tokens}
spec:
  selector: {matchLabels: {app: api}}
  action: DENY
  rules:
    - from: [{source: {notRequestPrincipals: ["https://issuer.example/alice"]}}]
      to: [{operation: {paths: ["/private/*"]}}]
    - to: [{operation: {paths: ["/admin/*"]}}]
      when: [{key: "request.auth.claims[groups]", notValues: [admin]}]
"#;

async fn tokens(scenario: &Scenario, python: &Path, keys: &Path) {
    step("tokens");
    scenario.apply("east", TOKENS).await;
    let read = |name: &str| std::fs::read_to_string(keys.join(name)).expect("a token");
    let get = async |path: &str, token: &str| {
        let bearer = format!("authorization: Bearer {token}");
        let headers = if token.is_empty() { vec![] } else { vec![bearer.as_str()] };
        scenario.shot("east/web", &format!("{API}{path}"), &headers).await
    };
    assert_eq!(get("/", "").await.status, 200, "a request without a token passes, without claims");
    assert_eq!(get("/private/x", "").await.status, 403);
    let first = read("first.token");
    let good = get("/private/x", &first).await;
    assert_eq!((good.status, good.seen("x-sub"), good.seen("x-country")), (200, "alice", "is"), "{good:?}");
    assert!(good.seen("authorization").is_empty() && !good.seen("x-payload").is_empty(), "{good:?}");
    assert_eq!(get("/admin/x", &first).await.status, 200);
    assert_eq!(get(&format!("/private/x?token={first}"), "").await.status, 200, "fromParams");
    let cookie = format!("cookie: a=b; session={first}");
    assert_eq!(scenario.shot("east/web", &format!("{API}/private/x"), &[&cookie]).await.status, 200, "fromCookies");
    let forged = format!("{}AAAA", &first[..first.len() - 4]);
    for token in [read("first.expired").as_str(), read("first.foreign").as_str(), forged.as_str(), "nonsense"] {
        assert_eq!(get("/", token).await.status, 401, "{token}");
    }

    step("keys are rotated");
    make_tokens(python, keys, "second");
    let second = read("second.token");
    eventually("a token of the new key is accepted", Duration::from_secs(40), async || {
        let shot = get("/private/x", &second).await;
        if shot.status == 200 { Ok(()) } else { Err(format!("{} {}", shot.status, shot.body)) }
    })
    .await;
    assert_eq!(get("/", &first).await.status, 401, "the old key is gone");
    scenario.delete("east", TOKENS).await;

    step("without jwksUri the issuer says where its keys are");
    let found = r#"
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: found}
spec:
  selector: {matchLabels: {app: api}}
  jwtRules: [{issuer: "http://jwks.default.svc.cluster.local:8000", outputClaimToHeaders: [{header: x-sub, claim: sub}]}]
"#;
    scenario.apply("east", found).await;
    let shot = get("/", &read("second.found")).await;
    assert_eq!((shot.status, shot.seen("x-sub")), (200, "alice"), "{shot:?}");
    assert_eq!(get("/", &second).await.status, 401, "of another issuer");
    scenario.delete("east", found).await;
}

const POLICIES: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow}
spec:
  selector: {matchLabels: {app: api}}
  rules:
    - from: [{source: {namespaces: [default], notPrincipals: ["cluster.local/ns/default/sa/web"]}}]
    - to: [{operation: {methods: [GET], paths: ["/open/{*}/x"], hosts: ["api*"]}}]
      when: [{key: "request.headers[x-pass]", values: ["let-*"]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny}
spec:
  selector: {matchLabels: {app: api}}
  action: DENY
  rules: [{to: [{operation: {paths: ["/denied"]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: tried, annotations: {istio.io/dry-run: "true"}}
spec:
  selector: {matchLabels: {app: api}}
  action: DENY
  rules: [{to: [{operation: {paths: ["/*"]}}]}]
"#;

async fn policies(scenario: &Scenario) {
    step("ALLOW, DENY, dry run");
    scenario.apply("east", POLICIES).await;
    for (workload, path, header, expected) in [
        ("east/frontend", "/", "x-pass: no", 200),
        ("east/frontend", "/denied", "x-pass: let-me", 403),
        ("east/web", "/", "x-pass: let-me", 403),
        ("east/web", "/open/a/x", "x-pass: let-me", 200),
        ("east/web", "/open/a/b/x", "x-pass: let-me", 403),
        ("east/web", "/open/a/x", "x-pass: no", 403),
    ] {
        let shot = scenario.shot(workload, &format!("{API}{path}"), &[header]).await;
        assert_eq!(shot.status, expected, "{workload} {path} {header}");
    }
    scenario.delete("east", POLICIES).await;
}

const OPAQUE: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: opaque}
spec:
  selector: {matchLabels: {app: api}}
  action: DENY
  rules:
    - from: [{source: {principals: ["cluster.local/ns/default/sa/web"]}}]
      to: [{operation: {ports: ["9000"]}}]
"#;

async fn opaque(scenario: &Scenario) {
    step("policies of TCP ports");
    let echoes = async |workload: &str| {
        let mut tunnel = connect(scenario.proxy(workload), "api", 9000).await.ok()?;
        tunnel.write_all(b"ping").await.ok()?;
        let mut reply = [0; 4];
        tokio::time::timeout(Duration::from_secs(5), tunnel.read_exact(&mut reply)).await.ok()?.ok()?;
        Some(reply)
    };
    assert_eq!(echoes("east/web").await.as_ref(), Some(b"ping"));
    scenario.apply("east", OPAQUE).await;
    assert_eq!(echoes("east/web").await, None);
    assert_eq!(echoes("east/frontend").await.as_ref(), Some(b"ping"));
    assert_eq!(scenario.shot("east/web", API, &[]).await.status, 200, "the rule is about another port");
    scenario.delete("east", OPAQUE).await;
}

const PROVIDERS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |-
    extensionProviders:
      - name: by-http
        envoyExtAuthzHttp:
          service: checker.default.svc.cluster.local
          port: 8000
          includeRequestHeadersInCheck: [x-let]
          headersToUpstreamOnAllow: [x-checked-by]
          headersToDownstreamOnDeny: [x-why]
      - name: by-grpc
        envoyExtAuthzGrpc:
          service: checker-grpc.default.svc.cluster.local
          port: 9001
"#;

const CUSTOM: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask}
spec:
  selector: {matchLabels: {app: api}}
  action: CUSTOM
  provider: {name: PROVIDER}
  rules: [{to: [{operation: {paths: ["/checked*"]}}]}]
"#;

async fn authorizers(scenario: &Scenario) {
    scenario.apply("east", PROVIDERS).await;
    let web = "spiffe://east.demo/ns/default/sa/web";
    for (provider, status, said) in [
        ("by-http", 403, "http GET /checked/x?y=1".to_owned()),
        ("by-grpc", 401, format!("grpc GET /checked/x?y=1 {web}")),
    ] {
        step(provider);
        scenario.apply("east", &CUSTOM.replace("PROVIDER", provider)).await;
        let url = format!("{API}/checked/x?y=1");
        let allowed = scenario.shot("east/web", &url, &["x-let: in"]).await;
        assert_eq!((allowed.status, allowed.seen("x-checked-by")), (200, said.as_str()), "{allowed:?}");
        let denied = scenario.shot("east/web", &url, &["x-let: out"]).await;
        assert_eq!((denied.status, denied.header("x-why"), denied.body.trim()), (status, "list", "not on the list"));
        assert_eq!(scenario.shot("east/web", &format!("{API}/free"), &[]).await.status, 200);
    }
    step("an authorizer that is gone refuses");
    scenario.fleet.signal("east/checker-grpc-1/app", rustix::process::Signal::KILL).await.expect("the authorizer ran");
    assert_eq!(scenario.shot("east/web", &format!("{API}/checked"), &["x-let: in"]).await.status, 403);
    scenario.delete("east", &CUSTOM.replace("PROVIDER", "by-grpc")).await;
}

/// Ten requests at once and ten an hour, for each identity.
const LIMIT: &str = "
apiVersion: isthmus.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: api}
spec:
  selector: {matchLabels: {app: api}}
  limits: [{by: [identity], requests: 10, per: 1h}]
";

async fn limits(scenario: &Scenario) {
    step("RateLimitPolicy");
    scenario.apply("east", LIMIT).await;
    let shots = volley(&scenario.call_from("east/web", API), 25, 5).await;
    assert_eq!(tally(&shots, |shot| shot.status), [(200, 10), (429, 15)].into());
    let limited = shots.iter().find(|shot| shot.status == 429).unwrap_or_else(|| panic!("none is limited"));
    assert!(limited.header("ratelimit").contains("r=0"), "{:?}", limited.headers);
    let other = shoot(&scenario.call_from("east/frontend", API)).await;
    assert_eq!(other.status, 200, "another identity has its own bucket");
    let mut grpc = scenario.call_from("east/web", API);
    grpc.speak = Speak::Http2;
    assert_eq!(shoot(&grpc).await.status, 429, "over HTTP/2 it is the same bucket");
}
