//! What happened, one record per request or connection: it becomes one line of the access log and the standard metrics.

mod open;
mod party;

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mesh::{Reason, RouteDecision, RouteOutcome, ServiceName};
use serde::Serialize;

use crate::body::{self, Body, Tracked};
use crate::copy::{Moved, Side};
use crate::fault::flag;
use crate::metrics::Metrics;
use crate::reply;
use crate::serve::Unreadable;
use crate::udp::Counts;

pub use open::OpenRecord;
pub use party::Party;
pub(crate) use party::workload_of;

/// Which end of the mesh hop reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reporter {
    /// The client's proxy.
    Source,
    /// The server's proxy.
    Destination,
}

impl Reporter {
    /// The value of Istio's `reporter` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// Who ended a request or connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClosedBy {
    /// Towards the server.
    Upstream,
    /// Towards the client.
    Downstream,
    /// This proxy.
    Us,
}

impl ClosedBy {
    /// For a copy whose first stream leads to the client.
    pub fn of_copy(side: Side) -> Self {
        match side {
            Side::A => Self::Downstream,
            Side::B => Self::Upstream,
            Side::Us => Self::Us,
        }
    }
}

/// The way between clusters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Via {
    /// The own gateway that carried it.
    pub source_gateway: String,
    /// The gateway of the other cluster that dialled the server.
    pub gateway: String,
    /// The QUIC path between the two.
    pub path: String,
}

/// What records say of an end without a sidecar, for which a gateway (`<cluster>/<name>`) speaks.
pub fn unmeshed(gateway: &str) -> Arc<str> {
    format!("unmeshed (gateway {gateway})").into()
}

/// Everything that is recorded of one request or connection.
#[derive(Debug, Clone, Serialize)]
pub struct Record {
    /// RFC 3339, UTC, when it began.
    pub time: String,
    /// Which end reports.
    pub reporter: Reporter,
    /// `http`, `grpc` or `tcp`, as in Istio's `request_protocol`; `udp` for flows of datagrams.
    pub protocol: &'static str,
    /// HTTP only.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// What the client named.
    pub authority: String,
    /// HTTP only; without the query, which may hold secrets.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// HTTP status; 0 for connections.
    pub status: u16,
    /// gRPC only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<String>,
    /// Response flags, `-` for none.
    pub flags: &'static str,
    /// Who made the answer, and why, in Envoy's words (`response_code_details` of Istio's log).
    #[serde(skip_serializing_if = "str::is_empty")]
    pub response_code_details: Cow<'static, str>,
    /// The client: who dialled, or whom trusted hops tell of (as in Istio's log).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub downstream_remote_address: String,
    /// The way that the request says it took (as in Istio's log).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub x_forwarded_for: String,
    /// What the client says it is (as in Istio's log).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_agent: String,
    /// Milliseconds from the first byte to the last.
    pub duration_ms: u64,
    /// Bytes towards the client.
    pub bytes_sent: u64,
    /// Bytes from the client.
    pub bytes_received: u64,
    /// One id on all hops.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// The client's end.
    pub source: Party,
    /// The server's end.
    pub destination: Party,
    /// The service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// The rule that matched: object and path.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub route: String,
    /// The destination in Istio's words: `outbound|9080|v1|reviews.default.svc.cluster.local`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub upstream_cluster: String,
    /// The address or the service port that was dialled.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub upstream: String,
    /// The gateways, when it left the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateways: Option<Via>,
    /// Set where the client has no sidecar and a gateway speaks for it: `unmeshed (gateway east/gateway-1)`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<Arc<str>>,
    /// Set where the server has no sidecar and a gateway speaks for it, so that the last hop is plain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<Arc<str>>,
    /// Attempts made.
    pub attempts: u32,
    /// Both ends proved who they are.
    pub mutual_tls: bool,
    /// The revision that the decision was made on.
    pub revision: u64,
    /// The decision's reasons.
    pub reasons: Vec<Reason>,
    /// An AUDIT policy matched.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub audit: bool,
    /// Who ended it.
    pub closed_by: ClosedBy,
    /// A client may repeat it without doing harm.
    pub retriable: bool,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip)]
    started: Instant,
    /// The bytes sent and received that the metrics have counted already, while the connection ran.
    #[serde(skip)]
    counted: [u64; 2],
}

