//! What the way by which something came in changes: at a gateway, from which client, to an address that nobody knows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::{Request, Response};
use http_body_util::BodyExt;
use mesh::*;
use proxy::body::{self, Body};
use proxy::outbound::{Arrival, Judged};
use serde_json::json;

use crate::policy::{routed, rule, with_policy};
use crate::world::{Server, *};

const XFCC: &str = "x-forwarded-client-cert";

fn object(kind: &str) -> ObjectRef {
    ObjectRef { kind: kind.into(), namespace: "default".into(), name: "gw".into() }
}

/// A gateway whose port 80 leads to `reviews`.
fn edge(view: ViewOf, rule: HttpRule) -> ViewOf {
    let routes = HostRoutes {
        origin: object("VirtualService"),
        visible_to: Visibility::Everywhere,
        gateways: BTreeSet::from(["default/gw".to_owned()]),
        http: vec![Arc::new(rule)],
        tls: Vec::new(),
        tcp: Vec::new(),
    };
    let server = json!({
        "origin": {"object": object("Gateway"), "path": "spec.servers[0]"},
        "gateway": "default/gw",
        "protocol": "http",
        "hosts": [{"host": "*"}],
        "routes": [{"host": "*", "routes": routes}],
    });
    let gateway = json!({"listeners": [{"port": 80, "target_port": 0, "servers": [server]}]});
    let gateway = Some(serde_json::from_value(gateway).unwrap());
    let mut view = view.workload("edge", Protocol::Http, MtlsMode::Permissive);
    let mut workload = view.0.workload.take().map(Arc::unwrap_or_clone).unwrap();
    workload.config = Arc::new(WorkloadConfig { gateway, ..WorkloadConfig::default() });
    view.0.workload = Some(Arc::new(workload));
    view
}

fn arrival() -> Arrival {
    Arrival {
        port: 80,
        source: ([192, 0, 2, 7], 40000).into(),
        remote_ip: None,
        destination_ip: None,
        sni: None,
        scheme: "https",
        peer: None,
        judged: Judged::default(),
        claims: None,
    }
}

