//! The rules of an AuthorizationPolicy.

use std::net::IpAddr;

use super::condition;
use crate::error::{FieldErrors, Mistake};
use crate::istio::authorization_policy::{Operation, PolicyRule, Source};
use crate::validate::rules::Rule;
use crate::validate::target::no_empty;
use crate::validate::traffic::SUBNET_HINT;

/// The longest `<namespace>/<account>` (Istio's schema).
const ACCOUNT_MAX: usize = 320;

/// Fields of a source that are about who the client is.
const OF_IDENTITY: &[&str] = &[
    "principals",
    "notPrincipals",
    "requestPrincipals",
    "notRequestPrincipals",
    "namespaces",
    "notNamespaces",
    "serviceAccounts",
    "notServiceAccounts",
];

/// Fields of a source whose values are any texts but empty ones.
const TEXTS: &[&str] = &[
    "principals",
    "notPrincipals",
    "requestPrincipals",
    "notRequestPrincipals",
    "namespaces",
    "notNamespaces",
    "trustDomains",
    "notTrustDomains",
];

pub(super) fn check(rule: &PolicyRule, path: &str, errors: &mut FieldErrors) {
    for (index, from) in rule.from.iter().enumerate() {
        let path = format!("{path}.from[{index}].source");
        match &from.source {
            None => errors.add(path, "is required", "write from: [{source: {…}}], or leave from out for any client"),
            Some(source) => check_source(source, &path, errors),
        }
    }
    for (index, to) in rule.to.iter().enumerate() {
        let path = format!("{path}.to[{index}].operation");
        match &to.operation {
            None => errors.add(path, "is required", "write to: [{operation: {…}}], or leave to out for any request"),
            Some(operation) => check_operation(operation, &path, errors),
        }
    }
    for (index, when) in rule.when.iter().enumerate() {
        condition::check(when, &format!("{path}.when[{index}]"), errors);
    }
}

/// What Istio does not evaluate before it asks an external authorizer.
pub(super) fn check_custom(rule: &PolicyRule, path: &str, errors: &mut FieldErrors) {
    for (index, source) in rule.from.iter().enumerate() {
        let Some(source) = &source.source else { continue };
        for (field, _) in source.fields_of(OF_IDENTITY).filter(|(_, values)| !values.is_empty()) {
            errors.add(
                format!("{path}.from[{index}].source.{field}"),
                "is not supported with the action CUSTOM",
                "use ipBlocks or remoteIpBlocks, or a second policy with action DENY for identities",
            );
        }
    }
    for (index, when) in rule.when.iter().enumerate() {
        let identity = ["source.namespace", "source.serviceAccount", "source.principal"].contains(&when.key.as_str());
        if identity || when.key.starts_with("request.auth.") {
            errors.add(
                format!("{path}.when[{index}].key"),
                format!("{} is not supported with the action CUSTOM", when.key),
                "write a second policy with action DENY or ALLOW for this condition",
            );
        }
    }
}

fn check_source(source: &Source, path: &str, errors: &mut FieldErrors) {
    if *source == Source::default() {
        errors.add(
            path,
            "must not be empty",
            "name who is meant, such as principals or namespaces, or leave from out for any client",
        );
    }
    let accounts = !source.service_accounts.is_empty() || !source.not_service_accounts.is_empty();
    let wider = [&source.principals, &source.not_principals, &source.namespaces, &source.not_namespaces];
    if accounts && wider.iter().any(|values| !values.is_empty()) {
        let hint = "put them into two entries of from";
        errors.add(format!("{path}.serviceAccounts"), "cannot be set together with principals or namespaces", hint);
    }
    for (field, values) in source.fields_of(TEXTS) {
        no_empty(values, &format!("{path}.{field}"), errors);
    }
    for (field, values) in source.fields_of(&["serviceAccounts", "notServiceAccounts"]) {
        for (index, value) in values.iter().enumerate() {
            errors.check(format!("{path}.{field}[{index}]"), account(value));
        }
    }
    for (field, values) in source.fields_of(&["ipBlocks", "notIpBlocks", "remoteIpBlocks", "notRemoteIpBlocks"]) {
        for (index, value) in values.iter().enumerate() {
            errors.check(format!("{path}.{field}[{index}]"), block(value));
        }
    }
}