impl Record {
    /// Begins a record.
    pub fn begin(reporter: Reporter, protocol: &'static str, authority: String) -> Self {
        Self {
            time: mesh::rfc3339(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
            reporter,
            protocol,
            method: String::new(),
            authority,
            path: String::new(),
            status: 0,
            grpc_status: None,
            flags: "-",
            response_code_details: Cow::Borrowed(""),
            downstream_remote_address: String::new(),
            x_forwarded_for: String::new(),
            user_agent: String::new(),
            duration_ms: 0,
            bytes_sent: 0,
            bytes_received: 0,
            request_id: String::new(),
            source: Party::default(),
            destination: Party::default(),
            service: None,
            route: String::new(),
            upstream_cluster: String::new(),
            upstream: String::new(),
            gateways: None,
            client: None,
            server: None,
            attempts: 0,
            mutual_tls: false,
            revision: 0,
            reasons: Vec::new(),
            audit: false,
            closed_by: ClosedBy::Upstream,
            retriable: false,
            error: None,
            started: Instant::now(),
            counted: [0; 2],
        }
    }

    /// Takes over what a decision says.
    pub fn decided(&mut self, decision: &RouteDecision) {
        self.revision = decision.revision;
        self.reasons = decision.reasons.clone();
        self.service = decision.service.clone();
        self.route = decision.rule.as_ref().map(|rule| rule.origin.to_string()).unwrap_or_default();
        self.upstream_cluster = upstream_cluster(decision);
    }

    /// Takes over the head of a request.
    pub fn request<B>(&mut self, request: &http::Request<B>) {
        self.method = request.method().to_string();
        // Paths are the client's; a line of the log must stay a line of sane length.
        self.path = request.uri().path().chars().take(1024).collect();
        let content_type = request.headers().get(http::header::CONTENT_TYPE);
        if content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
            self.protocol = "grpc";
        }
        self.x_forwarded_for = said(request, "x-forwarded-for");
        self.user_agent = said(request, "user-agent");
    }

    /// Takes over who the client is; `remote` when trusted hops tell of another one than dialled.
    pub fn client(&mut self, source: Option<SocketAddr>, remote: Option<IpAddr>) {
        let dialled = source.map(|source| SocketAddr::new(source.ip().to_canonical(), source.port()));
        let other = remote.filter(|remote| dialled.is_none_or(|dialled| dialled.ip() != *remote));
        // Of the other one nobody knows the port.
        let client = other.map(|remote| SocketAddr::new(remote, 0)).or(dialled);
        self.downstream_remote_address = client.map(|client| client.to_string()).unwrap_or_default();
    }

    /// This proxy refuses what the client says, for this reason.
    fn refuse(&mut self, status: u16, reason: &'static str) {
        self.status = status;
        self.flag(flag::PROTOCOL);
        self.response_code_details = Cow::Borrowed(reason);
        self.closed_by = ClosedBy::Us;
    }

    /// Sets the response flag; that a delay was put in stays.
    pub fn flag(&mut self, flag: &'static str) {
        self.flags = if self.flags.split(',').any(|one| one == flag::DELAY) { flag::delayed(flag) } else { flag };
    }

    /// The bytes sent and received since this was asked last.
    pub(crate) fn uncounted(&mut self) -> [u64; 2] {
        let carried = [self.bytes_sent, self.bytes_received];
        let counted = std::mem::replace(&mut self.counted, carried);
        [carried[0].saturating_sub(counted[0]), carried[1].saturating_sub(counted[1])]
    }

