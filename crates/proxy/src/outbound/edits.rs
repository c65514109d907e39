//! What a rule changes of a request and of its answer, and the answers that it makes itself.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header, request};
use mesh::{AbortWith, CorsDecision, FormatFacts, HeaderEdits, HttpAction, HttpRequest, RouteDecision, RouteOutcome};

use super::arrival::Way;
use super::decide::facts;
use super::forward::http_of_grpc;
use crate::body::{self, Body};
use crate::reply;

const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

/// The changes that one decision makes of the answer, whoever gives it.
pub(super) struct AnswerEdits {
    edits: Vec<HeaderEdits>,
    /// What values in Envoy's format are made of, if there are any.
    asked: Option<Box<Asked>>,
    cookie: Option<HeaderValue>,
    cors: HeaderMap,
    /// The answer to a preflight.
    preflight: Option<HeaderMap>,
}

/// A request, as far as values of headers are made of it (`mesh::FormatFacts`).
struct Asked {
    head: request::Parts,
    authority: Authority,
    way: Way,
    route: String,
    started: Duration,
}

impl Asked {
    /// `None` unless the decision's header operations depend on the request or the answer.
    fn by(decision: &RouteDecision, head: &request::Parts, authority: &Authority, way: &Way) -> Option<Box<Self>> {
        operations(decision).find(|found| found.request.are_formats() || found.response.are_formats())?;
        let route = decision.rule.as_ref().and_then(|rule| rule.origin.name.clone()).unwrap_or_default();
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Some(Box::new(Self { head: head.clone(), authority: authority.clone(), way: way.clone(), route, started }))
    }

    fn render<'a>(&self, edits: &'a HeaderEdits, response: Option<(u16, &HeaderMap)>) -> Cow<'a, HeaderEdits> {
        let request = facts(&self.head, &self.authority, &self.way);
        let connection = self.way.facts();
        let peer = self.way.peer().map(|peer| peer.id.to_string());
        edits.rendered(&FormatFacts {
            request: &request,
            protocol: protocol(self.head.version),
            response,
            started: self.started,
            source: self.way.source(),
            remote_ip: connection.remote_ip,
            destination_ip: connection.destination_ip,
            sni: connection.sni,
            peer: peer.as_deref(),
            route: &self.route,
        })
    }
}

/// As Envoy writes it.
fn protocol(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

impl AnswerEdits {
    /// Before anything of the request is changed.
    pub(super) fn of(decision: &RouteDecision, head: &request::Parts, authority: &Authority, way: &Way) -> Self {
        let (mut cors, mut preflight) = (HeaderMap::new(), None);
        if let Some(policy) = decision.rule.as_ref().and_then(|rule| rule.cors.as_ref()) {
            match mesh::cors(policy, &facts(head, authority, way)) {
                CorsDecision::Preflight(headers) => preflight = Some(headers),
                CorsDecision::Headers(headers) => cors = headers,
                CorsDecision::Nothing => {}
            }
        }
        let edits = operations(decision).map(|operations| operations.response.clone()).collect();
        let asked = Asked::by(decision, head, authority, way);
        let cookie = decision.affinity.as_ref().and_then(|affinity| affinity.set_cookie.as_ref());
        let cookie = cookie.and_then(|cookie| HeaderValue::try_from(&cookie.value).ok());
        Self { edits, asked, cookie, cors, preflight }
    }

    /// Header operations on the request, with values in the place of formats.
    fn of_request<'a>(&self, edits: &'a HeaderEdits) -> Cow<'a, HeaderEdits> {
        match &self.asked {
            Some(asked) => asked.render(edits, None),
            None => Cow::Borrowed(edits),
        }
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
    pub(super) fn apply<B>(&self, response: &mut Response<B>) {
        let status = response.status().as_u16();
        for edits in &self.edits {
            let edits = match &self.asked {
                Some(asked) => asked.render(edits, Some((status, response.headers()))),
                None => Cow::Borrowed(edits),
            };
            mesh::apply_headers(&edits, response.headers_mut());
        }
        let headers = response.headers_mut();
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
    answers: &AnswerEdits,
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
        mesh::apply_headers(&answers.of_request(&operations.request), &mut head.headers);
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
pub(super) fn own_answer(decision: &RouteDecision, grpc: bool) -> Option<Response<Body>> {
    match &decision.outcome {
        RouteOutcome::Redirect { status, location } => {
            let mut response = reply::direct(status_of(*status), &[], grpc);
            if let Ok(location) = HeaderValue::try_from(location) {
                response.headers_mut().insert(header::LOCATION, location);
            }
            Some(response)
        }
        RouteOutcome::Direct => match &decision.rule.as_ref()?.action {
            HttpAction::Direct(direct) => Some(reply::direct(status_of(direct.status), &direct.body, grpc)),
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
        AbortWith::Grpc(code) if grpc => reply::trailers_only(code, MESSAGE),
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
