//! Servers without a sidecar: TLS that starts here, and which HTTP they get behind it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::{Request, Version};
use http_body_util::BodyExt;
use mesh::*;
use proxy::body;
use proxy::listen::{Lifecycle, Limits};
use proxy::serve::serve;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::policy::{destination, with_policy};
use crate::world::*;

const PATIENCE: Duration = Duration::from_secs(10);
/// The URL that the child process of a test fetches.
const FETCH: &str = "ISTHMUS_TEST_FETCH";

/// A server behind TLS that tells the version of HTTP it was asked with.
struct TlsApp {
    at: SocketAddr,
    /// The roots that vouch for it.
    ca: Vec<u8>,
    handshakes: Arc<AtomicU32>,
    /// Requests.
    arrived: Arc<AtomicU32>,
}

impl TlsApp {
    async fn start(name: &str, alpn: &[&str]) -> Self {
        Self::gated(name, alpn, Arc::new(Semaphore::new(Semaphore::MAX_PERMITS))).await
    }

    /// It answers as often as there are permits.
    async fn gated(name: &str, alpn: &[&str], open: Arc<Semaphore>) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
        let builder = rustls::ServerConfig::builder_with_provider(identity::provider());
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = builder.with_single_cert(vec![leaf.der().clone()], key).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let (acceptor, handshakes) = (TlsAcceptor::from(Arc::new(config)), Arc::new(AtomicU32::new(0)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, counted) = (listener.local_addr().unwrap(), handshakes.clone());
        let arrived = Arc::new(AtomicU32::new(0));
        let requests = arrived.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, counted, open) = (acceptor.clone(), counted.clone(), open.clone());
                let requests = requests.clone();
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    counted.fetch_add(1, Ordering::SeqCst);
                    let answer = move |request: Request<hyper::body::Incoming>| {
                        let open = open.clone();
                        requests.fetch_add(1, Ordering::SeqCst);
                        async move {
                            open.acquire().await.unwrap().forget();
                            http::Response::new(body::full(format!("{:?}", request.version())))
                        }
                    };
                    serve(stream, &Limits::default(), &Lifecycle::default(), answer).await;
                });
            }
        });
        Self { at, ca: ca.pem().into_bytes(), handshakes, arrived }
    }
}

/// The service `reviews` behind TLS that starts at its clients.
fn behind_tls(app: &TlsApp, protocol: Protocol) -> ViewOf {
    limited(app, protocol, ConnectionPool::default())
}

fn limited(app: &TlsApp, protocol: Protocol, pool: ConnectionPool) -> ViewOf {
    let tls = OriginateTls {
        material: TlsMaterial::Secret("default/ca".into()),
        sni: Some("secure.example".into()),
        ..OriginateTls::default()
    };
    let policy = TrafficPolicy { tls: ClientTls::Originate(Box::new(tls)), pool, ..TrafficPolicy::default() };
    let view = ViewOf::cluster("east").endpoints("reviews", protocol, &[app.at.ip()], app.at.port(), None);
    let mut view = with_policy(view, policy);
    let none = Vec::new;
    let name = "default/ca".to_owned();
    let secret =
        Secret { name: name.clone(), certificate: none(), private_key: none(), ca: app.ca.clone(), crl: none() };
    view.0.secrets.insert(name, Arc::new(secret));
    view
}

#[tokio::test]
async fn a_server_behind_tls_gets_the_http_that_its_port_declares_or_that_it_chooses() {
    let world = World::new();
    let cases: [(Protocol, &[&str], &str); 6] = [
        (Protocol::Tcp, &["http/1.1"], "HTTP/1.1"),
        (Protocol::Tcp, &["h2", "http/1.1"], "HTTP/2.0"),
        (Protocol::Tcp, &["h2"], "HTTP/2.0"),
        (Protocol::Tcp, &[], "HTTP/1.1"),
        (Protocol::Grpc, &["http/1.1", "h2"], "HTTP/2.0"),
        (Protocol::Http, &["h2", "http/1.1"], "HTTP/1.1"),
    ];
    for (protocol, alpn, expected) in cases {
        let app = TlsApp::start("secure.example", alpn).await;
        let client = Client::start(&world, behind_tls(&app, protocol));
        // A request that came over HTTP/2 from a sidecar, twice: the second rides on the connection of the first.
        for _ in 0..2 {
            let mut request = Request::get("http://reviews:9080/").body(body::empty()).unwrap();
            *request.version_mut() = Version::HTTP_2;
            let response = client.outbound.call(&destination("reviews"), request, PATIENCE).await;
            let body = response.unwrap().into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, expected, "{protocol:?} {alpn:?}");
        }
        assert_eq!(app.handshakes.load(Ordering::SeqCst), 1, "{protocol:?} {alpn:?}");
    }
}

#[tokio::test]
async fn connections_are_limited_when_a_server_chooses_http_1() {
    let world = World::new();
    let pool = ConnectionPool { max_connections: Some(1), max_pending_requests: Some(1), ..ConnectionPool::default() };
    for (alpn, statuses) in [("http/1.1", vec![200, 200, 503]), ("h2", vec![200, 200, 200])] {
        let open = Arc::new(Semaphore::new(1));
        let app = TlsApp::gated("secure.example", &[alpn], open.clone()).await;
        let client = Client::start(&world, limited(&app, Protocol::Auto, pool.clone()));
        let at = client.capture("reviews").await;
        // The first finds out what the server chooses.
        assert_eq!(collect(http1(at, get("/")).await).await.body().len(), 8);
        let send = || async move { collect(http1(at, get("/")).await).await.status().as_u16() };
        let (one, two, three) = (send(), send(), send());
        let opened = async {
            let overflowed = || client.records.lock().unwrap().iter().any(|record| record.flags == "UO");
            while !overflowed() && app.arrived.load(Ordering::SeqCst) < 4 {
                tokio::task::yield_now().await;
            }
            open.add_permits(3);
        };
        let (one, two, three, ()) = tokio::join!(one, two, three, opened);
        let mut seen = vec![one, two, three];
        seen.sort_unstable();
        assert_eq!(seen, statuses, "{alpn}");
    }
}

#[tokio::test]
async fn documents_are_fetched_over_tls_with_the_roots_of_the_machine() {
    let app = TlsApp::start("localhost", &["http/1.1"]).await;
    let directory = tempfile::tempdir().unwrap();
    let roots = directory.path().join("roots.pem");
    std::fs::write(&roots, &app.ca).unwrap();
    // The roots are read once a process, so that another process has to do it.
    let url = format!("https://localhost:{}/keys", app.at.port());
    let child = tokio::task::spawn_blocking(move || {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "origin::in_a_process_of_its_own_a_document_is_fetched"])
            .env("SSL_CERT_FILE", roots)
            .env(FETCH, url)
            .output()
    });
    let output = child.await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(app.handshakes.load(Ordering::SeqCst), 1);
}

/// The other half of the test above, which tells it what to fetch; there is nothing to do alone.
#[tokio::test]
async fn in_a_process_of_its_own_a_document_is_fetched() {
    let Ok(url) = std::env::var(FETCH) else { return };
    let client = Client::start(&World::new(), ViewOf::cluster("east"));
    assert_eq!(client.outbound.fetch(&url, PATIENCE).await.unwrap(), "HTTP/1.1");
}
