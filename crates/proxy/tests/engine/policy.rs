//! What routes and destinations say, executed: retries, timeouts, faults, mirrors, limits, ejections, answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use mesh::*;
use proxy::body::{self, Body};
use proxy::outbound::Question;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};

use crate::world::*;

fn object(kind: &str) -> ObjectRef {
    ObjectRef { kind: kind.into(), namespace: "default".into(), name: "reviews".into() }
}

/// A rule that sends everything to `reviews`.
pub(crate) fn rule() -> HttpRule {
    HttpRule {
        origin: Origin { object: Arc::new(object("VirtualService")), path: "spec.http[0]".into(), name: None },
        matches: Vec::new(),
        action: HttpAction::Route(vec![to("reviews")]),
        rewrite: None,
        timeout: None,
        retry: None,
        fault: None,
        mirrors: Vec::new(),
        cors: None,
        headers: HeaderOperations::default(),
    }
}

pub(crate) fn destination(name: &str) -> Destination {
    Destination { host: Host::Cluster(service(name)), subset: None, port: Some(PORT) }
}

pub(crate) fn to(name: &str) -> WeightedDestination {
    WeightedDestination { destination: destination(name), weight: 1, headers: HeaderOperations::default() }
}

fn edits(set: &[(&str, &str)]) -> HeaderEdits {
    let set = set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    HeaderEdits { set, ..HeaderEdits::default() }
}

/// The service `reviews` at these addresses, without sidecars.
pub(crate) fn plain(at: &[SocketAddr]) -> ViewOf {
    let addresses: Vec<_> = at.iter().map(SocketAddr::ip).collect();
    ViewOf::cluster("east").endpoints("reviews", Protocol::Http, &addresses, at[0].port(), None)
}

pub(crate) fn routed(view: ViewOf, rule: HttpRule) -> ViewOf {
    view.configure("reviews", |config| {
        config.routes.push(Arc::new(HostRoutes {
            origin: object("VirtualService"),
            visible_to: Visibility::Everywhere,
            gateways: BTreeSet::from([MESH_GATEWAY.to_owned()]),
            http: vec![Arc::new(rule)],
            tls: Vec::new(),
            tcp: Vec::new(),
        }));
    })
}

pub(crate) fn with_policy(view: ViewOf, policy: TrafficPolicy) -> ViewOf {
    view.configure("reviews", |config| {
        config.destinations.push(Arc::new(DestinationRules {
            origin: object("DestinationRule"),
            visible_to: Visibility::Everywhere,
            of_service: true,
            workload_selector: Labels::new(),
            policy: PortPolicies { any: Arc::new(policy), ports: BTreeMap::new() },
            subsets: BTreeMap::new(),
        }));
    })
}

/// An application that answers its n-th request with this status and header `served: n`.
async fn statuses(status: impl Fn(u32) -> u16 + Clone + Send + Sync + 'static) -> (SocketAddr, Arc<AtomicU32>) {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let at = app_with(move |request| {
        let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
        let mut response = Response::new(body::empty());
        *response.status_mut() = StatusCode::from_u16(status(number)).unwrap();
        response.headers_mut().insert("served", number.into());
        let attempt = request.headers().get("x-envoy-attempt-count").cloned();
        response.headers_mut().insert("attempt", attempt.unwrap_or_else(|| 0.into()));
        async move { response }
    })
    .await;
    (at, calls)
}

/// An application that answers only as often as the semaphore has permits.
async fn gated() -> (SocketAddr, Arc<Semaphore>, mpsc::UnboundedReceiver<()>) {
    let open = Arc::new(Semaphore::new(0));
    let (arrived, arrivals) = mpsc::unbounded_channel();
    let gate = open.clone();
    let at = app_with(move |_| {
        let (gate, arrived) = (gate.clone(), arrived.clone());
        async move {
            arrived.send(()).unwrap();
            gate.acquire().await.unwrap().forget();
            Response::new(body::full("done"))
        }
    })
    .await;
    (at, open, arrivals)
}

