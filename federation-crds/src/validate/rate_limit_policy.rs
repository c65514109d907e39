//! RateLimitPolicy.

use std::collections::BTreeSet;
use std::time::Duration;

use super::target;
use super::traffic::{header_name, read_duration};
use crate::error::FieldErrors;
use crate::istio::virtual_service::StringMatch;
use crate::rate_limit_policy::{By, Limit, LimitMatch, RateLimitPolicy};

/// More limits would cost every request too much.
const LIMITS_MAX: usize = 64;

/// The shortest and the longest window.
const WINDOW: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));

/// The largest whole number that every reader of JSON keeps (RFC 8259 §6).
const BODY_MAX: i64 = 1 << 53;

/// The most requests of a window, far above what a proxy carries.
const REQUESTS_MAX: i64 = 1_000_000_000;

pub(super) fn check(object: &RateLimitPolicy, errors: &mut FieldErrors) {
    let spec = &object.spec;
    target::check(spec.selector.as_ref(), None, &spec.target_refs, errors);
    if (spec.limits.is_empty() && spec.max_body_bytes.is_none()) || spec.limits.len() > LIMITS_MAX {
        errors.add(
            "spec.limits",
            format!("1 to {LIMITS_MAX} limits are required, or maxBodyBytes"),
            "add limits: [{requests: 100, per: 1s}], or divide a long list between policies for different workloads",
        );
    }
    if spec.max_body_bytes.is_some_and(|most| !(1..=BODY_MAX).contains(&most)) {
        errors.add("spec.maxBodyBytes", format!("must be 1 to {BODY_MAX}"), "leave it out where bodies have no limit");
    }
    let mut names = BTreeSet::new();
    for (index, limit) in spec.limits.iter().enumerate() {
        let path = format!("spec.limits[{index}]");
        check_limit(limit, &path, errors);
        if !names.insert(limit.name.as_deref()) {
            errors.add(
                format!("{path}.name"),
                "is the same as that of another limit",
                "header fields tell clients apart by it which limit they met",
            );
        }
    }
}

fn check_limit(limit: &Limit, path: &str, errors: &mut FieldErrors) {
    if let Some(name) = &limit.name {
        errors.check(format!("{path}.name"), super::rules::subdomain(name));
    }
    for (field, number) in [("requests", Some(limit.requests)), ("burst", limit.burst)] {
        if number.is_some_and(|number| !(1..=REQUESTS_MAX).contains(&number)) {
            errors.add(
                format!("{path}.{field}"),
                format!("must be 1 to {REQUESTS_MAX}"),
                "write a whole number, such as 100; what shall not pass at all is denied by an AuthorizationPolicy",
            );
        }
    }
    match read_duration(&limit.per) {
        Ok(window) if (WINDOW.0..=WINDOW.1).contains(&window) => {}
        Ok(_) => errors.add(
            format!("{path}.per"),
            "must be 1s to 24h",
            "count in seconds, minutes or hours: 100 requests per 1s, 1m or 1h",
        ),
        Err(mistake) => errors.note(format!("{path}.per"), mistake),
    }
    let mut seen = Vec::new();
    for (index, descriptor) in limit.by.iter().enumerate() {
        let path = format!("{path}.by[{index}]");
        match descriptor.read() {
            Ok(By::Header(name)) if header_name(&name).is_err() => {
                errors.check(format!("{path}.header"), header_name(&name));
            }
            Ok(by) if seen.contains(&by) => errors.add(path, "is there twice", "remove one of the two"),
            Ok(by) => seen.push(by),
            Err(message) => errors.add(
                path,
                message,
                "write path, method, host, identity, remoteIp, {header: …}, {queryParameter: …} or {claim: …}",
            ),
        }
    }
    for (index, one) in limit.matches.iter().enumerate() {
        check_match(one, &format!("{path}.match[{index}]"), errors);
    }
}

fn check_match(one: &LimitMatch, path: &str, errors: &mut FieldErrors) {
    if *one == LimitMatch::default() {
        errors.add(path, "must not be empty", "leave match out if the limit is for every request");
    }
    for (field, text) in [("uri", &one.uri), ("method", &one.method), ("authority", &one.authority)] {
        if let Some(text) = text {
            check_text(text, true, &format!("{path}.{field}"), errors);
        }
    }
    for (field, headers) in [("headers", &one.headers), ("withoutHeaders", &one.without_headers)] {
        for (name, text) in headers {
            let path = format!("{path}.{field}[{name:?}]");
            errors.check(&path, header_name(name));
            check_text(text, false, &path, errors);
        }
    }
    for (name, text) in &one.query_params {
        check_text(text, false, &format!("{path}.queryParams[{name:?}]"), errors);
    }
}

/// Exactly one way of comparing; none means "is there", where that says something.
fn check_text(text: &StringMatch, required: bool, path: &str, errors: &mut FieldErrors) {
    let ways = [text.exact.is_some(), text.prefix.is_some(), text.regex.is_some()];
    match ways.iter().filter(|set| **set).count() {
        0 if required => errors.add(
            path,
            "one of exact, prefix and regex is required",
            "write {prefix: …}, or leave the field out for any value",
        ),
        0 | 1 => {}
        _ => errors.add(path, "only one of exact, prefix and regex can be set", "keep one of exact, prefix and regex"),
    }
    if let Some(source) = &text.regex {
        super::traffic::regex(format!("{path}.regex"), source, errors);
    }
}
