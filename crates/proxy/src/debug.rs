//! The debug pages that sidecars and gateways share: what would be decided of a request that nobody sent. Nothing is
//! verified or counted: identity and claims are taken as they are given.

use http::{HeaderMap, HeaderName, HeaderValue};
use mesh::{
    AccessRequest, Claims, InboundPeer, PathNormalization, PortScope, Protocol, Reason, RouteDecision, SpiffeId, View,
    Workload,
};
use serde_json::{Value, json};
use telemetry::Query;

use crate::outbound::Question;

/// A request as the parameters of a page describe it.
#[derive(Debug, Clone)]
pub struct Described {
    /// The request.
    pub question: Question,
    /// Method, path or headers were named: it is an HTTP request whatever the port speaks.
    pub http: bool,
    /// It is a flow of datagrams.
    pub udp: bool,
    /// Who asks, proven by mTLS; nobody in plain text.
    pub peer: Option<SpiffeId>,
    /// The claims of its token, as if they had been verified.
    pub claims: Option<Claims>,
}

impl Described {
    /// Reads `host`, `port`, `method`, `path`, `headers` (one `name: value` a line), `sni`, `transport` (`udp`, else TCP),
    /// `peer` and `claims` (a JSON object). The path is normalised as that of a request would be.
    pub fn read(query: &Query, paths: PathNormalization) -> Result<Self, String> {
        let port = query.get("port").and_then(|port| port.parse().ok()).ok_or("port is needed, as a number")?;
        let peer = query.get("peer").filter(|peer| !peer.is_empty()).map(str::parse::<SpiffeId>).transpose();
        let claims = query.get("claims").map(serde_json::from_str).transpose();
        let question = Question {
            host: query.get("host").unwrap_or_default().to_owned(),
            port,
            method: query.get("method").unwrap_or("GET").to_owned(),
            path: path(query, paths)?,
            headers: headers(query)?,
            sni: query.get("sni").filter(|sni| !sni.is_empty()).map(str::to_owned),
        };
        Ok(Self {
            question,
            udp: query.get("transport") == Some("udp"),
            http: ["method", "path", "headers"].iter().any(|name| query.get(name).is_some()),
            peer: peer.map_err(|error| format!("peer: {error}"))?,
            claims: claims.map_err(|error| format!("claims: {error}"))?.map(|all| Claims { all }),
        })
    }

    /// `GET /`.
    fn line(&self) -> String {
        format!("{} {}", self.question.method, self.question.path)
    }
}

/// The answer to a question that cannot be answered.
pub fn refused(error: impl Into<String>, hint: &str) -> Value {
    json!({"error": error.into(), "hint": hint})
}

/// Where it would go. `http` tells whether it was decided as a request or as a connection, `age` (ms) how long ago the
/// agent was heard of, if it is out of reach.
pub fn decided(described: &Described, decision: &RouteDecision, http: bool, age: Option<u64>) -> Value {
    let Question { host, port, .. } = &described.question;
    let request = http.then(|| described.line());
    let because = sentences(&decision.reasons);
    json!({"host": host, "port": port, "age_ms": age, "request": request, "decision": to_json(decision), "because": because})
}

/// What a sidecar would say to it: which transport it demands, what the policies decide, which limits count it.
pub fn authorized(view: &View, described: &Described, scope: PortScope) -> Value {
    let Some(workload) = view.workload.as_deref() else { return refused("there is no view yet", "") };
    let (peer, port) = (described.peer.as_ref(), described.question.port);
    let whom = peer.map_or(InboundPeer::Plain, InboundPeer::Mutual);
    let transport = match described.udp {
        true => mesh::authorize_inbound_udp(view, whom, port, scope),
        false => mesh::authorize_inbound(view, whom, port, scope),
    };
    let own_port = transport.outcome.as_ref().map_or(port, |port| port.number);
    let opaque =
        |port: &mesh::WorkloadPort| matches!(port.protocol, Protocol::Tcp | Protocol::TcpServerFirst | Protocol::Udp);
    let http = (!transport.outcome.as_ref().is_ok_and(opaque)).then_some("http");
    let mut answer = admitted(view.revision, workload, described, own_port, http);
    // That no policy forbids the transport says nothing beside what the policies say of the request.
    let of_transport = transport.reasons.iter().filter(|reason| **reason != Reason::AllowedByDefault).cloned();
    let mut because = sentences(&of_transport.collect::<Vec<_>>());
    if transport.outcome.is_ok() {
        because.extend(answer["because"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned));
    }
    answer["because"] = json!(because);
    answer["transport"] = to_json(&transport);
    answer
}

/// What the policies of a workload say to it at a port, once the connection stands: tokens, authorization, limits.
/// Without a scheme it is a connection.
pub fn admitted(
    revision: u64,
    workload: &Workload,
    described: &Described,
    port: u16,
    scheme: Option<&'static str>,
) -> Value {
    let http = scheme.map(|scheme| described.question.http(scheme));
    let request = AccessRequest {
        peer: described.peer.as_ref(),
        port,
        http: http.as_ref(),
        claims: described.claims.as_ref(),
        ..AccessRequest::default()
    };
    let inbound = &workload.config.inbound;
    let access = mesh::authorize(inbound, &request);
    let counted = mesh::limits(inbound, &request);
    let counted = counted.iter().map(|applied| {
        let limit = applied.limit;
        let per = limit.per.as_millis();
        format!("{}: {} requests in {per} ms, bursts of {}", limit.origin, limit.requests, limit.burst)
    });
    let tokens = inbound.tokens.iter().map(|rule| json!({"rule": rule.origin.to_string(), "issuer": rule.issuer}));
    json!({
        "workload": format!("{}/{}", workload.namespace, workload.name),
        "revision": revision,
        "because": sentences(&access.reasons),
        "authorization": to_json(&access),
        "tokens": tokens.collect::<Vec<_>>(),
        "counted": counted.collect::<Vec<_>>(),
    })
}

/// What cannot be written as JSON is replaced by the reason.
pub fn to_json(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_else(|error| json!({"error": error.to_string()}))
}

fn sentences(reasons: &[Reason]) -> Vec<String> {
    reasons.iter().map(ToString::to_string).collect()
}

fn path(query: &Query, paths: PathNormalization) -> Result<String, String> {
    let path = match query.get("path") {
        Some(path) if path.starts_with('/') || path == "*" => path.to_owned(),
        Some(path) => format!("/{path}"),
        None => "/".to_owned(),
    };
    let settled = mesh::normalize_target(&path, paths).ok_or_else(|| format!("{path:?} cannot be normalised"))?;
    Ok(settled.into_owned())
}

/// One `name: value` a line.
fn headers(query: &Query) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for line in query.get("headers").unwrap_or_default().lines().filter(|line| !line.trim().is_empty()) {
        let (name, value) = line.split_once(':').ok_or_else(|| format!("{line:?} is not `name: value`"))?;
        let name: HeaderName = name.trim().parse().map_err(|_| format!("{name:?} is no header name"))?;
        let value: HeaderValue = value.trim().parse().map_err(|_| format!("{value:?} is no header value"))?;
        headers.append(name, value);
    }
    Ok(headers)
}