async fn whole(response: Response<Body>) -> Response<bytes::Bytes> {
    let (head, body) = response.into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn what_a_gateway_of_the_edge_says_of_its_client_reaches_the_application_before_the_sidecars_own_words() {
    let world = World::new();
    let server = Server::of(&world, "east", "reviews", Protocol::Http, http_app("one").await).await;
    let view = ViewOf::cluster("east").local("reviews", Protocol::Http, &[server.ip]);
    let gateway = Client::as_given(world.credentials("east", &id("east", "edge")), edge(view, rule()));
    let request = || Request::get("http://shop.example/").header("x-isthmus-port", "22");
    let said = "Hash=01;Subject=\"CN=a,O=b\";URI=spiffe://outside/x";
    let stamped = request().header(XFCC, said).body(body::empty()).unwrap();
    let seen = json(&whole(gateway.outbound.gateway_request(stamped, arrival()).await).await);
    let xfcc = seen["headers"][XFCC].as_str().unwrap();
    let own = xfcc.strip_prefix(&format!("{said},By=spiffe://east.demo/ns/default/sa/reviews;Hash=")).unwrap();
    assert!(own.ends_with(";URI=spiffe://east.demo/ns/default/sa/edge"), "{xfcc}");
    // The edge saw nobody: only the gateway itself is vouched for.
    let bare = request().body(body::empty()).unwrap();
    let seen = json(&whole(gateway.outbound.gateway_request(bare, arrival()).await).await);
    assert!(seen["headers"][XFCC].as_str().unwrap().starts_with("By="), "{seen}");
}

#[tokio::test]
async fn claims_of_a_verified_token_choose_the_route_and_clients_outside_do_not_steer() {
    let world = World::new();
    let server = Server::of(&world, "east", "reviews", Protocol::Http, http_app("one").await).await;
    let view = ViewOf::cluster("east").local("reviews", Protocol::Http, &[server.ip]);
    let wanted = ClaimMatch { path: vec!["group".into()], value: StringMatch::Exact("admin".into()) };
    let admins = HttpRule { matches: vec![HttpMatch { claims: vec![wanted], ..HttpMatch::default() }], ..rule() };
    let gateway = Client::as_given(world.credentials("east", &id("east", "edge")), edge(view, admins));
    let request = || {
        let request = Request::get("http://shop.example/").header("x-envoy-upstream-rq-timeout-ms", "1");
        request.body(body::empty()).unwrap()
    };
    for (claims, status) in [(json!({"group": ["dev", "admin"]}), 200), (json!({"group": "dev"}), 404)] {
        let claims = Some(Arc::new(Claims { all: claims.as_object().unwrap().clone() }));
        let arrival = Arrival { claims, ..arrival() };
        let response = whole(gateway.outbound.gateway_request(request(), arrival).await).await;
        assert_eq!(response.status(), status);
        if status == 200 {
            assert!(json(&response)["headers"].get("x-envoy-upstream-rq-timeout-ms").is_none(), "{response:?}");
        }
    }
    assert_eq!(gateway.outbound.gateway_request(request(), arrival()).await.status(), 404, "nobody proved anything");
}

#[tokio::test]
async fn rules_of_a_gateway_see_the_path_that_the_application_gets() {
    let world = World::new();
    let server = Server::of(&world, "east", "reviews", Protocol::Http, http_app("one").await).await;
    let view = ViewOf::cluster("east").local("reviews", Protocol::Http, &[server.ip]);
    let public = HttpMatch { uri: Some(StringMatch::Prefix("/public/".into())), ..HttpMatch::default() };
    let rule = HttpRule { matches: vec![public], ..rule() };
    let gateway = Client::as_given(world.credentials("east", &id("east", "edge")), edge(view, rule));
    for (path, expected) in [
        ("/public/a?x=/../y", Some("/public/a?x=/../y")),
        ("/x/../public/a", Some("/public/a")),
        ("/public/../admin", None),
        ("/public/%2e%2E/admin", None),
    ] {
        let request = Request::get(format!("http://shop.example{path}")).body(body::empty()).unwrap();
        let response = whole(gateway.outbound.gateway_request(request, arrival()).await).await;
        let seen = (response.status() == 200).then(|| json(&response)["uri"].as_str().unwrap().to_owned());
        assert_eq!(seen.as_deref(), expected, "{path}");
    }
}

#[tokio::test]
async fn header_rules_of_a_sidecar_cannot_forge_who_the_client_is() {
    let world = World::new();
    let server = Server::of(&world, "east", "reviews", Protocol::Http, http_app("one").await).await;
    let set = BTreeMap::from([(XFCC.to_owned(), "URI=spiffe://forged".to_owned())]).into_iter().collect();
    let mut forging = rule();
    forging.headers.request = HeaderEdits { set, ..HeaderEdits::default() };
    let view = ViewOf::cluster("east").local("reviews", Protocol::Http, &[server.ip]);
    let client = Client::start(&world, routed(view, forging));
    let seen = json(&client.http1("reviews", get("/")).await);
    let xfcc = seen["headers"][XFCC].as_str().unwrap();
    assert!(xfcc.starts_with("By=") && !xfcc.contains("forged"), "{xfcc}");
}

#[tokio::test]
async fn equal_clients_meet_the_same_endpoint() {
    let world = World::new();
    let (mut addresses, mut servers) = (Vec::new(), Vec::new());
    for name in ["one", "two", "three"] {
        let server = Server::of(&world, "east", "reviews", Protocol::Http, http_app(name).await).await;
        addresses.push(server.ip);
        servers.push(server);
    }
    let table = HashTable::Ring { minimum_size: 1024 };
    let balancer = Balancer::ConsistentHash { key: HashKey::SourceIp, table };
    let view = ViewOf::cluster("east").local("reviews", Protocol::Http, &addresses);
    let client = Client::start(&world, with_policy(view, TrafficPolicy { balancer, ..TrafficPolicy::default() }));
    let mut all = BTreeSet::new();
    // So many that one endpoint for all of them would be no chance: once in 90 billion runs.
    for last in 1..25 {
        let source: SocketAddr = ([192, 0, 2, last], 40000).into();
        let at = client.capture_as(service("reviews").clusterset_host(), Some(source)).await;
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            seen.insert(json(&collect(http1(at, get("/")).await).await)["app"].as_str().unwrap().to_owned());
        }
        assert_eq!(seen.len(), 1, "{source}");
        all.extend(seen);
    }
    assert!(all.len() > 1, "clients spread");
}

#[tokio::test]
async fn at_an_address_that_nobody_knows_a_request_goes_where_its_host_says() {
    let world = World::new();
    let server = Server::of(&world, "east", "reviews", Protocol::Http, http_app("one").await).await;
    let elsewhere: IpAddr = address();
    let _ = app_at((elsewhere, PORT).into(), |request| async move { answer("elsewhere", request) }).await;
    let view = ViewOf::cluster("east").local("reviews", Protocol::Http, &[server.ip]);
    let client = Client::start(&world, view);
    let at = client.capture_to(elsewhere.to_string()).await;
    let cases =
        [("reviews", "one"), ("reviews.default:80", "one"), ("www.example", "elsewhere"), ("none", "elsewhere")];
    for (host, expected) in cases {
        let mut request = get("/");
        request.headers_mut().insert("host", host.parse().unwrap());
        assert_eq!(json(&collect(http1(at, request).await).await)["app"], expected, "{host}");
    }
    let records = client.records.lock().unwrap();
    assert!(records[0].mutual_tls && !records[2].mutual_tls);
}
