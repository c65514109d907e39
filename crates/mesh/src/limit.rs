//! Rate limits: which of them are about a request, and what is left in their buckets.
//!
//! [`limits`] says which limits apply and under which key; [`Buckets`] holds one token bucket a key, no more than a fixed
//! number of them. Time is an argument.

mod bucket;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::authorize::AccessRequest;
use crate::policy::{BodyLimit, Descriptor, HttpMatch, InboundPolicy, RateLimit, StringMatch};
use crate::request::HttpRequest;

pub use bucket::{Allowance, Bucket, Buckets};

/// A limit that is about a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied<'a> {
    /// Which one.
    pub limit: &'a Arc<RateLimit>,
    /// Requests of the same key share a bucket.
    pub key: String,
}

/// The limits that are about a request, in the policy's order. Connections whose bytes are opaque have none.
pub fn limits<'a>(policy: &'a InboundPolicy, request: &AccessRequest<'_>) -> Vec<Applied<'a>> {
    let Some(http) = request.http else { return Vec::new() };
    let about = |limit: &&Arc<RateLimit>| {
        limit.matches.is_empty() || limit.matches.iter().any(|condition| is_met(condition, http, request.port))
    };
    let applied = |limit: &'a Arc<RateLimit>| Applied { limit, key: key(&limit.by, http, request) };
    policy.limits.iter().filter(about).map(applied).collect()
}

/// What a request's body may have: of several limits the smallest, of equal ones the first.
pub fn body_limit(policy: &InboundPolicy) -> Option<&BodyLimit> {
    policy.body_limits.iter().map(Arc::as_ref).min_by_key(|limit| limit.max_bytes)
}

/// Longer keys are replaced by a digest: what a client sends must not fill the memory.
const KEY_MAX: usize = 128;

fn key(by: &[Descriptor], http: &HttpRequest<'_>, request: &AccessRequest<'_>) -> String {
    let values: Vec<String> = by.iter().map(|descriptor| value(descriptor, http, request)).collect();
    // The lengths keep lists of values apart, whatever the values hold.
    let key = values.iter().map(|value| format!("{}:{value}", value.len())).collect::<Vec<_>>().join("\u{1f}");
    if key.len() > KEY_MAX { digest(&key) } else { key }
}

fn digest(key: &str) -> String {
    let half = |seed: u8| {
        let mut hasher = DefaultHasher::new();
        (seed, key).hash(&mut hasher);
        hasher.finish()
    };
    format!("#{:016x}{:016x}", half(0), half(1))
}

fn value(descriptor: &Descriptor, http: &HttpRequest<'_>, request: &AccessRequest<'_>) -> String {
    let found = match descriptor {
        Descriptor::Path => Some(http.path().to_owned()),
        Descriptor::Method => Some(http.method.to_owned()),
        Descriptor::Host => Some(http.host()),
        Descriptor::Header(name) => http.header(name),
        Descriptor::QueryParameter(name) => parameter(http, name).map(str::to_owned),
        Descriptor::Identity => request.peer.map(ToString::to_string),
        Descriptor::Claim(path) => {
            let path: Vec<&str> = path.split('.').collect();
            request.claims.map(|claims| claims.texts(&path).join(","))
        }
        Descriptor::RemoteIp => {
            let connection = request.connection;
            connection.remote_ip.or(connection.source_ip).map(|ip| ip.to_canonical().to_string())
        }
    };
    found.unwrap_or_default()
}

fn parameter<'a>(http: &HttpRequest<'a>, name: &str) -> Option<&'a str> {
    let pairs = http.query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// What can be asked of a request where it arrives; where it comes from is a matter of descriptors and of routes.
fn is_met(condition: &HttpMatch, http: &HttpRequest<'_>, port: u16) -> bool {
    let text = |wanted: &Option<StringMatch>, text: &str| wanted.as_ref().is_none_or(|wanted| wanted.matches(text));
    let there = |wanted: &StringMatch, value: Option<&str>| match wanted {
        StringMatch::Present => value.is_some(),
        wanted => value.is_some_and(|value| wanted.matches(value)),
    };
    let path = condition.uri.as_ref().is_none_or(|wanted| {
        if condition.ignore_uri_case { wanted.matches_ignoring_case(http.path()) } else { wanted.matches(http.path()) }
    });
    path && condition.port.is_none_or(|wanted| wanted == port)
        && text(&condition.method, http.method)
        && text(&condition.scheme, http.scheme)
        && text(&condition.authority, http.authority)
        && condition.headers.iter().all(|(name, wanted)| there(wanted, http.header(name).as_deref()))
        && !condition.without_headers.iter().any(|(name, unwanted)| there(unwanted, http.header(name).as_deref()))
        && condition.query_params.iter().all(|(name, wanted)| there(wanted, parameter(http, name)))
}

#[cfg(test)]
mod tests;
