//! What a rule changes of a request and of its answer, and the answers that it makes itself.

use std::time::Duration;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header, request};
use mesh::{AbortWith, CorsDecision, HeaderEdits, HttpAction, HttpRequest, RouteDecision, RouteOutcome};

use super::forward::http_of_grpc;
use crate::body::{self, Body};
use crate::reply;

const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

/// The changes that one decision makes of the answer, whoever gives it.
pub(super) struct AnswerEdits {
    edits: Vec<HeaderEdits>,
    cookie: Option<HeaderValue>,
    cors: HeaderMap,
    /// The answer to a preflight.
    preflight: Option<HeaderMap>,
}

impl AnswerEdits {
    pub(super) fn of(decision: &RouteDecision, facts: &HttpRequest<'_>) -> Self {
        let (mut cors, mut preflight) = (HeaderMap::new(), None);
        if let Some(policy) = decision.rule.as_ref().and_then(|rule| rule.cors.as_ref()) {
            match mesh::cors(policy, facts) {
                CorsDecision::Preflight(headers) => preflight = Some(headers),
                CorsDecision::Headers(headers) => cors = headers,
                CorsDecision::Nothing => {}
            }
        }
        let edits = operations(decision).map(|operations| operations.response.clone()).collect();
        let cookie = decision.affinity.as_ref().and_then(|affinity| affinity.set_cookie.as_ref());
        let cookie = cookie.and_then(|cookie| HeaderValue::try_from(&cookie.value).ok());
        Self { edits, cookie, cors, preflight }
    }

    /// The answer to a preflight, if the request is one that is answered here.
    pub(super) fn preflight(&mut self) -> Option<Response<Body>> {
        let headers = self.preflight.take()?;
        let mut response = Response::new(body::empty());
        *response.headers_mut() = headers;
        Some(response)
    }

    /// Headers that every answer gets, also one that a fault put in.
    pub(super) fn cross_origin(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.cors {
            headers.insert(name.clone(), value.clone());
        }
    }

    /// An answer of a server, or one that the engine gives in its place.
    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        for edits in &self.edits {
            mesh::apply_headers(edits, headers);
        }
        if let Some(cookie) = &self.cookie {
            headers.append(header::SET_COOKIE, cookie.clone());
        }
        self.cross_origin(headers);
    }
}

/// How long the server took, for whoever measures.
pub(super) fn service_time(headers: &mut HeaderMap, time: Duration) {
    headers.insert(SERVICE_TIME, HeaderValue::from(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)));
}

/// The header operations of a decision: of its rule, then of its destination.
fn operations(decision: &RouteDecision) -> impl Iterator<Item = &mesh::HeaderOperations> {
    let rule = decision.rule.as_deref();
    let drawn = rule.zip(decision.destination).and_then(|(rule, number)| match &rule.action {
        HttpAction::Route(destinations) => destinations.get(number),
        _ => None,
    });
    rule.map(|rule| &rule.headers).into_iter().chain(drawn.map(|drawn| &drawn.headers))
}

/// Changes the head of a request as its rule says, and returns the authority that the server sees.
pub(super) fn edit(
    decision: &RouteDecision,
    head: &mut request::Parts,
    authority: Authority,
    scheme: &str,
) -> Authority {
    if decision.rule.is_none() {
        return authority;
    }
    let original = head.uri.path_and_query().map_or("/", PathAndQuery::as_str).to_owned();
    let facts = HttpRequest {
        method: head.method.as_str(),
        scheme,
        authority: authority.as_str(),
        path_and_query: &original,
        headers: &head.headers,
    };
    let edits = mesh::rewrite(decision, &facts);
    for operations in operations(decision) {
        mesh::apply_headers(&operations.request, &mut head.headers);
    }
    if let Some(path) = edits.path_and_query.and_then(|path| PathAndQuery::try_from(path).ok()) {
        let mut parts = head.uri.clone().into_parts();
        parts.path_and_query = Some(path);
        if let Ok(uri) = http::Uri::from_parts(parts) {
            head.uri = uri;
        }
        if let Ok(original) = HeaderValue::try_from(original) {
            head.headers.insert(ORIGINAL_PATH, original);
        }
    }
    edits.authority.and_then(|authority| authority.parse().ok()).unwrap_or(authority)
}

/// The answer that a decision makes itself: a redirect or a direct response.
pub(super) fn own_answer(decision: &RouteDecision) -> Option<Response<Body>> {
    match &decision.outcome {
        RouteOutcome::Redirect { status, location } => {
            let mut response = reply::direct(status_of(*status), &[]);
            if let Ok(location) = HeaderValue::try_from(location) {
                response.headers_mut().insert(header::LOCATION, location);
            }
            Some(response)
        }
        RouteOutcome::Direct => match &decision.rule.as_ref()?.action {
            HttpAction::Direct(direct) => Some(reply::direct(status_of(direct.status), &direct.body)),
            _ => None,
        },
        _ => None,
    }
}

/// The answer of an injected abort. A gRPC status reaches clients that do not speak it as the status that it maps to.
pub(super) fn abort(with: AbortWith, grpc: bool) -> Response<Body> {
    const MESSAGE: &str = "fault filter abort";
    match with {
        AbortWith::Http(status) => reply::text_or_grpc(status_of(status), MESSAGE, grpc),
        AbortWith::Grpc(code) if grpc => reply::grpc(code, MESSAGE),
        AbortWith::Grpc(code) => {
            let mut response = reply::text(status_of(http_of_grpc(code)), MESSAGE);
            response.headers_mut().insert("grpc-status", HeaderValue::from(code));
            response
        }
    }
}

fn status_of(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
