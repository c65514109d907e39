//! gRPC through what configuration does to requests: retries by gRPC status, faults, timeouts, policies and limits, for
//! single messages and for streams.

#![expect(clippy::expect_used, clippy::panic, reason = "whatever fails here is a failed test")]

use std::time::Duration;

use bytes::Bytes;
use fleet::call::{Call, Reply, Speak};
use http::Method;
use multicluster_tests::{Scenario, step};
use tokio::time::Instant;

const FLEET: &str = "
name: istio-grpc
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    gateways: 1
    workloads:
      - {name: web, serviceAccount: web, labels: {app: web}}
      - {name: frontend, serviceAccount: frontend, labels: {app: frontend}}
      - name: echo
        serviceAccount: echo
        labels: {app: echo, version: v1}
        ports: [{name: grpc, port: 9090, protocol: grpc}, {name: http, port: 8080, protocol: http}]
";

const ROUTES: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo}
spec:
  hosts: [echo]
  http:
    - match: [{headers: {x-rule: {exact: abort-grpc}}}]
      fault: {abort: {percentage: {value: 100}, grpcStatus: RESOURCE_EXHAUSTED}}
      route: [{destination: {host: echo}}]
    - match: [{headers: {x-rule: {exact: abort-http}}}]
      fault: {abort: {percentage: {value: 100}, httpStatus: 503}}
      route: [{destination: {host: echo}}]
    - match: [{headers: {x-rule: {exact: delay}}}]
      fault: {delay: {percentage: {value: 100}, fixedDelay: 0.5s}}
      route: [{destination: {host: echo}}]
    - match: [{headers: {x-rule: {exact: timeout}}}]
      timeout: 2s
      route: [{destination: {host: echo}}]
    - match: [{headers: {x-rule: {exact: once}}}]
      retries: {attempts: 0}
      route: [{destination: {host: echo}}]
    - match: [{headers: {x-rule: {exact: per-try}}}]
      retries: {attempts: 2, perTryTimeout: 1.5s, retryOn: 'unavailable,gateway-error'}
      route: [{destination: {host: echo}}]
    - retries: {attempts: 3, retryOn: 'unavailable,cancelled'}
      route: [{destination: {host: echo}}]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_and_streams_meet_retries_faults_timeouts_and_policies() {
    let scenario = Scenario::up(FLEET).await;
    scenario.apply("east", ROUTES).await;
    retries(&scenario).await;
    faults(&scenario).await;
    timeouts(&scenario).await;
    policies(&scenario).await;
}

const METHODS: [&str; 3] = ["Unary", "ServerStream", "BidiStream"];
const OK: i32 = 0;
const DEADLINE_EXCEEDED: i32 = 4;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const UNAVAILABLE: i32 = 14;

async fn call(scenario: &Scenario, workload: &str, method: &str, headers: &[&str]) -> Reply {
    let mut call: Call = scenario.with(workload, &format!("http://echo:9090/isthmus.echo.v1.Echo/{method}"), headers);
    call.speak = Speak::Grpc;
    call.method = Method::POST;
    call.body = Bytes::from_static(b"hello");
    call.send().await.unwrap_or_else(|error| panic!("{method} {headers:?}: {error:#}\n{}", scenario.logs()))
}

/// The gRPC status of a call of `web`.
async fn code(scenario: &Scenario, method: &str, headers: &[&str]) -> i32 {
    call(scenario, "east/web", method, headers).await.grpc_status.expect("a status").0
}

/// How many messages a call brought that succeeded.
fn messages(reply: &Reply) -> usize {
    assert_eq!(reply.grpc_status.as_ref().map(|status| status.0), Some(OK), "{reply:?}");
    String::from_utf8_lossy(&reply.body).lines().count()
}