    /// How long it has taken so far.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Istio's name of where connections go to ports of the workload that nobody declared.
pub(crate) const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";

/// A header of the request; it is the client's, so that it must be cut.
fn said<B>(request: &http::Request<B>, name: &str) -> String {
    let value = request.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
    value.map(|value| value.chars().take(512).collect()).unwrap_or_default()
}

/// Istio's name of the cluster that a decision leads to.
fn upstream_cluster(decision: &RouteDecision) -> String {
    match (&decision.outcome, &decision.service) {
        (RouteOutcome::Passthrough, _) | (RouteOutcome::Forward { .. }, None) => "PassthroughCluster".to_owned(),
        (RouteOutcome::Refuse, _) if decision.reasons.contains(&Reason::NotInMesh) => "BlackHoleCluster".to_owned(),
        (RouteOutcome::Forward { .. }, Some(service)) => {
            let subset = decision.subset.as_deref().unwrap_or_default();
            format!("outbound|{}|{subset}|{}", decision.port, host_of(service))
        }
        _ => String::new(),
    }
}

/// The host that metrics and logs name a service by.
pub(crate) fn host_of(service: &ServiceName) -> String {
    if service.is_entry() {
        service.name().to_owned()
    } else {
        format!("{}.{}.svc.cluster.local", service.name(), service.namespace())
    }
}

/// Takes finished records. The sink is the access log in processes and a list in tests.
#[derive(Clone)]
pub struct Recorder {
    /// The standard metrics.
    pub metrics: Metrics,
    sink: Arc<dyn Fn(&Record) + Send + Sync>,
}

impl Recorder {
    /// Records into `metrics` and `sink`.
    pub fn new(metrics: Metrics, sink: impl Fn(&Record) + Send + Sync + 'static) -> Self {
        Self { metrics, sink: Arc::new(sink) }
    }

    /// A request is over.
    pub fn request(&self, mut record: Record) {
        if record.response_code_details.is_empty() {
            record.response_code_details = Cow::Borrowed(flag::details(record.flags, record.closed_by == ClosedBy::Us));
        }
        record.duration_ms = u64::try_from(record.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.metrics.request(&record);
        (self.sink)(&record);
    }

    /// Follows a request until it is over; see [`OpenRecord`].
    pub fn open(&self, record: Record) -> OpenRecord {
        OpenRecord::new(record, self.clone())
    }

    /// Answers a request whose head is refused; the log says why.
    pub fn refused_head<B>(
        &self,
        mut record: Record,
        request: &http::Request<B>,
        refusal: mesh::HeadRefusal,
    ) -> http::Response<Body> {
        let response = reply::for_head(refusal, request.version(), reply::is_grpc(request.headers()));
        record.refuse(response.status().as_u16(), refusal.as_str());
        record.grpc_status = body::grpc_status(response.headers());
        let open = self.open(record);
        response.map(|body| Tracked::wrap(body, move |ending| open.finish(&ending)))
    }

    /// Bytes came that are no request, and were answered by whoever read them.
    pub fn unreadable(&self, mut record: Record, why: Unreadable) {
        record.refuse(why.status(), why.as_str());
        self.request(record);
    }

    /// A connection is open.
    pub fn opened(&self, record: &Record) {
        self.metrics.tcp_opened(record);
    }

    /// A connection goes on, and has carried this much so far.
    pub(crate) fn progressed(&self, record: &mut Record, moved: Moved) {
        record.bytes_received = moved.a_to_b;
        record.bytes_sent = moved.b_to_a;
        self.metrics.tcp_moved(record);
    }

    /// A flow of datagrams is over; how many there were.
    pub(crate) fn datagrams(&self, record: &Record, counts: &Counts) {
        let reporter = record.reporter.as_str();
        // The local end is the client at the source, the server at the destination.
        let [sent, received] = match record.reporter {
            Reporter::Source => ["to_server", "to_client"],
            Reporter::Destination => ["to_client", "to_server"],
        };
        self.metrics.datagrams(reporter, sent, "carried", counts.sent());
        self.metrics.datagrams(reporter, received, "carried", counts.received());
        self.metrics.datagrams(reporter, received, "dropped", counts.dropped());
    }

    /// A connection is over.
    pub fn closed(&self, mut record: Record) {
        record.duration_ms = u64::try_from(record.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.metrics.tcp_closed(&mut record);
        (self.sink)(&record);
    }
}