fn retry(on: &[RetryCondition], attempts: u32) -> Option<RetryPolicy> {
    let on = on.iter().copied().collect();
    let statuses = BTreeSet::new();
    Some(RetryPolicy {
        configured: true,
        attempts,
        on,
        statuses,
        backoff: Duration::from_millis(1),
        ..RetryPolicy::default()
    })
}

#[tokio::test]
async fn a_configured_policy_repeats_a_post_and_tells_the_attempt() {
    let world = World::new();
    for (attempts, status, made, flags) in [(3, 200, 3, "-"), (1, 500, 2, "URX")] {
        let (app, calls) = statuses(|number| if number < 3 { 500 } else { 200 }).await;
        let rule = HttpRule { retry: retry(&[RetryCondition::FiveXx], attempts), ..rule() };
        let client = Client::start(&world, routed(plain(&[app]), rule));
        let response = client.http1("reviews", post("/", "body")).await;
        assert_eq!((response.status().as_u16(), calls.load(Ordering::SeqCst)), (status, made));
        assert_eq!(response.headers()["attempt"], made.to_string().as_str());
        assert!(response.headers().contains_key("x-envoy-upstream-service-time"));
        let record = client.records.lock().unwrap()[0].clone();
        assert_eq!((record.attempts, record.flags), (made, flags));
        assert_eq!(record.route, "VirtualService default/reviews spec.http[0]");
        assert_eq!(record.upstream_cluster, "outbound|9080||reviews.default.svc.cluster.local");
    }
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_answered_504_and_an_attempt_that_does_is_repeated() {
    let world = World::new();
    let (stuck, _closed, _arrivals) = gated().await;
    let slow = HttpRule { timeout: Some(Duration::from_millis(50)), ..rule() };
    let client = Client::start(&world, routed(plain(&[stuck]), slow.clone()));
    let response = client.http1("reviews", get("/")).await;
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(client.records.lock().unwrap()[0].flags, "UT");
    let mut request = get("/");
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    let response = client.http1("reviews", request).await;
    assert_eq!((response.status().as_u16(), &response.headers()["grpc-status"]), (200, &"14".parse().unwrap()));

    let (app, open, mut arrivals) = gated().await;
    let mut policy = retry(&[RetryCondition::GatewayError], 1).unwrap();
    // Ample for the second one, which is answered as soon as it has come.
    policy.per_try_timeout = Some(Duration::from_secs(2));
    let rule = HttpRule { timeout: None, retry: Some(policy), ..slow };
    let client = Client::start(&world, routed(plain(&[app]), rule));
    let opener = tokio::spawn(async move {
        arrivals.recv().await.unwrap();
        arrivals.recv().await.unwrap();
        // Those that were given up wait at the server all the same.
        open.add_permits(10);
    });
    let response = client.http1("reviews", get("/")).await;
    opener.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(client.records.lock().unwrap()[0].attempts, 2);
}

#[tokio::test]
async fn a_body_that_takes_too_long_is_broken_off() {
    let world = World::new();
    let app = app_with(|_| async {
        let frames = tokio_stream::pending::<Result<http_body::Frame<bytes::Bytes>, body::BodyError>>();
        Response::new(http_body_util::StreamBody::new(frames).boxed_unsync())
    })
    .await;
    // Ample for the head, which comes at once.
    let rule = HttpRule { timeout: Some(Duration::from_secs(2)), ..rule() };
    let client = Client::start(&world, routed(plain(&[app]), rule));
    let response = http1(client.capture("reviews").await, get("/")).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.into_body().collect().await.is_err());
}

