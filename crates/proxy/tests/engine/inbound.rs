//! What a server's sidecar lets in: policies, limits and authorizers, by the identity of the client.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use mesh::*;
use proxy::body;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::world::{Server, *};

fn origin(kind: &str) -> Origin {
    let object = ObjectRef { kind: kind.into(), namespace: "default".into(), name: "x".into() };
    Origin { object: Arc::new(object), path: "spec.rules[0]".into(), name: None }
}

/// A policy of one rule.
fn rules(action: AuthorizationAction, from: Vec<SourceMatch>, to: Vec<OperationMatch>) -> Arc<AuthorizationRules> {
    let origin = origin("AuthorizationPolicy");
    let object = (*origin.object).clone();
    let rule = AuthorizationRule { origin, from, to, when: Vec::new() };
    Arc::new(AuthorizationRules { origin: object, action, rules: vec![rule], dry_run: false })
}

fn get_only(account: &str) -> Arc<AuthorizationRules> {
    let principals = AnyNot { any: vec![StringMatch::Suffix(format!("/sa/{account}"))], not: Vec::new() };
    let methods = AnyNot { any: vec![StringMatch::Exact("GET".into())], not: Vec::new() };
    let paths = AnyNot { any: vec![PathMatch::Text(StringMatch::Prefix("/api/".into()))], not: Vec::new() };
    let from = SourceMatch { principals, ..SourceMatch::default() };
    let to = OperationMatch { methods, paths, ..OperationMatch::default() };
    rules(AuthorizationAction::Allow, vec![from], vec![to])
}

fn governed(protocol: Protocol, inbound: InboundPolicy) -> ViewOf {
    let mut view = ViewOf::cluster("east").workload("reviews", protocol, MtlsMode::Permissive);
    let mut workload = view.0.workload.take().map(Arc::unwrap_or_clone).unwrap();
    workload.config = Arc::new(WorkloadConfig { inbound, ..WorkloadConfig::default() });
    view.0.workload = Some(Arc::new(workload));
    view
}

async fn server(world: &World, protocol: Protocol, inbound: InboundPolicy) -> Server {
    let app = http_app("reviews").await;
    let credentials = world.credentials("east", &id("east", "reviews"));
    Server::start(credentials, governed(protocol, inbound), app, address()).await
}

fn client(world: &World, server: &Server) -> Client {
    Client::start(world, ViewOf::cluster("east").local("reviews", Protocol::Http, &[server.ip]))
}

#[tokio::test]
async fn the_frontend_may_get_the_api_and_nobody_may_do_anything_else() {
    let world = World::new();
    let policy = InboundPolicy { authorization: vec![get_only("web")], ..InboundPolicy::default() };
    let server = server(&world, Protocol::Http, policy).await;
    let client = client(&world, &server);
    let cases = [
        (get("/api/x"), 200),
        (get("/other"), 403),
        (get("/api/../other"), 403),
        (get("/api/%2e%2e/other"), 403),
        (post("/api/x", "body"), 403),
    ];
    for (request, expected) in cases {
        let name = request.uri().to_string();
        let response = client.http1("reviews", request).await;
        assert_eq!(response.status(), expected, "{name}");
        if expected == 403 {
            assert_eq!(response.body(), "RBAC: access denied", "{name}");
        }
    }
    let plain = http1((server.ip, PORT).into(), get("/api/x")).await;
    assert_eq!(plain.status(), 403, "nobody proved to be the frontend");
    let records = server.records.lock().unwrap();
    assert!(records.iter().any(|record| record.flags == "-" && record.status == 403));
    let named = "AuthorizationPolicy default/x spec.rules[0]";
    assert!(records.iter().flat_map(|record| &record.reasons).any(|reason| reason.to_string() == named));
}

