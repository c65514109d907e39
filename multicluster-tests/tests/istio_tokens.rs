//! Tokens: signed in every way, found in every place, handed on or not; and what policies and limits make of their claims,
//! at a workload and at an ingress gateway.

#![expect(clippy::expect_used, reason = "whatever fails here is a failed test")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use fleet::call::Call;
use multicluster_tests::{Scenario, Shot, python, shoot, step};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");
const PACKAGES: [&str; 4] = ["PyJWT==2.15.1", "cryptography==50.0.2", "grpcio==1.85.1", "xds-protos==1.85.0"];

const FLEET: &str = "
name: istio-tokens
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    gateways: 1
    ingress: [{}]
    workloads:
      - {name: web, serviceAccount: web, labels: {app: web}}
      - {name: api, serviceAccount: api, labels: {app: api, version: v1}, ports: [{name: http, port: 8080, protocol: http}]}
";

const API: &str = "http://api:8080";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_verified_however_they_are_signed_and_wherever_they_are() {
    let python = python(&PACKAGES);
    let keys = tempfile::tempdir().expect("a directory");
    let made = Command::new(&python).arg(format!("{SCRIPTS}/signed.py")).arg(keys.path()).output();
    let made = made.expect("Python runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let scenario = Scenario::up(FLEET).await;
    let keys = keys.path();
    algorithms(&scenario, keys).await;
    places(&scenario, keys).await;
    conditions(&scenario, keys).await;
    at_the_ingress(&scenario, keys).await;
}

fn read(keys: &Path, name: &str) -> String {
    std::fs::read_to_string(keys.join(name)).expect("a file of signed.py")
}

/// A RequestAuthentication with the keys in it, and more fields of the rule.
fn authentication(keys: &Path, namespace: &str, labels: &str, more: &str) -> String {
    let jwks = read(keys, "jwks.json");
    format!(
        "
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: tokens, namespace: {namespace}}}
spec:
  selector: {{matchLabels: {labels}}}
  jwtRules:
    - issuer: https://issuer.example
      audiences: [shop]
      jwks: '{jwks}'
{more}"
    )
}

async fn get(scenario: &Scenario, path: &str, token: &str) -> Shot {
    let bearer = format!("authorization: Bearer {token}");
    let headers = if token.is_empty() { vec![] } else { vec![bearer.as_str()] };
    scenario.shot("east/web", &format!("{API}{path}"), &headers).await
}

const WHO: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: who}
spec:
  selector: {matchLabels: {app: api}}
  action: DENY
  rules: [{from: [{source: {notRequestPrincipals: ["https://issuer.example/alice"]}}]}]
"#;

async fn algorithms(scenario: &Scenario, keys: &Path) {
    step("every algorithm");
    scenario.apply("east", &authentication(keys, "default", "{app: api}", "")).await;
    scenario.apply("east", WHO).await;
    for algorithm in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"] {
        let token = read(keys, &format!("{algorithm}.token"));
        let shot = get(scenario, "/", &token).await;
        assert_eq!(shot.status, 200, "{algorithm}: {shot:?}");
        assert_eq!(shot.seen("authorization"), "", "a token is not handed on unless it is asked for");
        let (rest, signature) = token.rsplit_once('.').expect("a signature");
        let first = if signature.starts_with('A') { 'B' } else { 'A' };
        let forged = format!("{rest}.{first}{}", &signature[1..]);
        let refused = get(scenario, "/", &forged).await;
        assert_eq!((refused.status, refused.body.trim()), (401, "Jwt verification fails"), "{algorithm}");
        assert!(refused.header("www-authenticate").starts_with("Bearer"), "{refused:?}");
    }
    step("401: a token that does not hold; 403: one that is for somebody else, or none");
    for (name, status) in
        [("expired", 401), ("early", 401), ("confused", 401), ("unsigned", 401), ("other-audience", 403), ("blue", 403)]
    {
        let shot = get(scenario, "/", &read(keys, &format!("{name}.token"))).await;
        assert_eq!(shot.status, status, "{name}: {}", shot.body);
    }
    assert_eq!(get(scenario, "/", "").await.status, 403);
    scenario.agrees("east/web", &format!("{API}/"), &[]).await;
}

