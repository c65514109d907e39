//! Where tokens are.

use std::sync::Arc;

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderValue, Request};
use mesh::TokenRule;

use crate::headers::set_path_and_query;

/// A token, where it was, and the rules that look there.
pub(super) struct Found<'a> {
    pub(super) text: String,
    pub(super) rules: Vec<&'a Arc<TokenRule>>,
    places: Vec<Place>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Header(String),
    Parameter(String),
    Cookie(String),
}

/// The parameter that is looked at when a rule names no place.
const PARAMETER: &str = "access_token";

/// Every distinct token that a rule looks at.
pub(super) fn tokens<'a, B>(rules: &'a [Arc<TokenRule>], request: &Request<B>) -> Vec<Found<'a>> {
    let mut found: Vec<Found<'a>> = Vec::new();
    for rule in rules {
        for (place, text) in looked_at(rule, request) {
            let known = found.iter().position(|known| known.text == text);
            let known = known.unwrap_or_else(|| {
                found.push(Found { text, rules: Vec::new(), places: Vec::new() });
                found.len() - 1
            });
            let entry = &mut found[known];
            if !entry.rules.iter().any(|known| Arc::ptr_eq(known, rule)) {
                entry.rules.push(rule);
            }
            if !entry.places.contains(&place) {
                entry.places.push(place);
            }
        }
    }
    found
}

fn looked_at<B>(rule: &TokenRule, request: &Request<B>) -> Vec<(Place, String)> {
    let mut found = Vec::new();
    let mut header = |name: &str, prefix: &str| {
        for value in request.headers().get_all(name) {
            let token = value.to_str().ok().and_then(|value| after_prefix(value, prefix));
            found.extend(token.map(|token| (Place::Header(name.to_owned()), token)));
        }
    };
    let default = rule.from_headers.is_empty() && rule.from_params.is_empty() && rule.from_cookies.is_empty();
    if default {
        header(AUTHORIZATION.as_str(), "Bearer ");
    }
    for wanted in &rule.from_headers {
        header(&wanted.name, &wanted.prefix);
    }
    let query = request.uri().query().unwrap_or_default();
    let parameters = rule.from_params.iter().map(String::as_str).chain(default.then_some(PARAMETER));
    for name in parameters {
        let value = pairs(query, '&').find(|(key, _)| *key == name).map(|(_, value)| value);
        found
            .extend(value.filter(|value| !value.is_empty()).map(|value| (Place::Parameter(name.into()), value.into())));
    }
    for name in &rule.from_cookies {
        let value = cookies(request.headers()).into_iter().find(|(key, _)| key == name).map(|(_, value)| value);
        found.extend(value.filter(|value| !value.is_empty()).map(|value| (Place::Cookie(name.clone()), value)));
    }
    found
}

/// What follows the prefix, up to the first character that no token has. A value without the prefix holds no token.
fn after_prefix(value: &str, prefix: &str) -> Option<String> {
    let begins = value.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix));
    let token = value.get(prefix.len()..).filter(|_| begins)?.trim();
    let ours = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.' | '=');
    let token = token.split(|character| !ours(character)).next().unwrap_or_default();
    (!token.is_empty()).then(|| token.to_owned())
}

fn pairs(text: &str, separator: char) -> impl Iterator<Item = (&str, &str)> {
    text.split(separator).map(|pair| pair.trim().split_once('=').unwrap_or((pair.trim(), "")))
}

fn cookies(headers: &HeaderMap) -> Vec<(String, String)> {
    let values = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.trim_matches('"').to_owned());
    values.flat_map(|value| pairs(value, ';')).map(owned).collect()
}

/// Takes a token out of the request.
pub(super) fn strip<B>(found: &Found<'_>, request: &mut Request<B>) {
    for place in &found.places {
        match place {
            Place::Header(name) => {
                request.headers_mut().remove(name.as_str());
            }
            Place::Parameter(name) => strip_parameter(name, request),
            Place::Cookie(name) => strip_cookie(name, request.headers_mut()),
        }
    }
}

fn strip_parameter<B>(name: &str, request: &mut Request<B>) {
    let Some(query) = request.uri().query() else { return };
    let kept: Vec<&str> = query.split('&').filter(|pair| pair.split('=').next() != Some(name)).collect();
    let path = request.uri().path();
    let target = if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) };
    set_path_and_query(request, &target);
}

fn strip_cookie(name: &str, headers: &mut HeaderMap) {
    let values = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let crumbs = values.flat_map(|value| value.split(';')).map(str::trim);
    let kept: Vec<&str> = crumbs.filter(|crumb| crumb.split('=').next() != Some(name)).collect();
    let kept = kept.join("; ");
    headers.remove(COOKIE);
    if let Some(value) = HeaderValue::from_str(&kept).ok().filter(|_| !kept.is_empty()) {
        headers.insert(COOKIE, value);
    }
}