#[tokio::test]
async fn a_listener_of_a_sidecar_says_where_the_application_is_and_how_much_it_takes() {
    let world = World::new();
    let (other, held) = (http_app("other").await, Arc::new(tokio::sync::Notify::new()));
    let hold = held.clone();
    let slow = app_with(move |request| {
        let hold = hold.clone();
        async move {
            hold.notified().await;
            answer("slow", request)
        }
    })
    .await;
    let listener = |app: std::net::SocketAddr, pool| InboundListener {
        protocol: Protocol::Http,
        endpoint: Some(AppEndpoint::Loopback(app.port())),
        pool,
    };
    let policy = |listener| InboundPolicy {
        listeners: std::collections::BTreeMap::from([(PORT, listener)]),
        ..InboundPolicy::default()
    };
    let moved = server(&world, Protocol::Tcp, policy(listener(other, None))).await;
    let client = client(&world, &moved);
    assert_eq!(json(&client.http1("reviews", get("/")).await)["app"], "other");
    assert_eq!(json(&collect(http1((moved.ip, PORT).into(), get("/")).await).await)["app"], "other");
    let pool = ConnectionPool { max_connections: Some(1), max_pending_requests: Some(1), ..ConnectionPool::default() };
    let limited = server(&world, Protocol::Http, policy(listener(slow, Some(pool)))).await;
    let send = || async { collect(http1((limited.ip, PORT).into(), get("/")).await).await.status().as_u16() };
    let open = async {
        while limited.records.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        // The second begins when the first is over.
        while limited.records.lock().unwrap().len() < 3 {
            held.notify_one();
            tokio::task::yield_now().await;
        }
    };
    let (one, two, three, ()) = tokio::join!(send(), send(), send(), open);
    let mut statuses = [one, two, three];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 503]);
}

#[tokio::test]
async fn opaque_connections_are_refused_before_the_application_is_dialled() {
    let world = World::new();
    let dialled = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (app, count) = (listener.local_addr().unwrap(), dialled.clone());
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    });
    let policy = InboundPolicy { authorization: vec![get_only("web")], ..InboundPolicy::default() };
    let credentials = world.credentials("east", &id("east", "reviews"));
    let server = Server::start(credentials, governed(Protocol::Tcp, policy), app, address()).await;
    let mut stream = TcpStream::connect((server.ip, PORT)).await.unwrap();
    stream.write_all(b"hello").await.ok();
    let read = stream.read(&mut [0; 16]).await;
    assert!(read.map_or(true, |read| read == 0), "it is closed");
    assert_eq!(dialled.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test]
async fn strict_refuses_plain_text() {
    let world = World::new();
    let origin = ObjectRef { kind: "PeerAuthentication".into(), namespace: "default".into(), name: "x".into() };
    let mtls = Some(PeerPolicyRule { origin, mode: MtlsMode::Strict });
    let server = server(&world, Protocol::Http, InboundPolicy { mtls, ..InboundPolicy::default() }).await;
    let mut stream = TcpStream::connect((server.ip, PORT)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await.ok();
    assert!(stream.read(&mut [0; 16]).await.map_or(true, |read| read == 0), "it is closed");
    assert_eq!(client(&world, &server).http1("reviews", get("/")).await.status(), 200);
}

#[tokio::test]
async fn a_limit_counts_by_identity_and_tells_what_is_left() {
    let world = World::new();
    let limit = RateLimit {
        origin: origin("RateLimitPolicy"),
        matches: Vec::new(),
        by: vec![Descriptor::Identity],
        requests: 2,
        per: Duration::from_secs(3600),
        burst: 2,
    };
    let policy = InboundPolicy { limits: vec![Arc::new(limit)], ..InboundPolicy::default() };
    let server = server(&world, Protocol::Http, policy).await;
    let client = client(&world, &server);
    for left in ["1", "0"] {
        let response = client.http1("reviews", get("/")).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["x-ratelimit-remaining"]),
            (200, &left.parse().unwrap())
        );
    }
    let refused = client.http1("reviews", get("/")).await;
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after") && refused.headers().contains_key("ratelimit"));
    let other = http1((server.ip, PORT).into(), get("/")).await;
    assert_eq!(other.status(), 200, "somebody else has a bucket of his own");
    assert!(server.records.lock().unwrap().iter().any(|record| record.flags == "RL"));
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_whether_or_not_it_says_so() {
    let world = World::new();
    let limit = |max_bytes| Arc::new(BodyLimit { origin: origin("RateLimitPolicy"), max_bytes });
    let policy = InboundPolicy { body_limits: vec![limit(1_000_000), limit(70_000)], ..InboundPolicy::default() };
    for protocol in [Protocol::Http, Protocol::Http2] {
        let server = server(&world, protocol, policy.clone()).await;
        let client = client(&world, &server);
        for (size, expected) in [(10, 200), (70_000, 200), (70_001, 413), (400_000, 413)] {
            let declared = Request::post("/").body(body::full(vec![b'x'; size])).unwrap();
            assert_eq!(client.http1("reviews", declared).await.status(), expected, "{protocol:?}: {size} declared");
            let chunks =
                vec![b'x'; size].chunks(8192).map(|chunk| Ok(Frame::data(chunk.to_vec().into()))).collect::<Vec<_>>();
            let chunked = Request::post("/").body(StreamBody::new(tokio_stream::iter(chunks)).boxed_unsync()).unwrap();
            assert_eq!(client.http1("reviews", chunked).await.status(), expected, "{protocol:?}: {size} in chunks");
        }
        let records = server.records.lock().unwrap();
        let refused: Vec<_> = records.iter().filter(|record| record.status == 413).collect();
        assert_eq!(refused.len(), 4, "{protocol:?}: none of them was tried again");
        assert!(refused.iter().all(|record| record.flags == "-" && record.error.as_deref().is_some()));
    }
}

