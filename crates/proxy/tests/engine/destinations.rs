//! Settings of destinations that connections show: cookies, subsets, hosts that DNS knows, PROXY headers, tunnels, idle
//! flows.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use mesh::*;
use proxy::body;
use proxy::resolve::{Resolve, Resolving};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::policy::{destination, routed, rule, to, with_policy};
use crate::world::{Server, *};

/// The service `reviews` whose server speaks first, without a sidecar, under this policy.
fn opaque(at: SocketAddr, policy: TrafficPolicy) -> ViewOf {
    with_policy(
        ViewOf::cluster("east").endpoints("reviews", Protocol::TcpServerFirst, &[at.ip()], at.port(), None),
        policy,
    )
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    (listener, at)
}

#[tokio::test]
async fn a_client_gets_a_cookie_once_and_stays_where_it_leads() {
    let world = World::new();
    let (mut addresses, mut servers) = (Vec::new(), Vec::new());
    for name in ["one", "two", "three"] {
        let server = Server::of(&world, "east", "reviews", Protocol::Http, http_app(name).await).await;
        addresses.push(server.ip);
        servers.push(server);
    }
    let (name, path, ttl) = ("user".to_owned(), Some("/".to_owned()), Some(Duration::from_secs(60)));
    let key = HashKey::Cookie { name, path, ttl, attributes: Vec::new() };
    let balancer = Balancer::ConsistentHash { key, table: HashTable::Maglev { size: 251 } };
    let view = ViewOf::cluster("east").local("reviews", Protocol::Http, &addresses);
    let client = Client::start(&world, with_policy(view, TrafficPolicy { balancer, ..TrafficPolicy::default() }));
    let first = client.http1("reviews", get("/")).await;
    let cookie = first.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.starts_with("user=\"") && cookie.ends_with("\"; Max-Age=60; Path=/; HttpOnly"), "{cookie}");
    for _ in 0..5 {
        let mut request = get("/");
        request.headers_mut().insert("cookie", cookie.split(';').next().unwrap().parse().unwrap());
        let response = client.http1("reviews", request).await;
        assert!(!response.headers().contains_key("set-cookie"), "{response:?}");
        assert_eq!(json(&response)["app"], json(&first)["app"]);
    }
}

#[tokio::test]
async fn an_upgrade_goes_to_the_subset_of_its_rule() {
    let world = World::new();
    let mut servers = Vec::new();
    for version in ["v1", "v2"] {
        let app = app_with(move |mut request: Request<hyper::body::Incoming>| async move {
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut io = hyper_util::rt::TokioIo::new(upgraded.await.unwrap());
                io.write_all(version.as_bytes()).await.unwrap();
            });
            let mut response = Response::new(body::empty());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert("connection", "upgrade".parse().unwrap());
            response.headers_mut().insert("upgrade", "websocket".parse().unwrap());
            response
        });
        servers.push(Server::of(&world, "east", "reviews", Protocol::Http, app.await).await);
    }
    let addresses: Vec<_> = servers.iter().map(|server| server.ip).collect();
    let mut view =
        with_policy(ViewOf::cluster("east").local("reviews", Protocol::Http, &addresses), TrafficPolicy::default());
    let reviews = Arc::make_mut(view.0.services.get_mut(&service("reviews")).unwrap());
    let labels = |version: &str| Labels::from([("version".to_owned(), version.to_owned())]);
    for (endpoint, version) in reviews.endpoints.iter_mut().zip(["v1", "v2"]) {
        endpoint.labels = labels(version);
    }
    let config = Arc::make_mut(&mut reviews.config);
    let subset = Subset { labels: labels("v2"), policy: PortPolicies::default() };
    Arc::make_mut(&mut config.destinations[0]).subsets = BTreeMap::from([("two".to_owned(), subset)]);
    let mut drawn = to("reviews");
    drawn.destination.subset = Some("two".into());
    let client = Client::start(&world, routed(view, HttpRule { action: HttpAction::Route(vec![drawn]), ..rule() }));
    for _ in 0..4 {
        let mut stream = TcpStream::connect(client.capture("reviews").await).await.unwrap();
        let request = b"GET /ws HTTP/1.1\r\nhost: reviews\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 101") && answer.ends_with("\r\n\r\nv2"), "{answer}");
    }
}

