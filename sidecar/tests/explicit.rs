//! The workload's listener, with real sockets and an application without a sidecar behind it.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]
#![expect(clippy::disallowed_methods, reason = "the test plays the client, which nobody captures")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use identity::{Credentials, TrustBundles};
use mesh::{Endpoint, ExportPolicy, Labels, Namespace, Protocol, Service, ServicePort, View};
use proxy::access::Recorder;
use proxy::listen::Lifecycle;
use proxy::metrics::Metrics;
use proxy::outbound::{Outbound, OutboundConfig};
use proxy::resolve::{Resolve, SystemResolver};
use sidecar::{Explicit, ShimResolver};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;

const HOST: &str = "reviews.default.svc.clusterset.local:9080";

/// Answers every connection with what it was sent first.
async fn app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut seen = vec![0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut seen).await {
                    let line = String::from_utf8_lossy(&seen[..length]).lines().next().unwrap().to_owned();
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", line.len());
                    stream.write_all((head + &line).as_bytes()).await.unwrap();
                }
            });
        }
    });
    at
}

fn view(app: SocketAddr, protocol: Protocol) -> View {
    let name: mesh::ServiceName = "default/reviews".parse().unwrap();
    let endpoint = Endpoint {
        other_addresses: Vec::new(),
        plain_ports: Default::default(),
        stand_in: None,
        weight: 1,
        name: "reviews-1".into(),
        address: app.ip(),
        ports: BTreeMap::from([(9080, app.port())]),
        identity: None,
        labels: Labels::new(),
        locality: String::new(),
        ready: true,
    };
    let service = Service {
        config: Default::default(),
        name: name.clone(),
        global: false,
        headless: false,
        clusterset_addresses: Vec::new(),
        listeners: Default::default(),
        cluster_addresses: Vec::new(),
        ports: vec![ServicePort { name: "main".into(), number: 9080, protocol }],
        endpoints: vec![endpoint],
        export: Some(ExportPolicy::Everyone),
        imports: BTreeMap::new(),
    };
    View { services: BTreeMap::from([(name, Arc::new(service))]), ..View::default() }
}

/// A listener in front of an application whose port speaks `protocol`, and what keeps its view.
async fn explicit(protocol: Protocol) -> (SocketAddr, watch::Sender<Arc<View>>) {
    explicit_with(protocol, Arc::new(SystemResolver)).await
}