fn check_operation(operation: &Operation, path: &str, errors: &mut FieldErrors) {
    if *operation == Operation::default() {
        errors.add(
            path,
            "must not be empty",
            "name what is meant, such as paths or methods, or leave to out for any request",
        );
    }
    let texts = [
        ("hosts", &operation.hosts),
        ("notHosts", &operation.not_hosts),
        ("methods", &operation.methods),
        ("notMethods", &operation.not_methods),
    ];
    for (field, values) in texts {
        no_empty(values, &format!("{path}.{field}"), errors);
    }
    for (field, values) in [("ports", &operation.ports), ("notPorts", &operation.not_ports)] {
        for (index, value) in values.iter().enumerate() {
            errors.check(format!("{path}.{field}[{index}]"), port(value));
        }
    }
    for (field, values) in [("paths", &operation.paths), ("notPaths", &operation.not_paths)] {
        no_empty(values, &format!("{path}.{field}"), errors);
        for (index, value) in values.iter().enumerate() {
            errors.check(format!("{path}.{field}[{index}]"), path_pattern(value));
        }
    }
}

/// `<account>` or `<namespace>/<account>`.
pub(super) fn account(value: &str) -> Rule {
    let parts: Vec<&str> = value.split('/').collect();
    let good = parts.len() <= 2 && parts.iter().all(|part| !part.is_empty()) && !value.contains('*');
    if good && value.len() <= ACCOUNT_MAX {
        return Ok(());
    }
    let message = format!("{value:?} must be <service account> or <namespace>/<service account>, without wildcards");
    Err(Mistake::new(message, "write each account in full, such as shop/reviews; wildcards are for principals"))
}

/// An address or a CIDR range.
pub(super) fn block(value: &str) -> Rule {
    let wrong = || Err(Mistake::new(format!("{value:?} is neither an address nor a CIDR range"), SUBNET_HINT));
    let (address, bits) = value.split_once('/').map_or((value, None), |(address, bits)| (address, Some(bits)));
    let Ok(address) = address.parse::<IpAddr>() else { return wrong() };
    let most = if address.is_ipv4() { 32 } else { 128 };
    match bits.map(str::parse::<u8>) {
        None => Ok(()),
        Some(Ok(bits)) if bits <= most => Ok(()),
        Some(_) => wrong(),
    }
}

/// The number of a port, as text.
pub(super) fn port(value: &str) -> Rule {
    let hint = "write the number of the port in quotes, such as \"8080\"";
    value.parse::<u16>().map(|_| ()).map_err(|_| Mistake::new(format!("{value:?} is not a port"), hint))
}

/// A path: plain, with a star at an end, or with whole segments `{*}` and, last of them, `{**}`.
fn path_pattern(value: &str) -> Rule {
    let template = value.contains("{*}") || value.contains("{**}");
    if !template {
        return Ok(());
    }
    let mut seen_rest = false;
    for segment in value.trim_matches('/').split('/') {
        match segment {
            "{*}" | "{**}" if seen_rest => {
                let message = format!("{value:?}: {{**}} must be the last of the wildcards");
                return Err(Mistake::new(message, "write {*} for each segment before it"));
            }
            "{**}" => seen_rest = true,
            "{*}" => {}
            literal if literal.contains(['{', '}', '*']) => {
                return Err(Mistake::new(
                    format!("{value:?}: {literal:?} is no segment; wildcards are whole segments {{*}} or {{**}}"),
                    "write the segment in full, or {*} for any; a plain * stands at an end of a path without {*}",
                ));
            }
            _ => {}
        }
    }
    Ok(())
}