/// Knows one host.
struct One(&'static str, SocketAddr);

impl Resolve for One {
    fn resolve<'a>(&'a self, host: &'a str, _port: u16) -> Resolving<'a> {
        let answer = if host == self.0 { Ok(vec![self.1]) } else { Err(io::Error::other("no such host")) };
        Box::pin(std::future::ready(answer))
    }
}

#[tokio::test]
async fn hosts_of_an_entry_are_those_that_dns_knows() {
    let world = World::new();
    let app = http_app("outside").await;
    for (name, status) in [("backend.example", 200), ("nowhere.example", 503)] {
        let entry = json!({"entry": {
            "origin": {"kind": "ServiceEntry", "namespace": "default", "name": "api"},
            "resolution": "dns",
            "external": true,
            "hosts": [{"host": name, "ports": {}, "labels": {}, "locality": "", "weight": 1}],
        }});
        let mut view = ViewOf::cluster("east").endpoints("api", Protocol::Http, &[], PORT, None);
        let mut entered = view.0.services.remove(&service("api")).map(Arc::unwrap_or_clone).unwrap();
        entered.config = Arc::new(serde_json::from_value(entry).unwrap());
        let host: HostPattern = serde_json::from_value(json!("api.example.com")).unwrap();
        entered.name = ServiceName::entry(Namespace::new("default").unwrap(), &host);
        view.0.entries.insert(entered.name.clone(), Arc::new(entered));
        let client = Client::resolving(&world, view, Arc::new(One("backend.example", app)));
        let at = client.capture_to("api.example.com".to_owned()).await;
        let mut request = get("/");
        request.headers_mut().insert("host", "api.example.com".parse().unwrap());
        request.headers_mut().insert("x-forwarded-client-cert", "URI=spiffe://forged".parse().unwrap());
        let response = collect(http1(at, request).await).await;
        assert_eq!(response.status(), status, "{response:?}");
        if status == 200 {
            let seen = json(&response);
            assert_eq!((&seen["app"], &seen["headers"]["host"]), (&"outside".into(), &"api.example.com".into()));
            assert!(seen["headers"].get("x-forwarded-client-cert").is_none(), "{seen}");
        }
    }
}

#[tokio::test]
async fn a_proxy_header_tells_the_server_who_dialled() {
    let world = World::new();
    let (listener, at) = listener().await;
    let policy = TrafficPolicy { proxy_protocol: Some(1), ..TrafficPolicy::default() };
    let client = Client::start(&world, opaque(at, policy));
    let captured = client.capture_as(service("reviews").clusterset_host(), Some(([192, 0, 2, 9], 4711).into())).await;
    let _flow = TcpStream::connect(captured).await.unwrap();
    let mut line = String::new();
    BufReader::new(listener.accept().await.unwrap().0).read_line(&mut line).await.unwrap();
    assert_eq!(line, format!("PROXY TCP4 192.0.2.9 127.0.0.1 4711 {}\r\n", at.port()));
}

#[tokio::test]
async fn a_tunnel_through_a_proxy_carries_the_flow() {
    let world = World::new();
    let (listener, at) = listener().await;
    let tunnel = Some(TunnelSettings { post: false, host: "db.example".into(), port: 5432 });
    let client = Client::start(&world, opaque(at, TrafficPolicy { tunnel, ..TrafficPolicy::default() }));
    let mut flow = TcpStream::connect(client.capture("reviews").await).await.unwrap();
    let mut proxy = BufReader::new(listener.accept().await.unwrap().0);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        proxy.read_line(&mut head).await.unwrap();
    }
    assert!(head.starts_with("CONNECT db.example:5432 HTTP/1.1\r\n"), "{head}");
    proxy.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello").await.unwrap();
    let mut greeting = [0; 5];
    flow.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"hello");
}

#[tokio::test]
async fn a_flow_on_which_nothing_moves_is_closed_after_its_idle_timeout() {
    let world = World::new();
    let (listener, at) = listener().await;
    let pool = ConnectionPool { tcp_idle_timeout: Some(Duration::from_millis(150)), ..ConnectionPool::default() };
    let client = Client::start(&world, opaque(at, TrafficPolicy { pool, ..TrafficPolicy::default() }));
    let mut flow = TcpStream::connect(client.capture("reviews").await).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let began = std::time::Instant::now();
    server.write_all(b"!").await.unwrap();
    assert_eq!(flow.read_u8().await.unwrap(), b'!');
    assert!(!matches!(flow.read(&mut [0; 1]).await, Ok(1)));
    assert!(began.elapsed() >= Duration::from_millis(150), "{:?}", began.elapsed());
}

#[tokio::test]
async fn http2_streams_beyond_the_limit_get_connections_of_their_own() {
    let world = World::new();
    let app = app_with(|request: Request<hyper::body::Incoming>| async move {
        Response::new(body::full(format!("{:?}", request.version())))
    })
    .await;
    let pool = ConnectionPool { max_concurrent_streams: Some(1), ..ConnectionPool::default() };
    let view = ViewOf::cluster("east").endpoints("reviews", Protocol::Http2, &[app.ip()], app.port(), None);
    let client = Client::start(&world, with_policy(view, TrafficPolicy { pool, ..TrafficPolicy::default() }));
    let mut held = Vec::new();
    for _ in 0..3 {
        let request = Request::get("http://reviews:9080/").body(body::empty()).unwrap();
        // Its stream counts until the body has passed.
        let answer = client.outbound.call(&destination("reviews"), request, Duration::from_secs(10)).await;
        held.push(answer.unwrap());
    }
    let open = client.outbound.pools().into_iter().filter(|entry| entry.kind == "direct").count();
    assert_eq!(open, 3);
}
