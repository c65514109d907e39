//! A delegate's rule merged into the rule that delegates to it, as Istio merges them (`mergeHTTPRoute`).

use std::collections::BTreeMap;

use federation_crds::istio::virtual_service::{HttpMatchRequest, HttpRoute, StringMatch};

/// The delegate's rule with the root's conditions and with what only the root says; `None` when they cannot both hold.
pub(super) fn merge(root: &HttpRoute, delegate: HttpRoute) -> Option<HttpRoute> {
    let mut merged = delegate;
    merged.matches = matches(&root.matches, merged.matches)?;
    merged.name = joined(&root.name, &merged.name);
    merged.rewrite = merged.rewrite.or_else(|| root.rewrite.clone());
    merged.direct_response = merged.direct_response.or_else(|| root.direct_response.clone());
    merged.timeout = merged.timeout.or_else(|| root.timeout.clone());
    merged.retries = merged.retries.or_else(|| root.retries.clone());
    merged.fault = merged.fault.or_else(|| root.fault.clone());
    merged.mirror = merged.mirror.or_else(|| root.mirror.clone());
    merged.mirror_percent = merged.mirror_percent.or(root.mirror_percent);
    merged.mirror_percent_snake = merged.mirror_percent_snake.or(root.mirror_percent_snake);
    merged.mirror_percentage = merged.mirror_percentage.or_else(|| root.mirror_percentage.clone());
    merged.cors_policy = merged.cors_policy.or_else(|| root.cors_policy.clone());
    merged.headers = merged.headers.or_else(|| root.headers.clone());
    merged.mirrors.extend(root.mirrors.iter().cloned());
    Some(merged)
}

/// Every match of the delegate, narrowed by each match of the root that it does not exclude.
fn matches(root: &[HttpMatchRequest], delegate: Vec<HttpMatchRequest>) -> Option<Vec<HttpMatchRequest>> {
    if root.is_empty() {
        return Some(delegate);
    }
    if delegate.is_empty() {
        return Some(root.to_vec());
    }
    let mut merged = Vec::new();
    for leaf in &delegate {
        let before = merged.len();
        merged.extend(root.iter().filter(|root| !exclude(root, leaf)).map(|root| both(root, leaf)));
        if merged.len() == before {
            return None;
        }
    }
    Some(merged)
}

fn both(root: &HttpMatchRequest, leaf: &HttpMatchRequest) -> HttpMatchRequest {
    let or = |own: &Option<StringMatch>, other: &Option<StringMatch>| own.clone().or_else(|| other.clone());
    let text = |own: &str, other: &str| if own.is_empty() { other.to_owned() } else { own.to_owned() };
    HttpMatchRequest {
        name: joined(&root.name, &leaf.name),
        uri: or(&leaf.uri, &root.uri),
        scheme: or(&leaf.scheme, &root.scheme),
        method: or(&leaf.method, &root.method),
        authority: or(&leaf.authority, &root.authority),
        headers: merged(&root.headers, &leaf.headers),
        without_headers: merged(&root.without_headers, &leaf.without_headers),
        query_params: merged(&root.query_params, &leaf.query_params),
        port: if leaf.port == 0 { root.port } else { leaf.port },
        source_labels: merged(&root.source_labels, &leaf.source_labels),
        source_namespace: text(&leaf.source_namespace, &root.source_namespace),
        gateways: if leaf.gateways.is_empty() { root.gateways.clone() } else { leaf.gateways.clone() },
        ignore_uri_case: if leaf.uri.is_some() { leaf.ignore_uri_case } else { root.ignore_uri_case },
        stat_prefix: text(&leaf.stat_prefix, &root.stat_prefix),
    }
}

fn exclude(root: &HttpMatchRequest, leaf: &HttpMatchRequest) -> bool {
    let texts = [
        (&root.uri, &leaf.uri),
        (&root.scheme, &leaf.scheme),
        (&root.method, &leaf.method),
        (&root.authority, &leaf.authority),
    ];
    let maps = [
        (&root.headers, &leaf.headers),
        (&root.without_headers, &leaf.without_headers),
        (&root.query_params, &leaf.query_params),
    ];
    let of_map = |(root, leaf): (&BTreeMap<String, StringMatch>, &BTreeMap<String, StringMatch>)| {
        leaf.iter().any(|(key, leaf)| root.get(key).is_some_and(|root| text_excludes(root, leaf)))
    };
    texts.into_iter().any(|(root, leaf)| matches!((root, leaf), (Some(root), Some(leaf)) if text_excludes(root, leaf)))
        || maps.into_iter().any(of_map)
        // A condition on the path that only one of the two ignores the case of cannot be one condition.
        || (root.uri.is_some() && leaf.uri.is_some() && root.ignore_uri_case != leaf.ignore_uri_case)
        || (root.port > 0 && leaf.port > 0 && root.port != leaf.port)
        || (!root.source_namespace.is_empty()
            && !leaf.source_namespace.is_empty()
            && root.source_namespace != leaf.source_namespace)
        || leaf.source_labels.iter().any(|(key, value)| root.source_labels.get(key).is_some_and(|root| root != value))
        || (!root.gateways.is_empty() && leaf.gateways.iter().any(|gateway| !root.gateways.contains(gateway)))
}

/// Whether no text that fits the leaf is sure to fit the root. Regular expressions cannot be compared.
fn text_excludes(root: &StringMatch, leaf: &StringMatch) -> bool {
    match (root, leaf) {
        (StringMatch { regex: Some(_), .. }, _) | (_, StringMatch { regex: Some(_), .. }) => true,
        (StringMatch { exact: Some(root), .. }, StringMatch { exact: Some(leaf), .. }) => root != leaf,
        (StringMatch { exact: Some(_), .. }, StringMatch { prefix: Some(_), .. }) => true,
        (StringMatch { prefix: Some(root), .. }, StringMatch { prefix: Some(leaf), .. }) => !leaf.starts_with(root),
        (StringMatch { prefix: Some(root), .. }, StringMatch { exact: Some(leaf), .. }) => !leaf.starts_with(root),
        // Presence is no narrower than anything but presence.
        (StringMatch { exact: None, prefix: None, .. }, _) => false,
        (_, StringMatch { exact: None, prefix: None, .. }) => true,
    }
}

fn merged<T: Clone>(root: &BTreeMap<String, T>, leaf: &BTreeMap<String, T>) -> BTreeMap<String, T> {
    root.iter().chain(leaf).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn joined(root: &str, leaf: &str) -> String {
    match (root, leaf) {
        ("", leaf) => leaf.to_owned(),
        (root, "") => root.to_owned(),
        (root, leaf) => format!("{root}-{leaf}"),
    }
}