async fn places(scenario: &Scenario, keys: &Path) {
    step("header, query parameter, cookie; handed on; claims as headers");
    let more = "      fromHeaders: [{name: x-token, prefix: 'Token '}]
      fromParams: [jwt]
      fromCookies: [session]
      forwardOriginalToken: true
      outputPayloadToHeader: x-payload
      outputClaimToHeaders: [{header: x-tenant, claim: tenant}, {header: x-country, claim: address.country}, {header: x-groups, claim: groups}, {header: x-none, claim: none}]
";
    scenario.apply("east", &authentication(keys, "default", "{app: api}", more)).await;
    let token = read(keys, "ES256.token");
    let by_header = format!("x-token: Token {token}");
    let by_cookie = format!("cookie: a=b; session={token}");
    for (place, path, header) in [
        ("x-token", "/x".to_owned(), by_header.as_str()),
        ("cookie", "/x".to_owned(), &by_cookie),
        ("query", format!("/x?jwt={token}"), "x-tenant: forged"),
    ] {
        let headers = [header, "x-none: forged"];
        let shot = scenario.shot("east/web", &format!("{API}{path}"), &headers).await;
        assert_eq!(
            (shot.status, shot.seen("x-tenant"), shot.seen("x-country")),
            (200, "red", "is"),
            "{place}: {shot:?}"
        );
        assert_eq!(shot.seen("x-none"), "", "{place}: what no claim says, no client says either");
        assert!(!shot.seen("x-payload").is_empty(), "{place}");
        let handed_on = [shot.seen("x-token"), shot.seen("cookie"), &shot.answer.path].concat();
        assert!(handed_on.contains(&token), "{place}: the token is handed on: {shot:?}");
    }
    assert_eq!(get(scenario, "/", &token).await.status, 403, "the usual header is not looked at any more");
    let not_said = authentication(
        keys,
        "default",
        "{app: api}",
        &more.replace("forwardOriginalToken: true", "forwardOriginalToken: false"),
    );
    scenario.apply("east", &not_said).await;
    let shot = scenario.shot("east/web", &format!("{API}/x?a=1&jwt={token}&b=2"), &[]).await;
    assert_eq!((shot.status, shot.answer.path.as_str()), (200, "/x?a=1&b=2"), "{shot:?}");
    let shot = scenario.shot("east/web", &format!("{API}/x"), &[&by_cookie]).await;
    assert_eq!(shot.status, 200);
    println!("cookie as the application gets it: {:?}", shot.seen("cookie"));
    scenario.delete("east", WHO).await;
}

/// Lets in who has a token that says this.
fn by_claim(key: &str, value: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: claims}}
spec:
  selector: {{matchLabels: {{app: api}}}}
  rules: [{{when: [{{key: \"{key}\", values: [\"{value}\"]}}]}}]
"
    )
}

async fn conditions(scenario: &Scenario, keys: &Path) {
    step("when: the keys that tokens have");
    scenario.apply("east", &authentication(keys, "default", "{app: api}", "")).await;
    let (red, blue) = (read(keys, "PS256.token"), read(keys, "blue.token"));
    for (key, value, alice, bob) in [
        ("request.auth.principal", "https://issuer.example/alice", 200, 403),
        ("request.auth.audiences", "shop", 200, 200),
        ("request.auth.presenter", "app", 200, 200),
        ("request.auth.claims[tenant]", "blue", 403, 200),
        ("request.auth.claims[scope]", "write", 200, 200),
        ("request.auth.claims[groups]", "staff", 200, 200),
        ("request.auth.claims[address][country]", "is", 200, 200),
        ("request.auth.claims[address][country]", "no", 403, 403),
    ] {
        scenario.apply("east", &by_claim(key, value)).await;
        let statuses = [get(scenario, "/", &red).await.status, get(scenario, "/", &blue).await.status];
        assert_eq!(statuses, [alice, bob], "{key}={value}");
        assert_eq!(get(scenario, "/", "").await.status, 403, "{key}={value} without a token");
    }
    scenario.delete("east", &by_claim("request.auth.principal", "*")).await;
}

const INGRESS: &str = "
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
apiVersion: isthmus.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: shop, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  limits:
    - {name: tenant, match: [{uri: {prefix: /claim}}], by: [{claim: tenant}], requests: 3, per: 1h}
    - {name: user, match: [{uri: {prefix: /header}}], by: [{header: x-user}], requests: 2, per: 1h}
    - {name: all, match: [{uri: {prefix: /all}}], requests: 4, per: 1h, burst: 2}
";

async fn at_the_ingress(scenario: &Scenario, keys: &Path) {
    step("RateLimitPolicy at the ingress: by claim, by header, for all; tokens there");
    let at = SocketAddr::from((scenario.fleet.cluster("east").expect("east").edges[0].ip, 8080));
    scenario
        .apply(
            "east",
            &authentication(keys, "istio-system", "{istio: ingressgateway}", "      forwardOriginalToken: true\n"),
        )
        .await;
    scenario.apply("east", INGRESS).await;
    let ask = async |path: &str, header: &str| {
        let mut call = Call::get(at, &format!("http://shop.example{path}")).expect("a URL");
        call.header(header).expect("a header");
        shoot(&call).await
    };
    let [red, blue, bad] = ["RS256", "blue", "expired"]
        .map(|name| format!("authorization: Bearer {}", read(keys, &format!("{name}.token"))));
    for (path, header, statuses) in [
        ("/claim", red.as_str(), &[200, 200, 200, 429, 429][..]),
        ("/claim", &blue, &[200, 200, 200, 429]),
        ("/claim", &bad, &[401]),
        ("/header", "x-user: one", &[200, 200, 429]),
        ("/header", "x-user: two", &[200, 200, 429]),
        ("/all", "x-user: one", &[200]),
        ("/all", "x-user: two", &[200, 429]),
        ("/free", "x-user: two", &[200, 200]),
    ] {
        for (number, status) in statuses.iter().enumerate() {
            let shot = ask(path, header).await;
            assert_eq!(shot.status, *status, "{path} {header} request {number}: {shot:?}");
        }
    }
    let limited = ask("/all", "x-user: three").await;
    assert!(limited.header("ratelimit").starts_with("\"all\";r=0;t="), "{:?}", limited.headers);
    assert_eq!(limited.header("ratelimit-policy"), "\"all\";q=4;w=3600", "{:?}", limited.headers);
    assert!(limited.header("retry-after").parse::<u64>().is_ok_and(|seconds| (1..=900).contains(&seconds)));
}
