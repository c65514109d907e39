//! What an operator may ask the sidecar: readiness, figures, and what it would decide.

use discovery::Client;
use http::{HeaderMap, HeaderName, HeaderValue};
use mesh::{AccessRequest, Claims, HttpRequest, InboundPeer, Protocol, Reason, SpiffeId, View};
use proxy::outbound::{Outbound, Question};
use serde_json::{Value, json};
use telemetry::{Admin, Query, Readiness, Registry};

const EXPLAIN_HINT: &str =
    "/debug/explain?host=reviews.default&port=9080; more: method=, path=, headers= (one `name: value` a line)";
const AUTHORIZE_HINT: &str =
    "/debug/authorize?port=9080&peer=spiffe://…; more: host=, method=, path=, headers=, claims= (a JSON object)";

/// The admin API of a sidecar.
pub(crate) fn admin_api(client: &Client, outbound: &Outbound, registry: Registry, readiness: Readiness) -> Admin {
    let (explained, explaining) = (client.clone(), outbound.clone());
    let (authorized, viewed) = (client.clone(), client.clone());
    let (pooled, endpoints) = (outbound.clone(), outbound.clone());
    Admin::new(registry, readiness)
        .route("/debug/explain", move |query| {
            let (client, outbound) = (explained.clone(), explaining.clone());
            async move { explain(&client, &outbound, &query).await }
        })
        .route("/debug/authorize", move |query| {
            let client = authorized.clone();
            async move {
                let view = client.view().borrow().clone();
                authorize(&view, &query)
            }
        })
        .route("/debug/view", move |_| {
            let client = viewed.clone();
            async move {
                let view = client.view().borrow().clone();
                json!({"age_ms": age(&client), "view": to_json(&*view)})
            }
        })
        .route("/debug/endpoints", move |_| {
            let outbound = endpoints.clone();
            async move { to_json(&outbound.endpoints()) }
        })
        .route("/debug/pools", move |_| {
            let outbound = pooled.clone();
            async move { to_json(&outbound.pools()) }
        })
}

/// What the workload's next request to a host would meet. A request without method and path is a connection, unless the
/// port speaks HTTP: then it is `GET /`.
async fn explain(client: &Client, outbound: &Outbound, query: &Query) -> Value {
    let port = query.get("port").and_then(|port| port.parse().ok());
    let (Some(host), Some(port)) = (query.get("host"), port) else {
        return json!({"error": "host and port are needed", "hint": EXPLAIN_HINT});
    };
    let headers = match headers(query) {
        Ok(headers) => headers,
        Err(error) => return json!({"error": error, "hint": EXPLAIN_HINT}),
    };
    let described = ["method", "path", "headers"].iter().any(|name| query.get(name).is_some());
    let plain = outbound.decide(host, port).await;
    let speaks_http = plain.protocol.is_http() || plain.service.is_none();
    let request = (described || speaks_http).then(|| format!("{} {}", method(query), path(query)));
    let decision = if request.is_some() {
        let question = Question { host: host.to_owned(), port, method: method(query), path: path(query), headers };
        outbound.explain(&question).await
    } else {
        plain
    };
    let because = sentences(&decision.reasons);
    json!({"host": host, "port": port, "age_ms": age(client), "request": request, "decision": to_json(&decision), "because": because})
}

fn sentences(reasons: &[Reason]) -> Vec<String> {
    reasons.iter().map(ToString::to_string).collect()
}

/// What the sidecar would say to a request of a client: which transport it demands, what the policies decide, which
/// limits count it. Nothing is verified or counted: identity and claims are taken as they are given.
fn authorize(view: &View, query: &Query) -> Value {
    let refused = |error: String| json!({"error": error, "hint": AUTHORIZE_HINT});
    let Some(port) = query.get("port").and_then(|port| port.parse::<u16>().ok()) else {
        return refused("port is needed".to_owned());
    };
    let peer = match query.get("peer").filter(|peer| !peer.is_empty()).map(str::parse::<SpiffeId>).transpose() {
        Ok(peer) => peer,
        Err(error) => return refused(format!("peer: {error}")),
    };
    let claims = match query.get("claims").map(serde_json::from_str).transpose() {
        Ok(claims) => claims.map(|all| Claims { all }),
        Err(error) => return refused(format!("claims: {error}")),
    };
    let headers = match headers(query) {
        Ok(headers) => headers,
        Err(error) => return refused(error),
    };
    let (method, path, host) = (method(query), path(query), query.get("host").unwrap_or_default().to_owned());
    let http =
        HttpRequest { method: &method, scheme: "http", authority: &host, path_and_query: &path, headers: &headers };
    let transport = mesh::authorize_inbound(view, peer.as_ref().map_or(InboundPeer::Plain, InboundPeer::Mutual), port);
    let Some(workload) = view.workload.as_deref() else { return refused("there is no view yet".to_owned()) };
    let own_port = transport.outcome.as_ref().map_or(port, |port| port.number);
    let opaque = |port: &mesh::WorkloadPort| matches!(port.protocol, Protocol::Tcp | Protocol::TcpServerFirst);
    let speaks_http = !transport.outcome.as_ref().is_ok_and(opaque);
    let request = AccessRequest {
        peer: peer.as_ref(),
        port: own_port,
        http: speaks_http.then_some(&http),
        claims: claims.as_ref(),
        ..AccessRequest::default()
    };
    let inbound = &workload.config.inbound;
    let access = mesh::authorize(inbound, &request);
    // That no policy forbids the transport says nothing beside what the policies say of the request.
    let of_transport = transport.reasons.iter().filter(|reason| **reason != Reason::AllowedByDefault).cloned();
    let mut because = sentences(&of_transport.collect::<Vec<_>>());
    if transport.outcome.is_ok() {
        because.extend(sentences(&access.reasons));
    }
    let counted = mesh::limits(inbound, &request);
    let counted = counted.iter().map(|applied| {
        let limit = applied.limit;
        format!(
            "{}: {} requests in {} ms, bursts of {}",
            limit.origin,
            limit.requests,
            limit.per.as_millis(),
            limit.burst
        )
    });
    let tokens = inbound.tokens.iter().map(|rule| json!({"rule": rule.origin.to_string(), "issuer": rule.issuer}));
    json!({
        "workload": format!("{}/{}", workload.namespace, workload.name),
        "revision": view.revision,
        "transport": to_json(&transport),
        "authorization": to_json(&access),
        "because": because,
        "tokens": tokens.collect::<Vec<_>>(),
        "counted": counted.collect::<Vec<_>>(),
    })
}

fn method(query: &Query) -> String {
    query.get("method").unwrap_or("GET").to_owned()
}

fn path(query: &Query) -> String {
    match query.get("path") {
        Some(path) if path.starts_with('/') || path == "*" => path.to_owned(),
        Some(path) => format!("/{path}"),
        None => "/".to_owned(),
    }
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

fn age(client: &Client) -> Option<u64> {
    client.age().map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}

/// What cannot be written as JSON is replaced by the reason.
fn to_json(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_else(|error| json!({"error": error.to_string()}))
}