/// The service `opa`, asked by HTTP.
fn authorizer(fail_open: bool) -> Arc<ExternalAuthorizer> {
    let exact = |text: &str| vec![StringMatch::Exact(text.into())];
    Arc::new(ExternalAuthorizer {
        name: "opa".into(),
        destination: Destination { host: Host::Cluster(service("opa")), subset: None, port: Some(PORT) },
        timeout: Duration::from_secs(5),
        fail_open,
        status_on_error: 403,
        body: None,
        protocol: ExternalAuthorizerProtocol::Http {
            path_prefix: "/check".into(),
            include_request_headers: exact("x-ext-authz"),
            add_request_headers: Default::default(),
            upstream_headers: exact("x-checked"),
            downstream_headers_on_deny: exact("x-why"),
            downstream_headers_on_allow: Vec::new(),
        },
    })
}

/// A server whose view knows the service `opa`.
async fn asking(world: &World, inbound: InboundPolicy, opa: std::net::SocketAddr) -> Server {
    let view = governed(Protocol::Http, inbound).endpoints("opa", Protocol::Http, &[opa.ip()], opa.port(), None);
    Server::start(world.credentials("east", &id("east", "reviews")), view, http_app("reviews").await, address()).await
}

#[tokio::test]
async fn an_authorizer_is_asked_and_its_words_are_passed_on() {
    let world = World::new();
    let opa = app_with(|request| async move {
        let allowed = request.headers().get("x-ext-authz").is_some_and(|value| value == "allow");
        assert!(request.uri().path().starts_with("/check/"), "{}", request.uri());
        let status = if allowed { 200 } else { 418 };
        let response = http::Response::builder().status(status).header("x-checked", "yes").header("x-why", "because");
        response.body(body::full("no tea")).unwrap()
    })
    .await;
    let custom = |authorizer| InboundPolicy {
        authorization: vec![rules(AuthorizationAction::Custom(authorizer), Vec::new(), Vec::new())],
        ..InboundPolicy::default()
    };
    let server_one = asking(&world, custom(authorizer(false)), opa).await;
    let one = client(&world, &server_one);
    let asked = |value: &str| Request::get("/a").header("x-ext-authz", value).body(body::empty()).unwrap();
    let allowed = one.http1("reviews", asked("allow")).await;
    let told: Vec<String> =
        server_one.records.lock().unwrap().iter().flat_map(|record| &record.reasons).map(ToString::to_string).collect();
    assert_eq!(allowed.status(), 200, "{told:?}");
    assert_eq!((allowed.status().as_u16(), json(&allowed)["headers"]["x-checked"].as_str()), (200, Some("yes")));
    let denied = one.http1("reviews", asked("deny")).await;
    assert_eq!((denied.status().as_u16(), denied.body().as_ref()), (418, &b"no tea"[..]));
    assert_eq!(denied.headers()["x-why"], "because");
    for (fail_open, expected) in [(true, 200), (false, 403)] {
        // Nobody listens on port 1.
        let nobody = "127.0.0.1:1".parse().unwrap();
        let server = asking(&world, custom(authorizer(fail_open)), nobody).await;
        assert_eq!(client(&world, &server).http1("reviews", asked("allow")).await.status(), expected, "{fail_open}");
    }
}