#[tokio::test]
async fn faults_are_put_in_and_flagged() {
    let world = World::new();
    let (app, calls) = statuses(|_| 200).await;
    let delay = DelayFault { share: Share::ALL, delay: Duration::from_millis(60) };
    let abort = |with| AbortFault { share: Share::ALL, with };
    type Case = (Option<DelayFault>, Option<AbortFault>, &'static str, u16, &'static str, u32);
    let cases: [Case; 5] = [
        (Some(delay), None, "", 200, "DI", 1),
        (None, Some(abort(AbortWith::Http(418))), "", 418, "FI", 0),
        (Some(delay), Some(abort(AbortWith::Http(500))), "", 500, "DI,FI", 0),
        (None, Some(abort(AbortWith::Grpc(14))), "application/grpc", 200, "FI", 0),
        (None, Some(abort(AbortWith::Grpc(14))), "", 503, "FI", 0),
    ];
    for (delay, abort, content, status, flags, reached) in cases {
        calls.store(0, Ordering::SeqCst);
        let rule = HttpRule { fault: Some(FaultInjection { delay, abort }), ..rule() };
        let client = Client::start(&world, routed(plain(&[app]), rule));
        let mut request = get("/");
        if !content.is_empty() {
            request.headers_mut().insert("content-type", content.parse().unwrap());
        }
        let began = tokio::time::Instant::now();
        let response = client.http1("reviews", request).await;
        assert!(delay.is_none() || began.elapsed() >= Duration::from_millis(60));
        assert_eq!((response.status().as_u16(), calls.load(Ordering::SeqCst)), (status, reached), "{flags}");
        assert_eq!(client.records.lock().unwrap()[0].flags, flags);
    }
}

#[tokio::test]
async fn a_mirror_gets_a_copy_with_the_body_under_another_name() {
    let world = World::new();
    let (sender, mut copies) = mpsc::unbounded_channel();
    let shadow = app_with(move |request| {
        let sender = sender.clone();
        async move {
            let host = request.headers()["host"].to_str().unwrap().to_owned();
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            sender.send((host, path, body)).unwrap();
            Response::new(body::empty())
        }
    })
    .await;
    let view = plain(&[http_app("one").await]);
    let view = view.endpoints("shadow", Protocol::Http, &[shadow.ip()], shadow.port(), None);
    let mirrors = vec![Mirror { destination: destination("shadow"), share: Share::ALL }];
    let client = Client::start(&world, routed(view, HttpRule { mirrors, ..rule() }));
    let response = client.http1("reviews", post("/x", "hello")).await;
    assert_eq!(json(&response)["app"], "one");
    let copy = copies.recv().await.unwrap();
    let host = "reviews.default.svc.clusterset.local-shadow:9080".to_owned();
    assert_eq!(copy, (host, "/x".into(), "hello".into()));
}

