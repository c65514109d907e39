//! Where a redirect leads, as Envoy writes it.

use super::edits::{replace_matched, split_path};
use super::rules::Selected;
use crate::policy::{Redirect, RedirectPort};
use crate::request::HttpRequest;

/// The value of `Location`. `dialled` is the port that the request arrived on.
pub(super) fn location(redirect: &Redirect, selected: &Selected<'_>, http: &HttpRequest<'_>, dialled: u16) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(http.scheme);
    let port = match redirect.port {
        RedirectPort::Number(port) => Some(port),
        RedirectPort::FromRequest => Some(dialled),
        RedirectPort::AsRequested | RedirectPort::ProtocolDefault => None,
    };
    // A scheme's own port is not written.
    let port = port.filter(|port| !matches!((port, scheme), (80, "http") | (443, "https")));
    let host = match redirect.authority.as_deref() {
        Some(authority) => authority,
        None => requested_host(redirect, http, scheme, port),
    };
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    let path = path(redirect, selected, http);
    let slash = if path.starts_with('/') { "" } else { "/" };
    format!("{scheme}://{host}{port}{slash}{path}")
}

/// The authority of the request, without its port where the redirect says another, or where the port goes with the
/// scheme that the client leaves.
fn requested_host<'a>(redirect: &Redirect, http: &HttpRequest<'a>, scheme: &str, port: Option<u16>) -> &'a str {
    let Some((host, requested)) = split_port(http.authority) else { return http.authority };
    let left = scheme != http.scheme && matches!((http.scheme, requested), ("http", "80") | ("https", "443"));
    let replaced = port.is_some() || redirect.port != RedirectPort::AsRequested;
    if replaced || left { host } else { http.authority }
}

fn split_port(authority: &str) -> Option<(&str, &str)> {
    let (host, port) = authority.rsplit_once(':')?;
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    // The colons of an IPv6 address are inside brackets.
    (is_port && (!host.contains(':') || host.ends_with(']'))).then_some((host, port))
}

/// The query stays, unless the new path brings its own.
fn path(redirect: &Redirect, selected: &Selected<'_>, http: &HttpRequest<'_>) -> String {
    let (old, query) = split_path(http.path_and_query);
    let new = match (&redirect.uri, &redirect.prefix_rewrite) {
        (Some(uri), _) if uri.contains('?') => return uri.clone(),
        (Some(uri), _) if !uri.is_empty() => uri.clone(),
        (_, Some(prefix)) => replace_matched(selected.rule, selected.matched, old, prefix),
        _ => old.to_owned(),
    };
    new + query
}