/// Sends bytes in plain text and reads what comes until the end.
async fn say(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect((server.ip, PORT)).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset is an answer, too.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_host_is_nothing_but_a_host() {
    let world = World::new();
    let hosts = AnyNot { any: vec![StringMatch::Exact("internal.example".into())], not: Vec::new() };
    let to = OperationMatch { hosts, ..OperationMatch::default() };
    let authorization = vec![rules(AuthorizationAction::Deny, Vec::new(), vec![to])];
    let server = server(&world, Protocol::Http, InboundPolicy { authorization, ..InboundPolicy::default() }).await;
    let cases = [
        ("public.example", "200"),
        ("internal.example", "403"),
        ("INTERNAL.example.:80", "403"),
        ("me@internal.example", "400"),
    ];
    for (host, expected) in cases {
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let answer = say(&server, request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{host}: {answer}");
    }
}

#[tokio::test]
async fn a_limit_of_a_path_counts_all_its_spellings() {
    let world = World::new();
    let uri = Some(StringMatch::Exact("/api".into()));
    let limit = RateLimit {
        origin: origin("RateLimitPolicy"),
        matches: vec![HttpMatch { uri, ..HttpMatch::default() }],
        by: Vec::new(),
        requests: 1,
        per: Duration::from_secs(3600),
        burst: 1,
    };
    let policy = InboundPolicy { limits: vec![Arc::new(limit)], ..InboundPolicy::default() };
    let server = server(&world, Protocol::Http, policy).await;
    for (path, expected) in [("/api", 200), ("/%61pi", 429), ("/x/../api", 429), ("/other", 200)] {
        assert_eq!(http1((server.ip, PORT).into(), get(path)).await.status(), expected, "{path}");
    }
}

#[tokio::test]
async fn what_does_not_look_like_a_request_does_not_pass_an_authorizer_of_requests() {
    let world = World::new();
    let authorizer = ExternalAuthorizer {
        name: "opa".into(),
        destination: Destination { host: Host::External("opa.example".into()), subset: None, port: Some(80) },
        timeout: Duration::from_secs(1),
        fail_open: false,
        status_on_error: 403,
        body: None,
        protocol: ExternalAuthorizerProtocol::Http {
            path_prefix: String::new(),
            include_request_headers: Vec::new(),
            add_request_headers: Default::default(),
            upstream_headers: Vec::new(),
            downstream_headers_on_deny: Vec::new(),
            downstream_headers_on_allow: Vec::new(),
        },
    };
    let paths = AnyNot { any: vec![PathMatch::Text(StringMatch::Prefix("/admin".into()))], not: Vec::new() };
    let to = OperationMatch { paths, ..OperationMatch::default() };
    let authorization = vec![rules(AuthorizationAction::Custom(Arc::new(authorizer)), Vec::new(), vec![to])];
    let policy = InboundPolicy { authorization, ..InboundPolicy::default() };
    let request = b"FETCH /admin HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let undeclared = server(&world, Protocol::Auto, policy.clone()).await;
    assert_eq!(say(&undeclared, request).await, "");
    assert!(
        say(&server(&world, Protocol::Tcp, policy).await, request).await.starts_with("HTTP/1.1"),
        "declared as bytes"
    );
}
