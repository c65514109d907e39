//! What a VirtualService and a DestinationRule do to single requests, one rule after the other.

#![expect(clippy::expect_used, reason = "whatever fails here is a failed test")]

use std::collections::BTreeSet;
use std::time::Duration;

use multicluster_tests::{Scenario, Shot, assert_share, eventually, shoot, step, tally, volley};

const FLEET: &str = "
name: istio-http
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    gateways: 1
    workloads:
      - {name: web, serviceAccount: web, labels: {app: web, tier: front}}
      - {name: reviews-v1, service: reviews, serviceAccount: reviews, labels: {app: reviews, version: v1}, ports: [{name: http, port: 9080, protocol: http}]}
      - {name: reviews-v2, service: reviews, serviceAccount: reviews, labels: {app: reviews, version: v2}, ports: [{name: http, port: 9080, protocol: http}]}
      - {name: shadow, serviceAccount: shadow, labels: {app: shadow, version: v9}, ports: [{name: http, port: 9080, protocol: http}]}
";

const ROUTES: &str = r#"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets:
    - {name: v1, labels: {version: v1}}
    - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
    - match: [{uri: {prefix: /old/}}]
      rewrite: {uri: /new/, authority: other.example}
      route: [{destination: {host: reviews, subset: v1}}]
    - match: [{uri: {prefix: /regex/}}]
      rewrite: {uriRegexRewrite: {match: "^/regex/([^/]+)/(.*)$", rewrite: "/\\2/\\1"}}
      route: [{destination: {host: reviews, subset: v1}}]
    - match: [{uri: {exact: /moved}}]
      redirect: {uri: /here, authority: new.example, redirectCode: 308}
    - match: [{uri: {exact: /teapot}}]
      directResponse: {status: 418, body: {string: short and stout}}
    - match: [{uri: {exact: /fault}}]
      fault: {abort: {percentage: {value: 100}, httpStatus: 451}}
      route: [{destination: {host: reviews, subset: v1}}]
    - match: [{uri: {exact: /headers}}]
      headers:
        request: {set: {x-set: rule}, add: {x-added: rule}, remove: [x-removed]}
        response: {add: {x-answer: rule}, remove: [x-secret]}
      route:
        - destination: {host: reviews, subset: v1}
          headers: {request: {set: {x-route: v1}}, response: {set: {x-version: one}}}
    - match: [{uri: {prefix: /cors}}]
      corsPolicy:
        allowOrigins: [{exact: "https://good.example"}]
        allowMethods: [GET, PUT]
        allowHeaders: [x-a]
        exposeHeaders: [x-b]
        maxAge: 24h
        allowCredentials: true
      route: [{destination: {host: reviews, subset: v1}}]
    - match: [{uri: {prefix: /delay/}}]
      timeout: 2s
      route: [{destination: {host: reviews, subset: v1}}]
    - match: [{uri: {exact: /retried}}]
      retries: {attempts: 2, perTryTimeout: 2s, retryOn: 5xx}
      route: [{destination: {host: reviews, subset: v1}}]
    - match: [{uri: {exact: /tried-once}}]
      retries: {attempts: 0}
      route: [{destination: {host: reviews, subset: v1}}]
    - match: [{uri: {exact: /mirrored}}]
      route: [{destination: {host: reviews, subset: v1}}]
      mirrors: [{destination: {host: shadow}, percentage: {value: 50}}]
    - match: [{queryParams: {debug: {exact: "1"}}, method: {regex: "P(OS|U)T"}, withoutHeaders: {x-no: {}}, sourceLabels: {tier: front}}]
      route: [{destination: {host: reviews, subset: v2}}]
    - match: [{sourceLabels: {tier: back}}]
      directResponse: {status: 500}
    - match: [{uri: {prefix: /delegated}}]
      delegate: {name: reviews-delegate}
    - match: [{uri: {prefix: /nowhere}}]
      route: [{destination: {host: reviews, subset: absent}}]
    - route: [{destination: {host: reviews, subset: v1}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews-delegate}
spec:
  http:
    - match: [{uri: {exact: /delegated/two}}]
      route: [{destination: {host: reviews, subset: v2}}]
    - route: [{destination: {host: reviews, subset: v1}}]
"#;

async fn get(scenario: &Scenario, path: &str, headers: &[&str]) -> Shot {
    scenario.shot("east/web", &format!("http://reviews:9080{path}"), headers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_of_a_virtual_service_shape_requests_and_answers() {
    let scenario = Scenario::up(FLEET).await;
    scenario.apply("east", ROUTES).await;
    rewrites(&scenario).await;
    answers(&scenario).await;
    headers(&scenario).await;
    cors(&scenario).await;
    timeouts_and_retries(&scenario).await;
    mirrors(&scenario).await;
    conditions(&scenario).await;
}

async fn rewrites(scenario: &Scenario) {
    step("rewrites");
    let shot = get(scenario, "/old/x?y=1", &[]).await;
    assert_eq!((shot.status, shot.answer.path.as_str(), shot.seen("host")), (200, "/new/x?y=1", "other.example"));
    assert_eq!(get(scenario, "/regex/a/b/c?q=1", &[]).await.answer.path, "/b/c/a?q=1");
}

async fn answers(scenario: &Scenario) {
    step("redirect, direct response, abort");
    let moved = get(scenario, "/moved", &[]).await;
    assert_eq!((moved.status, moved.header("location")), (308, "http://new.example/here"));
    let teapot = get(scenario, "/teapot", &[]).await;
    assert_eq!((teapot.status, teapot.body.trim()), (418, "short and stout"));
    let fault = get(scenario, "/fault", &[]).await;
    assert_eq!((fault.status, fault.body.trim()), (451, "fault filter abort"));
    let nowhere = get(scenario, "/nowhere", &[]).await;
    assert_eq!(nowhere.status, 503, "{nowhere:?}");
}

async fn headers(scenario: &Scenario) {
    step("header operations");
    let asked = ["x-set: client", "x-added: client", "x-removed: 1", "x-echo-header: x-secret=1"];
    let shot = get(scenario, "/headers", &asked).await;
    assert_eq!((shot.seen("x-set"), shot.seen("x-added"), shot.seen("x-removed")), ("rule", "client, rule", ""));
    assert_eq!((shot.seen("x-route"), shot.header("x-version")), ("v1", "one"));
    assert_eq!((shot.header("x-answer"), shot.header("x-secret")), ("rule", ""), "{shot:?}");
}

async fn cors(scenario: &Scenario) {
    step("CORS");
    let good = get(scenario, "/cors", &["origin: https://good.example"]).await;
    let allowed = "access-control-allow-origin";
    assert_eq!((good.status, good.header(allowed)), (200, "https://good.example"));
    assert_eq!(good.header("access-control-expose-headers"), "x-b");
    let before = scenario.saw("east/reviews-v1-1").await.requests;
    let asked = ["origin: https://good.example", "access-control-request-method: PUT"];
    let mut preflight = scenario.with("east/web", "http://reviews:9080/cors", &asked);
    preflight.method = http::Method::OPTIONS;
    let answer = shoot(&preflight).await;
    assert_eq!((answer.status, answer.header(allowed)), (200, "https://good.example"), "{answer:?}");
    assert_eq!(answer.header("access-control-allow-methods"), "GET,PUT");
    assert_eq!(answer.header("access-control-allow-headers"), "x-a");
    assert_eq!(answer.header("access-control-max-age"), "86400");
    assert_eq!(answer.header("access-control-allow-credentials"), "true");
    assert_eq!(scenario.saw("east/reviews-v1-1").await.requests, before, "a preflight is answered by the proxy");
    let bad = get(scenario, "/cors", &["origin: https://bad.example"]).await;
    assert_eq!((bad.status, bad.header(allowed)), (200, ""));
}

async fn timeouts_and_retries(scenario: &Scenario) {
    step("timeouts and retries");
    let late = get(scenario, "/delay/20000", &[]).await;
    assert_eq!(late.status, 504, "{late:?}");
    assert!(late.took < Duration::from_secs(15), "it waited for the answer: {:?}", late.took);
    assert_eq!(get(scenario, "/delay/1", &[]).await.status, 200);

    let server = "east/reviews-v1-1";
    for (path, failures, status, tries) in [
        ("/retried", 2, 200, 3),
        ("/retried", 3, 500, 3),
        ("/tried-once", 1, 500, 1),
        // Istio's default policy does not repeat what an application answered with 500.
        ("/plain", 1, 500, 1),
    ] {
        scenario.control(server, &format!("fail/{failures}/500")).await;
        let before = scenario.saw(server).await.requests;
        let shot = get(scenario, path, &[]).await;
        let tried = scenario.saw(server).await.requests - before;
        scenario.control(server, "fail/0/0").await;
        assert_eq!((shot.status, tried), (status, tries), "{path} with {failures} failures");
    }
}

/// How many copies of requests the client's sidecar has sent.
async fn copies(scenario: &Scenario) -> u64 {
    let admin = (scenario.proxy("east/web").ip(), 15020).into();
    let (_, metrics) = fleet::http::get(admin, "/metrics", Duration::from_secs(30)).await.expect("metrics");
    let metrics = String::from_utf8_lossy(&metrics).into_owned();
    let counts = metrics
        .lines()
        .filter(|line| line.starts_with("isthmus_policy_events_total{") && line.contains("event=\"mirror\""));
    counts.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

async fn mirrors(scenario: &Scenario) {
    step("mirrors");
    let mirror = "east/shadow-1";
    assert_eq!(scenario.saw(mirror).await.requests, 0);
    let shots = volley(&scenario.call_from("east/web", "http://reviews:9080/mirrored"), 400, 10).await;
    assert_eq!(tally(&shots, |shot| (shot.status, shot.version().to_owned())), [((200, "v1".into()), 400)].into());
    // No request waits for its copy.
    let seen = eventually("all copies arrive", Duration::from_secs(30), async || {
        let (sent, seen) = (copies(scenario).await, scenario.saw(mirror).await);
        if seen.requests == sent && sent > 0 { Ok(seen) } else { Err(format!("{} of {sent} copies", seen.requests)) }
    })
    .await;
    assert_share("mirrored", usize::try_from(seen.requests).expect("a small number"), 400, 0.5);
    let request = seen.last.expect("a mirrored request");
    assert_eq!(request.path, "/mirrored");
    assert!(request.headers["host"].contains("-shadow"), "{:?}", request.headers);
}

async fn conditions(scenario: &Scenario) {
    step("conditions and delegates");
    let mut put = scenario.call_from("east/web", "http://reviews:9080/any?x=2&debug=1");
    put.method = http::Method::PUT;
    assert_eq!(shoot(&put).await.version(), "v2");
    put.header("x-no: 1").expect("a header");
    assert_eq!(shoot(&put).await.version(), "v1", "withoutHeaders");
    assert_eq!(get(scenario, "/any?debug=1", &[]).await.version(), "v1", "another method");
    assert_eq!(get(scenario, "/delegated/two", &[]).await.version(), "v2");
    assert_eq!(get(scenario, "/delegated/three", &[]).await.version(), "v1");
}

const STICKY: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  trafficPolicy: {loadBalancer: {consistentHash: HASH}}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consistent_hashes_stick_and_outliers_are_avoided() {
    let scenario = Scenario::up(FLEET).await;
    for (hash, url, header) in [
        ("{httpHeaderName: x-user}", "http://reviews:9080/", "x-user: USER"),
        ("{httpHeaderName: x-user, maglev: {tableSize: 65537}}", "http://reviews:9080/", "x-user: USER"),
        ("{httpQueryParameterName: user}", "http://reviews:9080/?user=USER", "x-none: 0"),
        ("{httpCookie: {name: user, ttl: 60s}}", "http://reviews:9080/", "cookie: a=b; user=USER"),
    ] {
        step(hash);
        scenario.apply("east", &STICKY.replace("HASH", hash)).await;
        let mut served = BTreeSet::new();
        for user in 0..24 {
            let user = format!("u{user}");
            let call = scenario.with("east/web", &url.replace("USER", &user), &[&header.replace("USER", &user)]);
            let pods = tally(&volley(&call, 5, 5).await, |shot| (shot.status, shot.answer.whoami.pod.clone()));
            assert_eq!(pods.len(), 1, "{hash}: {user} is not sticky: {pods:?}");
            served.extend(pods.into_keys());
        }
        assert_eq!(served.len(), 2, "{hash}: 24 users share one pod: {served:?}");
    }
    step("a client without the cookie gets one");
    let first = get(&scenario, "/", &[]).await;
    let cookie = first.header("set-cookie").split(';').next().unwrap_or_default().to_owned();
    assert!(cookie.starts_with("user="), "{first:?}");
    let call = scenario.with("east/web", "http://reviews:9080/", &[&format!("cookie: {cookie}")]);
    let pods = tally(&volley(&call, 20, 5).await, |shot| shot.answer.whoami.pod.clone());
    assert_eq!(pods.into_keys().collect::<Vec<_>>(), [first.answer.whoami.pod]);
}