async fn retries(scenario: &Scenario) {
    step("retries by gRPC status");
    let server = "east/echo-1";
    for (method, rule, failures, status, expected, tries) in [
        ("Unary", "none", 2, 503, OK, 3),
        ("Unary", "none", 4, 503, UNAVAILABLE, 4),
        ("Unary", "none", 1, 499, OK, 2),
        ("Unary", "none", 1, 429, RESOURCE_EXHAUSTED, 1),
        ("Unary", "once", 1, 503, UNAVAILABLE, 1),
        ("ServerStream", "none", 2, 503, OK, 3),
        ("ServerStream", "once", 1, 503, UNAVAILABLE, 1),
    ] {
        scenario.control(server, &format!("fail/{failures}/{status}")).await;
        let before = scenario.saw(server).await.requests;
        let answered = code(scenario, method, &[&format!("x-rule: {rule}")]).await;
        let tried = scenario.saw(server).await.requests - before;
        scenario.control(server, "fail/0/0").await;
        assert_eq!((answered, tried), (expected, tries), "{method} {rule}: {failures} times {status}");
    }
    for (method, expected) in METHODS.into_iter().zip([1, 3, 3]) {
        assert_eq!(messages(&call(scenario, "east/web", method, &[]).await), expected, "{method}");
    }
}

async fn faults(scenario: &Scenario) {
    step("faults: aborts have a gRPC status, delays come before the first message");
    let before = scenario.saw("east/echo-1").await.requests;
    for method in METHODS {
        assert_eq!(code(scenario, method, &["x-rule: abort-grpc"]).await, RESOURCE_EXHAUSTED, "{method}");
        assert_eq!(code(scenario, method, &["x-rule: abort-http"]).await, UNAVAILABLE, "{method}");
    }
    assert_eq!(scenario.saw("east/echo-1").await.requests, before, "what is aborted reaches no server");
    for (method, expected) in METHODS.into_iter().zip([1, 3, 3]) {
        let started = Instant::now();
        let reply = call(scenario, "east/web", method, &["x-rule: delay"]).await;
        assert_eq!(messages(&reply), expected, "{method}");
        assert!(started.elapsed() >= Duration::from_millis(500), "{method}: {:?}", started.elapsed());
    }
}

async fn timeouts(scenario: &Scenario) {
    step("timeouts: of the call, and of each try");
    let late = [UNAVAILABLE, DEADLINE_EXCEEDED];
    for method in METHODS {
        let started = Instant::now();
        let reply = call(scenario, "east/web", method, &["x-rule: timeout", "x-echo-delay: 20000"]).await;
        let (code, message) = reply.grpc_status.expect("a status");
        println!("{method}: {code} {message} after {:?}", started.elapsed());
        assert!(late.contains(&code) && started.elapsed() < Duration::from_secs(15), "{method}: {code} {message}");
    }
    assert_eq!(code(scenario, "Unary", &["x-rule: timeout"]).await, OK);
    let before = scenario.saw("east/echo-1").await.requests;
    let slow = code(scenario, "Unary", &["x-rule: per-try", "x-echo-delay: 20000"]).await;
    assert!(late.contains(&slow), "{slow}");
    assert_eq!(scenario.saw("east/echo-1").await.requests - before, 3, "each try has its own time");
}

async fn policies(scenario: &Scenario) {
    step("policies and limits answer with a gRPC status");
    let configuration = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: echo}
spec:
  selector: {matchLabels: {app: echo}}
  action: DENY
  rules: [{from: [{source: {serviceAccounts: [web]}}], to: [{operation: {paths: ['*/BidiStream'], methods: [POST]}}]}]
---
apiVersion: isthmus.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: echo}
spec:
  selector: {matchLabels: {app: echo}}
  limits: [{match: [{uri: {exact: /isthmus.echo.v1.Echo/ServerStream}}], by: [identity], requests: 1, per: 1h}]
";
    scenario.apply("east", configuration).await;
    assert_eq!(code(scenario, "BidiStream", &[]).await, PERMISSION_DENIED);
    assert_eq!(code(scenario, "Unary", &[]).await, OK);
    let of_frontend = call(scenario, "east/frontend", "BidiStream", &[]).await;
    assert_eq!(messages(&of_frontend), 3, "another identity");
    assert_eq!(code(scenario, "ServerStream", &["x-rule: once"]).await, OK);
    let limited = call(scenario, "east/web", "ServerStream", &["x-rule: once"]).await;
    let (code, message) = limited.grpc_status.clone().expect("a status");
    println!("limited: {code} {message}");
    assert!([UNAVAILABLE, RESOURCE_EXHAUSTED].contains(&code), "{limited:?}");
    assert!(limited.headers.contains_key("ratelimit"), "{limited:?}");
}
