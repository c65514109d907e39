//! Rules of a VirtualService that never get a request, and matches that repeat earlier ones.

use std::collections::BTreeMap;

use federation_crds::Manifest;
use federation_crds::istio::virtual_service::{HttpMatchRequest, HttpRoute, StringMatch};

use super::codes;
use super::found::{Found, Said};

pub(super) fn check(manifests: &[Manifest], found: &mut Found) {
    for manifest in manifests {
        if let Manifest::VirtualService(service) = manifest {
            rules(manifest, &service.spec.http, found);
        }
    }
}

/// A match of an earlier rule.
struct Earlier<'a> {
    rule: usize,
    wanted: &'a HttpMatchRequest,
}

fn rules(manifest: &Manifest, rules: &[HttpRoute], found: &mut Found) {
    let everything = HttpMatchRequest::default();
    let mut earlier: Vec<Earlier<'_>> = Vec::new();
    for (number, rule) in rules.iter().enumerate() {
        let matches = if rule.matches.is_empty() { std::slice::from_ref(&everything) } else { rule.matches.as_slice() };
        let covered = |wanted: &HttpMatchRequest| earlier.iter().find(|earlier| covers(earlier.wanted, wanted));
        let useless: Vec<(usize, usize)> = matches
            .iter()
            .enumerate()
            .filter_map(|(index, wanted)| covered(wanted).map(|earlier| (index, earlier.rule)))
            .collect();
        if useless.len() == matches.len() {
            let by: Vec<String> = useless.iter().map(|(_, rule)| format!("spec.http[{rule}]")).collect();
            let message = format!("never used: {} takes everything that it matches", unique(by).join(", "));
            let said = Said { path: &format!("spec.http[{number}]"), message, hint: "move it up, or remove it" };
            found.about(manifest, codes::UNREACHABLE_RULE, said);
        } else {
            for (index, rule) in useless {
                let path = format!("spec.http[{number}].match[{index}]");
                let message = format!("has no effect: spec.http[{rule}] takes what it matches");
                found.about(
                    manifest,
                    codes::INEFFECTIVE_MATCH,
                    Said { path: &path, message, hint: "remove the match" },
                );
            }
        }
        earlier.extend(matches.iter().map(|wanted| Earlier { rule: number, wanted }));
    }
}

fn unique(mut texts: Vec<String>) -> Vec<String> {
    texts.dedup();
    texts
}

/// Whether every request that `narrow` matches is matched by `wide`. Sure when true.
fn covers(wide: &HttpMatchRequest, narrow: &HttpMatchRequest) -> bool {
    uri_covers(wide, narrow)
        && same_or_absent(&wide.scheme, &narrow.scheme)
        && same_or_absent(&wide.method, &narrow.method)
        && same_or_absent(&wide.authority, &narrow.authority)
        && contained(&wide.headers, &narrow.headers)
        && contained(&wide.without_headers, &narrow.without_headers)
        && contained(&wide.query_params, &narrow.query_params)
        && contained(&wide.source_labels, &narrow.source_labels)
        && (wide.port == 0 || wide.port == narrow.port)
        && (wide.source_namespace.is_empty() || wide.source_namespace == narrow.source_namespace)
        && (wide.gateways.is_empty() || wide.gateways == narrow.gateways)
}

fn uri_covers(wide: &HttpMatchRequest, narrow: &HttpMatchRequest) -> bool {
    let (Some(wide_uri), Some(narrow_uri)) = (&wide.uri, &narrow.uri) else { return wide.uri.is_none() };
    let prefix = wide_uri.prefix.as_deref().filter(|_| !wide.ignore_uri_case && !narrow.ignore_uri_case);
    let text = narrow_uri.exact.as_deref().or(narrow_uri.prefix.as_deref());
    match (prefix, text) {
        (Some(prefix), Some(text)) => text.starts_with(prefix),
        _ => wide_uri == narrow_uri && wide.ignore_uri_case == narrow.ignore_uri_case,
    }
}

fn same_or_absent(wide: &Option<StringMatch>, narrow: &Option<StringMatch>) -> bool {
    wide.is_none() || wide == narrow
}

fn contained<V: PartialEq>(wide: &BTreeMap<String, V>, narrow: &BTreeMap<String, V>) -> bool {
    wide.iter().all(|(name, value)| narrow.get(name) == Some(value))
}
