//! The admin listener that every process has: health, readiness, metrics, and whatever JSON the process shows of itself.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh::Sources;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::readiness::Readiness;
use crate::registry::Registry;
use crate::shed::shed;
use crate::shutdown::Shutdown;

/// How many connections are served at a time; more are closed at once.
const MAX_CONNECTIONS: usize = 256;
/// Of these, of one source: whoever stalls them must not keep probes and scrapers out.
const PER_SOURCE: usize = 64;
/// How long a request's header may take, also on a connection that is kept alive.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take to be made.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest request header, in bytes.
const HEADER_MAX: usize = 16 * 1024;

const JSON: &str = "application/json";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// The parameters of a request, `?a=1&b=2`; the last one of a name counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(BTreeMap<String, String>);

type Answer = Pin<Box<dyn Future<Output = Value> + Send>>;
type Handler = Arc<dyn Fn(Query) -> Answer + Send + Sync>;

/// Answers `GET /healthz`, `/readyz`, `/metrics`, and the `/debug/…` paths that were added.
#[derive(Clone)]
pub struct Admin {
    registry: Registry,
    readiness: Readiness,
    routes: BTreeMap<&'static str, Handler>,
}

/// The listener broke.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// It accepts no connections.
    #[error("the admin listener accepts no connections")]
    Accept(#[source] io::Error),
}

impl Query {
    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        Self(pairs.map(|(name, value)| (unescape(name), unescape(value))).collect())
    }
}

impl Admin {
    /// An admin interface without debug paths.
    pub fn new(registry: Registry, readiness: Readiness) -> Self {
        Self { registry, readiness, routes: BTreeMap::new() }
    }

    /// Adds a path, such as `/debug/view`, that answers with JSON.
    #[must_use]
    pub fn route<F, A>(mut self, path: &'static str, answer: F) -> Self
    where
        F: Fn(Query) -> A + Send + Sync + 'static,
        A: Future<Output = Value> + Send + 'static,
    {
        self.routes.insert(path, Arc::new(move |query| Box::pin(answer(query))));
        self
    }

    /// Serves until the process ends; it goes on while it drains, so that the drain can be watched.
    pub async fn serve(self, listener: TcpListener, shutdown: Shutdown) -> Result<(), AdminError> {
        let ended = shutdown.ended();
        let serving = Arc::new(Serving { admin: self, shutdown });
        let (slots, sources) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), Sources::default());
        loop {
            let (stream, source) = tokio::select! {
                () = ended.cancelled() => return Ok(()),
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) if is_passing(&error) => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                    Err(error) => return Err(AdminError::Accept(error)),
                },
            };
            let Some(of_source) = sources.enter(source.ip(), PER_SOURCE) else {
                shed("admin", "per-source");
                continue;
            };
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                shed("admin", "connections");
                continue;
            };
            let serving = Arc::clone(&serving);
            let ended = ended.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = serve_connection(serving, stream) => {}
                    () = ended.cancelled() => {}
                }
                drop((slot, of_source));
            });
        }
    }
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("routes", &self.routes.keys()).finish_non_exhaustive()
    }
}

/// A peer that went away, or too many open files, is no reason to stop listening.
fn is_passing(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotConnected | io::ErrorKind::Unsupported)
}