#[tokio::test]
async fn requests_beyond_the_connections_and_those_that_wait_overflow() {
    let world = World::new();
    let (app, open, mut arrivals) = gated().await;
    let pool = ConnectionPool { max_connections: Some(2), max_pending_requests: Some(1), ..ConnectionPool::default() };
    let policy = TrafficPolicy { pool, ..TrafficPolicy::default() };
    let client = Client::start(&world, with_policy(plain(&[app]), policy));
    let at = client.capture("reviews").await;
    let send = || tokio::spawn(async move { collect(http1(at, get("/")).await).await });
    let running = [send(), send()];
    arrivals.recv().await.unwrap();
    arrivals.recv().await.unwrap();
    // Two more: whichever comes second overflows.
    let (third, fourth) = (send(), send());
    let overflowed = tokio::select! {
        response = third => response.unwrap(),
        response = fourth => response.unwrap(),
    };
    assert_eq!(overflowed.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(overflowed.headers()["x-envoy-overloaded"], "true");
    assert_eq!(client.records.lock().unwrap()[0].flags, "UO");
    open.add_permits(3);
    for request in running {
        assert_eq!(request.await.unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn connections_of_opaque_bytes_beyond_the_limit_are_closed_at_once() {
    let world = World::new();
    let (app, _open, _arrivals) = gated().await;
    let pool = ConnectionPool { max_connections: Some(1), ..ConnectionPool::default() };
    let view = ViewOf::cluster("east").endpoints("reviews", Protocol::TcpServerFirst, &[app.ip()], app.port(), None);
    let client = Client::start(&world, with_policy(view, TrafficPolicy { pool, ..TrafficPolicy::default() }));
    let at = client.capture("reviews").await;
    // Until it is closed, which may show as soon as it is connected.
    let closed = || async move {
        let mut stream = TcpStream::connect(at).await?;
        stream.read(&mut [0; 1]).await
    };
    let closed = tokio::select! {
        one = closed() => one,
        two = closed() => two,
    };
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    assert_eq!(client.records.lock().unwrap()[0].flags, "UO");
}

#[tokio::test]
async fn the_circuit_opens_after_five_errors_and_closes_again() {
    let world = World::new();
    let (app, calls) = statuses(|number| if number <= 5 { 500 } else { 200 }).await;
    let outlier = OutlierDetection {
        interval: Duration::from_millis(50),
        // Longer than it takes to see that the circuit is open.
        base_ejection_time: Duration::from_secs(3),
        ..OutlierDetection::default()
    };
    let policy = TrafficPolicy { outlier: Some(outlier), ..TrafficPolicy::default() };
    let client = Client::start(&world, with_policy(plain(&[app]), policy));
    for _ in 0..5 {
        assert_eq!(client.http1("reviews", get("/")).await.status(), 500);
    }
    let ejected = std::time::Instant::now();
    let response = client.http1("reviews", get("/")).await;
    assert_eq!((response.status().as_u16(), calls.load(Ordering::SeqCst)), (503, 5), "the circuit is open");
    assert_eq!(client.records.lock().unwrap()[5].flags, "UH");
    assert!(client.outbound.endpoints().iter().any(|row| row.ejected && row.ejections == 1));
    let mut status = response.status();
    while status != 200 && ejected.elapsed() < Duration::from_secs(30) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        status = client.http1("reviews", get("/")).await.status();
    }
    assert!(
        status == 200 && ejected.elapsed() >= Duration::from_millis(2900),
        "{status} after {:?}",
        ejected.elapsed()
    );
}

#[tokio::test]
async fn rules_answer_themselves() {
    let world = World::new();
    let (app, calls) = statuses(|_| 200).await;
    let redirect = HttpAction::Redirect(Redirect {
        uri: Some("/new".into()),
        prefix_rewrite: None,
        authority: Some("elsewhere.example".into()),
        scheme: None,
        port: RedirectPort::AsRequested,
        status: 307,
    });
    let headers = HeaderOperations { request: HeaderEdits::default(), response: edits(&[("x-answer", "mine")]) };
    let client =
        Client::start(&world, routed(plain(&[app]), HttpRule { action: redirect, headers: headers.clone(), ..rule() }));
    let response = client.http1("reviews", get("/old")).await;
    assert_eq!(response.status(), 307);
    assert!(response.headers()["location"].to_str().unwrap().contains("elsewhere.example"), "{response:?}");
    assert_eq!(response.headers()["x-answer"], "mine");
    let direct = HttpAction::Direct(DirectResponse { status: 418, body: b"teapot".to_vec() });
    let client = Client::start(&world, routed(plain(&[app]), HttpRule { action: direct, headers, ..rule() }));
    let response = client.http1("reviews", get("/")).await;
    assert_eq!((response.status().as_u16(), &response.body()[..]), (418, &b"teapot"[..]));
    assert_eq!(client.records.lock().unwrap()[0].flags, "-");
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_request_without_a_route_is_answered_404() {
    let world = World::new();
    let (app, _) = statuses(|_| 200).await;
    let only = HttpMatch { uri: Some(StringMatch::Exact("/only".into())), ..HttpMatch::default() };
    let client = Client::start(&world, routed(plain(&[app]), HttpRule { matches: vec![only], ..rule() }));
    assert_eq!(client.http1("reviews", get("/only")).await.status(), 200);
    assert_eq!(client.http1("reviews", get("/other")).await.status(), 404);
    assert_eq!(client.records.lock().unwrap()[1].flags, "NR");
    let question = |path: &str| Question {
        host: "reviews".into(),
        port: PORT,
        method: "GET".into(),
        path: path.into(),
        headers: HeaderMap::new(),
        sni: None,
    };
    let decision = client.outbound.explain(&question("/only")).await;
    assert!(decision.rule.is_some() && decision.denial().is_none(), "{decision:?}");
    assert_eq!(client.outbound.explain(&question("/other")).await.denial(), Some(Denial::NoRoute));
}

#[tokio::test]
async fn requests_and_answers_are_changed_as_rules_say() {
    let world = World::new();
    let rewrite = Some(Rewrite { uri: Some("/v2/".into()), authority: Some("other.example".into()), regex: None });
    let prefix = HttpMatch { uri: Some(StringMatch::Prefix("/v1/".into())), ..HttpMatch::default() };
    let headers = HeaderOperations { request: edits(&[("x-in", "1")]), response: edits(&[("x-out", "2")]) };
    let mut drawn = to("reviews");
    drawn.headers.request = edits(&[("x-drawn", "3")]);
    let cors = Some(CorsPolicy {
        allow_origins: vec![StringMatch::Exact("https://good.example".into())],
        allow_methods: vec!["GET".into()],
        ..CorsPolicy::default()
    });
    let action = HttpAction::Route(vec![drawn]);
    let rule = HttpRule { matches: vec![prefix], rewrite, headers, action, cors, ..rule() };
    let client = Client::start(&world, routed(plain(&[http_app("one").await]), rule));
    let mut request = get("/v1/x?y=1");
    request.headers_mut().insert("origin", "https://good.example".parse().unwrap());
    let response = client.http1("reviews", request).await;
    let seen = json(&response);
    assert_eq!((&seen["uri"], &seen["headers"]["host"]), (&"/v2/x?y=1".into(), &"other.example".into()));
    assert_eq!((&seen["headers"]["x-in"], &seen["headers"]["x-drawn"]), (&"1".into(), &"3".into()));
    assert_eq!(seen["headers"]["x-envoy-original-path"], "/v1/x?y=1");
    assert_eq!(response.headers()["x-out"], "2");
    assert_eq!(response.headers()["access-control-allow-origin"], "https://good.example");
    let preflight = Request::options("/v1/x")
        .header("origin", "https://good.example")
        .header("access-control-request-method", "GET")
        .body(body::empty());
    let response = client.http1("reviews", preflight.unwrap()).await;
    assert_eq!((response.status().as_u16(), response.body().len()), (200, 0));
    assert_eq!(response.headers()["access-control-allow-methods"], "GET");
}

#[tokio::test]
async fn equal_headers_meet_the_same_endpoint() {
    let world = World::new();
    let mut apps = Vec::new();
    let (mut addresses, mut view) = (Vec::new(), ViewOf::cluster("east"));
    for name in ["one", "two", "three"] {
        let server = crate::world::Server::of(&world, "east", "reviews", Protocol::Http, http_app(name).await).await;
        addresses.push(server.ip);
        apps.push(server);
    }
    view = view.local("reviews", Protocol::Http, &addresses);
    let key = HashKey::Header("x-user".into());
    let balancer = Balancer::ConsistentHash { key, table: HashTable::Ring { minimum_size: 1024 } };
    let client = Client::start(&world, with_policy(view, TrafficPolicy { balancer, ..TrafficPolicy::default() }));
    let mut all = BTreeSet::new();
    // So many that one endpoint for all of them would be no chance: once in 90 billion runs.
    for user in 0..24 {
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            let mut request = get("/");
            request.headers_mut().insert("x-user", user.into());
            seen.insert(json(&client.http1("reviews", request).await)["app"].as_str().unwrap().to_owned());
        }
        assert_eq!(seen.len(), 1, "user {user}");
        all.extend(seen);
    }
    assert!(all.len() > 1, "users spread");
}

#[tokio::test]
async fn the_proxy_itself_calls_services_and_fetches_documents() {
    let world = World::new();
    let app = app_with(|_: Request<hyper::body::Incoming>| async { Response::<Body>::new(body::full("{}")) }).await;
    let client = Client::start(&world, plain(&[app]));
    let request = Request::get("http://reviews:9080/check").body(body::empty()).unwrap();
    let response = client.outbound.call(&destination("reviews"), request, Duration::from_secs(5)).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "{}");
    let document = client.outbound.fetch(&format!("http://{app}/keys"), Duration::from_secs(5)).await.unwrap();
    assert_eq!(document, "{}");
    assert!(client.outbound.fetch("ftp://x/", Duration::from_secs(5)).await.is_err());
}
