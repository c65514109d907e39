//! `cors()`: cross-origin rules, as Envoy's filter applies them.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    ORIGIN,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::policy::{CorsPolicy, StringMatch};
use crate::request::HttpRequest;

/// What cross-origin rules do with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsDecision {
    /// A preflight that is answered here, with status 200, these headers and no body.
    Preflight(HeaderMap),
    /// The answer to the request gets these headers, in place of those of the same names.
    Headers(HeaderMap),
    /// The request is no concern of the rules.
    Nothing,
}

/// Applies the rules. A request without `Origin` is never touched; one of another origin only loses its preflights, and
/// those only when [`CorsPolicy::answer_unmatched_preflights`] says so.
pub fn cors(policy: &CorsPolicy, request: &HttpRequest<'_>) -> CorsDecision {
    let Some(origin) = request.headers.get(ORIGIN).filter(|origin| !origin.is_empty()) else {
        return CorsDecision::Nothing;
    };
    let asks = request.headers.get(ACCESS_CONTROL_REQUEST_METHOD).is_some_and(|method| !method.is_empty());
    let preflight = request.method == "OPTIONS" && asks;
    match (is_allowed(policy, origin), preflight) {
        (true, true) => CorsDecision::Preflight(preflight_headers(policy, origin)),
        (true, false) => CorsDecision::Headers(actual_headers(policy, origin)),
        (false, true) if policy.answer_unmatched_preflights => CorsDecision::Preflight(HeaderMap::new()),
        (false, _) => CorsDecision::Nothing,
    }
}

/// A matcher that accepts `*` accepts every origin.
fn is_allowed(policy: &CorsPolicy, origin: &HeaderValue) -> bool {
    let Ok(origin) = origin.to_str() else { return false };
    let allows = |matcher: &StringMatch| matcher.matches("*") || matcher.matches(origin);
    policy.allow_origins.iter().any(allows)
}

fn preflight_headers(policy: &CorsPolicy, origin: &HeaderValue) -> HeaderMap {
    let mut headers = common_headers(policy, origin);
    list(&mut headers, ACCESS_CONTROL_ALLOW_METHODS, &policy.allow_methods);
    list(&mut headers, ACCESS_CONTROL_ALLOW_HEADERS, &policy.allow_headers);
    if let Some(max_age) = policy.max_age {
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(max_age.as_secs()));
    }
    headers
}

fn actual_headers(policy: &CorsPolicy, origin: &HeaderValue) -> HeaderMap {
    let mut headers = common_headers(policy, origin);
    list(&mut headers, ACCESS_CONTROL_EXPOSE_HEADERS, &policy.expose_headers);
    headers
}

/// The origin is repeated, never `*`: credentials are not sent to a wildcard.
fn common_headers(policy: &CorsPolicy, origin: &HeaderValue) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    if policy.allow_credentials == Some(true) {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    headers
}

fn list(headers: &mut HeaderMap, name: HeaderName, items: &[String]) {
    if items.is_empty() {
        return;
    }
    if let Ok(value) = HeaderValue::from_str(&items.join(",")) {
        headers.insert(name, value);
    }
}