async fn serve_connection(serving: Arc<Serving>, stream: TcpStream) {
    let service = service_fn(move |request| {
        let serving = Arc::clone(&serving);
        async move { Ok::<_, Infallible>(serving.answer(&request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_MAX)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "an admin connection broke");
        match error {
            error if error.is_parse_too_large() => shed("admin", "head-too-large"),
            error if error.is_parse() => shed("admin", "malformed-request"),
            error if error.is_timeout() => shed("admin", "slow-head"),
            _ => {}
        }
    }
}

struct Serving {
    admin: Admin,
    shutdown: Shutdown,
}

impl Serving {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET {
            let mut response = json_response(StatusCode::METHOD_NOT_ALLOWED, &json!({"error": "only GET is allowed"}));
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            return response;
        }
        match request.uri().path() {
            "/healthz" => response(StatusCode::OK, TEXT, "ok\n".to_owned()),
            "/readyz" => self.ready(),
            "/metrics" => response(StatusCode::OK, OPEN_METRICS, self.admin.registry.encode()),
            "/debug" | "/debug/" => {
                json_response(StatusCode::OK, &json!({"paths": self.admin.routes.keys().collect::<Vec<_>>()}))
            }
            path => match self.admin.routes.get(path) {
                None => json_response(StatusCode::NOT_FOUND, &json!({"error": "there is nothing here; see /debug"})),
                Some(handler) => {
                    let query = Query::parse(request.uri().query().unwrap_or_default());
                    match tokio::time::timeout(ANSWER_TIMEOUT, handler(query)).await {
                        Ok(value) => json_response(StatusCode::OK, &value),
                        Err(_) => json_response(StatusCode::GATEWAY_TIMEOUT, &json!({"error": "no answer in time"})),
                    }
                }
            },
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let mut blockers = self.admin.readiness.blockers();
        if self.shutdown.draining().is_cancelled() {
            blockers.push("draining");
        }
        let status = if blockers.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        json_response(status, &json!({"ready": blockers.is_empty(), "blockers": blockers}))
    }
}

fn json_response(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    response(status, JSON, format!("{value}\n"))
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Undoes `%41` and `+`; what is no escape stays as it is.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let escaped = bytes.get(at + 1..at + 3).filter(|_| *byte == b'%');
        let escaped = escaped.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let escaped = escaped.and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(value) => {
                out.push(value);
                at += 3;
            }
            None => {
                out.push(if *byte == b'+' { b' ' } else { *byte });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn start(admin: Admin, shutdown: &Shutdown) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(admin.serve(listener, shutdown.clone()));
        address
    }

    async fn ask(address: std::net::SocketAddr, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    #[tokio::test]
    async fn readyz_names_the_blockers_until_they_are_gone_and_while_it_drains() {
        let readiness = Readiness::new();
        let block = readiness.block("first certificate");
        let shutdown = Shutdown::manual();
        let address = start(Admin::new(Registry::default(), readiness), &shutdown).await;
        let blocked = "{\"ready\":false,\"blockers\":[\"first certificate\"]}\n".to_owned();
        assert_eq!(ask(address, "GET", "/readyz").await, (503, blocked));
        drop(block);
        assert_eq!(ask(address, "GET", "/readyz").await, (200, "{\"ready\":true,\"blockers\":[]}\n".to_owned()));
        shutdown.drain();
        assert_eq!(ask(address, "GET", "/readyz").await.0, 503);
        assert_eq!(ask(address, "GET", "/healthz").await, (200, "ok\n".to_owned()));
    }

    #[tokio::test]
    async fn debug_paths_get_the_query_and_are_listed() {
        let admin = Admin::new(Registry::default(), Readiness::new())
            .route("/debug/echo", |query| async move { json!(query.get("to")) });
        let address = start(admin, &Shutdown::manual()).await;
        assert_eq!(ask(address, "GET", "/debug/echo?x&to=a%2Fb+c%zz").await, (200, "\"a/b c%zz\"\n".to_owned()));
        assert_eq!(ask(address, "GET", "/debug").await, (200, "{\"paths\":[\"/debug/echo\"]}\n".to_owned()));
        assert_eq!(ask(address, "GET", "/debug/other").await.0, 404);
        assert_eq!(ask(address, "POST", "/debug/echo").await.0, 405);
        assert!(ask(address, "GET", "/metrics").await.1.contains("isthmus_build_info"));
    }

    #[tokio::test]
    async fn a_connection_too_many_of_one_source_is_closed_and_the_others_go_on() {
        let shutdown = Shutdown::manual();
        let address = start(Admin::new(Registry::default(), Readiness::new()), &shutdown).await;
        let mut held = Vec::new();
        for _ in 0..PER_SOURCE {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            assert_ne!(stream.read(&mut [0; 512]).await.unwrap(), 0);
            held.push(stream);
        }
        let mut refused = TcpStream::connect(address).await.unwrap();
        assert!(matches!(refused.read(&mut [0; 1]).await, Ok(0) | Err(_)));
        let other = tokio::net::TcpSocket::new_v4().unwrap();
        other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        held.push(other.connect(address).await.unwrap());
        for at in [0, PER_SOURCE] {
            held[at].write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            assert_ne!(held[at].read(&mut [0; 512]).await.unwrap(), 0, "another source, and who is there already");
        }
    }

    #[tokio::test]
    async fn it_stops_when_the_process_ends() {
        let shutdown = Shutdown::manual();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let serving = tokio::spawn(Admin::new(Registry::default(), Readiness::new()).serve(listener, shutdown.clone()));
        shutdown.end();
        assert!(serving.await.unwrap().is_ok());
    }
}
