//! Redirects, direct responses and cross-origin rules.

use super::super::matches::check_text;
use crate::error::FieldErrors;
use crate::istio::virtual_service::{CorsPolicy, HttpDirectResponse, HttpRedirect};
use crate::suggest;
use crate::validate::traffic::{self, header_name};

/// The largest body of a direct response.
const BODY_MAX: usize = 1024 * 1024;
const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*"];

pub(super) fn check_redirect(path: &str, redirect: &Option<HttpRedirect>, errors: &mut FieldErrors) {
    let Some(redirect) = redirect else { return };
    let nothing = redirect.uri.is_empty()
        && redirect.authority.is_empty()
        && redirect.scheme.is_empty()
        && redirect.prefix_rewrite.is_empty()
        && redirect.port.is_none()
        && redirect.derive_port.is_none();
    if nothing {
        errors.add(
            path,
            "uri, prefixRewrite, authority, scheme or port is required",
            "add one of them, such as uri: /new, or remove redirect",
        );
    }
    if !redirect.uri.is_empty() && !redirect.prefix_rewrite.is_empty() {
        errors.add(format!("{path}.prefixRewrite"), "must be absent beside uri", "keep one of uri and prefixRewrite");
    }
    if redirect.port.is_some() && redirect.derive_port.is_some() {
        errors.add(format!("{path}.derivePort"), "must be absent beside port", "keep one of port and derivePort");
    }
    if !matches!(redirect.redirect_code, 0 | 301 | 302 | 303 | 307 | 308) {
        let message = format!("{} is no status of a redirect", redirect.redirect_code);
        errors.add(format!("{path}.redirectCode"), message, "use 301, 302, 303, 307 or 308");
    }
    if !matches!(redirect.scheme.as_str(), "" | "http" | "https") {
        errors.add(
            format!("{path}.scheme"),
            format!("{:?} must be http or https", redirect.scheme),
            "write https, or leave it out to keep the request's",
        );
    }
    if let Some(port) = redirect.port {
        traffic::port(format!("{path}.port"), port, errors);
    }
}

pub(super) fn check_direct(path: &str, response: &Option<HttpDirectResponse>, errors: &mut FieldErrors) {
    let Some(response) = response else { return };
    if !(200..=599).contains(&response.status) {
        errors.add(
            format!("{path}.status"),
            format!("{} must be a status, 200 to 599", response.status),
            "write the status to answer with, such as 503",
        );
    }
    let Some(body) = &response.body else { return };
    let both = [&body.string, &body.bytes].into_iter().flatten();
    if both.clone().count() > 1 {
        errors.add(
            format!("{path}.body"),
            "only one of string and bytes may be given",
            "keep string for text, or bytes for base64",
        );
    }
    if both.map(String::len).sum::<usize>() > BODY_MAX {
        errors.add(format!("{path}.body"), "is longer than 1 MiB", "let a service answer that much");
    }
    let base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    if body.bytes.as_ref().is_some_and(|bytes| bytes.len() % 4 != 0 || !bytes.bytes().all(base64)) {
        errors.add(format!("{path}.body.bytes"), "is no base64", "use string: for text");
    }
}

pub(super) fn check_cors(path: &str, policy: &Option<CorsPolicy>, errors: &mut FieldErrors) {
    let Some(policy) = policy else { return };
    for (index, origin) in policy.allow_origins.iter().enumerate() {
        let path = format!("{path}.allowOrigins[{index}]");
        let texts = [&origin.exact, &origin.prefix, &origin.regex];
        if texts.into_iter().flatten().all(String::is_empty) {
            errors.add(&path, "exact, prefix or regex is required", "add one of them; {regex: .*} is for all origins");
        } else {
            check_text(&path, Some(origin), errors);
        }
    }
    for (index, method) in policy.allow_methods.iter().enumerate() {
        if !METHODS.contains(&method.as_str()) {
            errors.add(
                format!("{path}.allowMethods[{index}]"),
                format!("{method:?} is no HTTP method"),
                suggest::hint(method, METHODS),
            );
        }
    }
    for (field, names) in [("allowHeaders", &policy.allow_headers), ("exposeHeaders", &policy.expose_headers)] {
        for (index, name) in names.iter().enumerate() {
            errors.check(format!("{path}.{field}[{index}]"), header_name(name));
        }
    }
    let age = traffic::duration(format!("{path}.maxAge"), &policy.max_age, errors);
    if age.is_some_and(|age| age.subsec_nanos() > 0) {
        errors.add(format!("{path}.maxAge"), "must be whole seconds", "round it to seconds, such as 24h");
    }
}
