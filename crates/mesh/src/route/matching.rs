//! Whether a condition of a rule holds.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::Entry;
use super::context::Context;
use super::edits::split_path;
use crate::model::Labels;
use crate::names::Namespace;
use crate::policy::{ClaimMatch, HttpMatch, StringMatch};
use crate::request::{Claims, HttpRequest};

/// What is the same for every request of a client to a port: Istio leaves out rules for which it does not hold.
pub(super) fn is_for_client(context: &Context<'_>, gateway: &str, condition: &HttpMatch) -> bool {
    if condition.port.is_some_and(|port| port != context.dialled()) {
        return false;
    }
    // A match that names gateways looks at nothing else of the source, as in Istio.
    if !condition.gateways.is_empty() {
        return condition.gateways.contains(gateway);
    }
    is_source(context, &condition.source_labels, condition.source_namespace.as_ref())
}

/// Whether the client is the source that a condition wants.
pub(super) fn is_source(context: &Context<'_>, labels: &Labels, namespace: Option<&Namespace>) -> bool {
    context.has_labels(labels) && namespace.is_none_or(|namespace| context.is_in(namespace))
}

/// Whether a condition is for a gateway.
pub(super) fn is_gateway(gateways: &BTreeSet<String>, gateway: &str) -> bool {
    gateways.is_empty() || gateways.contains(gateway)
}

/// Whether the request meets the condition.
pub(super) fn is_met(context: &Context<'_>, condition: &HttpMatch, request: &HttpRequest<'_>) -> bool {
    let text = |wanted: &Option<StringMatch>, text: &str| wanted.as_ref().is_none_or(|wanted| wanted.matches(text));
    path_matches(condition, request)
        && text(&condition.method, request.method)
        && text(&condition.scheme, request.scheme)
        && text(&condition.authority, request.authority)
        && condition.headers.iter().all(|(name, wanted)| header_matches(request, name, wanted))
        && !condition.without_headers.iter().any(|(name, unwanted)| header_is_unwanted(request, name, unwanted))
        && condition.query_params.iter().all(|(name, wanted)| parameter_matches(request, name, wanted))
        && claims_match(context, condition)
}

/// Sidecars do not look at tokens before they route, so that there a rule with conditions on claims, also on those that
/// must not be, is met by nobody: it must not be met by those whom it leaves out.
fn claims_match(context: &Context<'_>, condition: &HttpMatch) -> bool {
    if condition.claims.is_empty() && condition.without_claims.is_empty() {
        return true;
    }
    let claims = context.request.claims;
    let has = |wanted: &ClaimMatch| claims.is_some_and(|claims| claim_matches(claims, wanted));
    context.request.entry != Entry::Workload
        && condition.claims.iter().all(has)
        && !condition.without_claims.iter().any(has)
}

fn claim_matches(claims: &Claims, wanted: &ClaimMatch) -> bool {
    let texts = claims.texts(&wanted.path);
    match &wanted.value {
        StringMatch::Present => !texts.is_empty(),
        value => texts.iter().any(|text| value.matches(text)),
    }
}

/// Whether every request meets the condition: such rules come last when a gateway joins the rules of several objects.
pub(super) fn is_met_by_all(condition: &HttpMatch) -> bool {
    let any_path = match &condition.uri {
        None => true,
        Some(StringMatch::Prefix(prefix)) => prefix == "/",
        Some(StringMatch::Regex(pattern)) => pattern.as_str() == ".*",
        Some(_) => false,
    };
    any_path
        && condition.method.is_none()
        && condition.scheme.is_none()
        && condition.authority.is_none()
        && condition.headers.is_empty()
        && condition.without_headers.is_empty()
        && condition.claims.is_empty()
        && condition.without_claims.is_empty()
        && condition.query_params.is_empty()
}

/// The query is never looked at.
fn path_matches(condition: &HttpMatch, request: &HttpRequest<'_>) -> bool {
    let Some(wanted) = &condition.uri else { return true };
    let (path, _) = split_path(request.path_and_query);
    if condition.ignore_uri_case { wanted.matches_ignoring_case(path) } else { wanted.matches(path) }
}

fn header_matches(request: &HttpRequest<'_>, name: &str, wanted: &StringMatch) -> bool {
    // Istio: these keys are ignored, the fields of the same names are meant to be used.
    if matches!(name, "uri" | "scheme" | "method" | "authority") {
        return true;
    }
    match header(request, name) {
        None => false,
        Some(_) if *wanted == StringMatch::Present => true,
        Some(value) => wanted.matches(&value),
    }
}

/// A header that is missing counts as empty, unless its presence is what is unwanted.
fn header_is_unwanted(request: &HttpRequest<'_>, name: &str, unwanted: &StringMatch) -> bool {
    let value = header(request, name);
    match unwanted {
        StringMatch::Present => value.is_some(),
        _ => unwanted.matches(value.as_deref().unwrap_or_default()),
    }
}

/// A header, or one of HTTP/2's pseudo-headers. Several fields are joined by `,`.
pub(super) fn header<'a>(request: &HttpRequest<'a>, name: &str) -> Option<Cow<'a, str>> {
    match name {
        ":method" => return Some(Cow::Borrowed(request.method)),
        ":scheme" => return Some(Cow::Borrowed(request.scheme)),
        ":path" => return Some(Cow::Borrowed(request.path_and_query)),
        ":authority" | "host" => return Some(Cow::Borrowed(request.authority)),
        _ => {}
    }
    let mut values = request.headers.get_all(name).iter();
    let first = values.next()?;
    match values.next() {
        None => Some(String::from_utf8_lossy(first.as_bytes())),
        Some(_) => request.header(name).map(Cow::Owned),
    }
}

fn parameter_matches(request: &HttpRequest<'_>, name: &str, wanted: &StringMatch) -> bool {
    match parameter(request, name) {
        None => false,
        Some(_) if *wanted == StringMatch::Present => true,
        Some(value) => wanted.matches(value),
    }
}

/// The first query parameter of a name, as it is written; empty when it has no `=`.
pub(super) fn parameter<'a>(request: &HttpRequest<'a>, name: &str) -> Option<&'a str> {
    let query = request.query()?;
    let query = query.split_once('#').map_or(query, |(query, _)| query);
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}