async fn explicit_with(protocol: Protocol, resolver: Arc<dyn Resolve>) -> (SocketAddr, watch::Sender<Arc<View>>) {
    let (keep, directory) = watch::channel(Arc::new(view(app().await, protocol)));
    let life = Lifecycle::default();
    let outbound = Outbound::start(OutboundConfig {
        dialer: dial::Dialer::unmarked(),
        directory: Arc::new(directory),
        credentials: Credentials::anonymous(TrustBundles::new()),
        resolver,
        recorder: Recorder::new(Metrics::default(), |_| {}),
        life: life.clone(),
        namespace: Namespace::new("default").unwrap(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move { Explicit::new(outbound, life, [127, 0, 0, 1].into()).serve(listener).await });
    (at, keep)
}

/// Sends all parts, each after something was answered to the one before, and returns the last answer.
async fn talk(at: SocketAddr, parts: &[&[u8]]) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let mut answer = Vec::new();
    for part in parts {
        stream.write_all(part).await.unwrap();
        answer = vec![0; 4096];
        let length = stream.read(&mut answer).await.unwrap();
        answer.truncate(length);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn http_requests_that_name_their_host_are_carried() {
    let (at, _keep) = explicit(Protocol::Http).await;
    let request = format!("GET http://{HOST}/x HTTP/1.1\r\nhost: {HOST}\r\nproxy-connection: keep-alive\r\n\r\n");
    let answer = talk(at, &[request.as_bytes()]).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("GET /x HTTP/1.1"), "{answer}");
}

#[tokio::test]
async fn connect_and_socks_carry_http_and_opaque_streams() {
    let connect = format!("CONNECT {HOST} HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    let (name, port) = HOST.rsplit_once(':').unwrap();
    let mut socks = vec![5, 1, 0, 3, name.len() as u8];
    socks.extend_from_slice(name.as_bytes());
    socks.extend_from_slice(&port.parse::<u16>().unwrap().to_be_bytes());
    let request = format!("GET /y HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    for protocol in [Protocol::Http, Protocol::Tcp, Protocol::Auto] {
        let (at, _keep) = explicit(protocol).await;
        for opening in [vec![connect.as_bytes()], vec![b"\x05\x01\x00", socks.as_slice()]] {
            let parts: Vec<&[u8]> = opening.into_iter().chain([request.as_bytes()]).collect();
            let answer = talk(at, &parts).await;
            assert!(answer.ends_with("GET /y HTTP/1.1"), "{protocol:?}: {answer}");
        }
    }
}

#[tokio::test]
async fn what_names_no_host_is_refused_with_a_hint() {
    let (at, _keep) = explicit(Protocol::Http).await;
    let answer = talk(at, &[b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n"]).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("hint"), "{answer}");
}

#[tokio::test]
async fn requests_that_could_be_read_in_two_ways_are_refused() {
    let (at, _keep) = explicit(Protocol::Http).await;
    let get = |more: &str| format!("GET http://{HOST}/x HTTP/1.1\r\n{more}\r\n");
    let cases = [
        (get("host: other\r\n"), "200"),
        (get(""), "200"),
        (get("host: a\r\nhost: a\r\n"), "400"),
        (get("host: a\r\ntransfer-encoding: gzip, chunked\r\n"), "501"),
        (get("host: a\r\nconnection: x-forwarded-for\r\n"), "400"),
        (get("host : a\r\n"), "400"),
        (get(&format!("host: a\r\n{}", "a: 1\r\n".repeat(101))), "431"),
        (format!("GET http://me@{HOST}/x HTTP/1.1\r\nhost: {HOST}\r\n\r\n"), "400"),
        (format!("GET ftp://{HOST}/x HTTP/1.1\r\nhost: {HOST}\r\n\r\n"), "400"),
        (format!("TRACE http://{HOST}/x HTTP/1.1\r\nhost: {HOST}\r\n\r\n"), "405"),
        (format!("CONNECT me@{HOST} HTTP/1.1\r\nhost: {HOST}\r\n\r\n"), "400"),
        ("CONNECT reviews HTTP/1.1\r\nhost: reviews\r\n\r\n".to_owned(), "400"),
    ];
    for (request, expected) in cases {
        let answer = talk(at, &[request.as_bytes()]).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{request:?}: {answer}");
    }
}

#[tokio::test]
async fn hosts_outside_the_mesh_are_reached() {
    let (at, _keep) = explicit(Protocol::Http).await;
    let outside = app().await;
    let answer = talk(at, &[format!("GET http://{outside}/z HTTP/1.1\r\nhost: {outside}\r\n\r\n").as_bytes()]).await;
    assert!(answer.ends_with("GET /z HTTP/1.1"), "{answer}");
    let connect = format!("CONNECT {outside} HTTP/1.1\r\n\r\n");
    let answer = talk(at, &[connect.as_bytes(), b"hello\n"]).await;
    assert!(answer.ends_with("hello"), "{answer}");
}

/// A DNS server that knows one name, and the questions that it got.
async fn shim(known: &'static str, addresses: &'static [Ipv4Addr]) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            let question = Message::from_vec(&buffer[..length]).unwrap();
            let query = question.queries[0].clone();
            log.lock().unwrap().push(format!("{} {}", query.name().to_lowercase(), query.query_type()));
            let mut answer = Message::response(question.metadata.id, OpCode::Query);
            answer.metadata.recursion_available = true;
            if query.name().to_string() != known {
                answer.metadata.response_code = ResponseCode::NXDomain;
            } else if query.query_type() == RecordType::A {
                let record = |ip: &Ipv4Addr| Record::from_rdata(query.name().clone(), 77, RData::A((*ip).into()));
                answer.add_answers(addresses.iter().map(record));
            }
            answer.add_query(query);
            socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
        }
    });
    (at, asked)
}

#[tokio::test]
async fn the_shim_is_asked_for_hosts_outside_the_mesh_by_their_absolute_names() {
    // Nobody listens on the first address.
    const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 77, 66, 55), Ipv4Addr::LOCALHOST];
    let (dns, asked) = shim("api.outside.example.", &ADDRESSES).await;
    let (at, _keep) =
        explicit_with(Protocol::Http, Arc::new(ShimResolver::new(dns, dial::Dialer::unmarked()).unwrap())).await;
    let port = app().await.port();
    for name in ["api.outside.example", "API.outside.example."] {
        let request = format!("GET http://{name}:{port}/z HTTP/1.1\r\nhost: {name}:{port}\r\n\r\n");
        let answer = talk(at, &[request.as_bytes()]).await;
        assert!(answer.ends_with("GET /z HTTP/1.1"), "{name}: {answer}");
        let connect = format!("CONNECT {name}:{port} HTTP/1.1\r\n\r\n");
        let answer = talk(at, &[connect.as_bytes(), b"hello\n"]).await;
        assert!(answer.ends_with("hello"), "{name}: {answer}");
    }
    // An answer is kept as long as it allows, so one question was enough.
    let mut asked = asked.lock().unwrap().clone();
    asked.retain(|question| question != "api.outside.example. AAAA");
    assert_eq!(asked, ["api.outside.example. A"]);
}

#[tokio::test]
async fn what_the_shim_does_not_know_is_an_error_and_literals_are_no_question() {
    let (dns, asked) = shim("api.outside.example.", &[]).await;
    let (at, _keep) =
        explicit_with(Protocol::Http, Arc::new(ShimResolver::new(dns, dial::Dialer::unmarked()).unwrap())).await;
    let outside = app().await;
    for host in [outside.to_string(), format!("localhost:{}", outside.port())] {
        let connect = format!("CONNECT {host} HTTP/1.1\r\n\r\n");
        let answer = talk(at, &[connect.as_bytes(), b"hello\n"]).await;
        assert!(answer.ends_with("hello"), "{host}: {answer}");
    }
    assert!(asked.lock().unwrap().is_empty());
    for (host, why) in [("nobody.outside.example", "cannot be resolved"), ("api.outside.example", "")] {
        let request = format!("GET http://{host}/ HTTP/1.1\r\nhost: {host}\r\n\r\n");
        let answer = talk(at, &[request.as_bytes()]).await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains(host) && answer.contains(why), "{answer}");
    }
}
