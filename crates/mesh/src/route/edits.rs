//! `rewrite()` and `apply_headers()`: what a rule changes of a request before it is forwarded.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::RouteDecision;
use crate::policy::{HeaderEdits, HttpAction, HttpRule, RegexRewrite, StringMatch};
use crate::request::HttpRequest;

/// Changes of path and authority; `None` leaves them as they are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestEdits {
    /// The new path with the query.
    pub path_and_query: Option<String>,
    /// The new authority.
    pub authority: Option<String>,
}

/// What a decision's rule changes of the request that it was made for.
pub fn rewrite(decision: &RouteDecision, request: &HttpRequest<'_>) -> RequestEdits {
    let Some(rule) = decision.rule.as_deref() else { return RequestEdits::default() };
    let path_and_query = new_path(rule, decision.matched, request);
    RequestEdits { path_and_query, authority: new_authority(rule, decision.destination) }
}

fn new_path(rule: &HttpRule, matched: Option<usize>, request: &HttpRequest<'_>) -> Option<String> {
    let rewrite = rule.rewrite.as_ref()?;
    let (path, rest) = split_path(request.path_and_query);
    let new = match (&rewrite.regex, &rewrite.uri) {
        (Some(regex), _) => substitute(regex, path)?,
        (None, Some(uri)) => replace_matched(rule, matched, path, uri),
        (None, None) => return None,
    };
    Some(new + rest)
}

/// The path, and its query and fragment.
pub(super) fn split_path(path_and_query: &str) -> (&str, &str) {
    let end = path_and_query.find(['?', '#']).unwrap_or(path_and_query.len());
    path_and_query.split_at(end)
}

/// Puts `uri` in the place of what the match was about: the prefix, or the whole path for an exact match or a regular
/// expression. A rule that does not look at the path is, as in Envoy, one for the prefix `/`. Slashes are neither added
/// nor taken away.
pub(super) fn replace_matched(rule: &HttpRule, matched: Option<usize>, path: &str, uri: &str) -> String {
    let condition = matched.and_then(|index| rule.matches.get(index)).and_then(|matched| matched.uri.as_ref());
    let prefix = match condition {
        None => 1,
        Some(StringMatch::Prefix(prefix)) => prefix.len(),
        Some(_) => path.len(),
    };
    // The prefix may differ in case, not in length; a path such as `*` may be shorter.
    format!("{uri}{}", path.get(prefix..).unwrap_or_default())
}

/// Every match is replaced, `\1` by what the first group caught, `\0` by all of it (RE2's rewrite).
fn substitute(rewrite: &RegexRewrite, path: &str) -> Option<String> {
    let regex = rewrite.pattern.searching()?;
    let replaced = regex.replace_all(path, |captures: &regex::Captures<'_>| {
        let mut text = String::new();
        let mut characters = rewrite.substitution.chars();
        while let Some(character) = characters.next() {
            match (character, character == '\\') {
                (_, true) => match characters.next() {
                    Some(digit @ '0'..='9') => {
                        let group = usize::from(digit as u8 - b'0');
                        text.push_str(captures.get(group).map_or("", |group| group.as_str()));
                    }
                    Some(other) => text.push(other),
                    None => {}
                },
                (plain, false) => text.push(plain),
            }
        }
        text
    });
    Some(replaced.into_owned())
}

/// A rewrite goes before a header operation of the rule, which goes before one of the destination (as Istio has it).
fn new_authority(rule: &HttpRule, destination: Option<usize>) -> Option<String> {
    let rewritten = rule.rewrite.as_ref().and_then(|rewrite| rewrite.authority.clone());
    let of_destination = || match &rule.action {
        HttpAction::Route(destinations) => {
            destinations.get(destination?).and_then(|chosen| authority_of(&chosen.headers.request))
        }
        _ => None,
    };
    rewritten.or_else(|| authority_of(&rule.headers.request)).or_else(of_destination)
}

fn authority_of(edits: &HeaderEdits) -> Option<String> {
    let find = |names: &std::collections::BTreeMap<String, String>| {
        names.get(":authority").or_else(|| names.get("host")).filter(|value| !value.is_empty()).cloned()
    };
    find(&edits.set).or_else(|| find(&edits.add))
}

/// Removes, then sets, then adds, which is Envoy's order. The authority is no header: [`rewrite`] changes it. Values
/// that cannot stand in a header are left out.
pub fn apply_headers(edits: &HeaderEdits, headers: &mut HeaderMap) {
    let name = |name: &str| {
        let internal = name.starts_with(':') || name.eq_ignore_ascii_case("host");
        if internal { None } else { HeaderName::try_from(name).ok() }
    };
    for removed in edits.remove.iter().filter_map(|removed| name(removed)) {
        headers.remove(removed);
    }
    let pair = |(key, value): (&String, &String)| Some((name(key)?, HeaderValue::try_from(value).ok()?));
    for (key, value) in edits.set.iter().filter_map(pair) {
        headers.insert(key, value);
    }
    for (key, value) in edits.add.iter().filter_map(pair) {
        headers.append(key, value);
    }
}
