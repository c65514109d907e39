//! Conditions of HTTP rules.

use std::collections::BTreeMap;

use crate::error::FieldErrors;
use crate::istio::virtual_service::{HttpMatchRequest, StringMatch};
use crate::validate::rules;
use crate::validate::traffic::{self, header_name};

const CLAIMS: &str = "@request.auth.claims";
const PSEUDO: [&str; 5] = [":method", ":scheme", ":authority", ":path", ":status"];

pub(super) fn check(path: &str, found: &HttpMatchRequest, for_mesh: bool, errors: &mut FieldErrors) {
    for (field, value) in [("scheme", &found.scheme), ("method", &found.method), ("authority", &found.authority)] {
        check_text(&format!("{path}.{field}"), value.as_ref(), errors);
    }
    // Every path has the empty prefix, so it is allowed.
    if found.uri.as_ref().is_some_and(|uri| uri.prefix.as_deref() != Some("")) {
        check_text(&format!("{path}.uri"), found.uri.as_ref(), errors);
    }
    check_headers(&format!("{path}.headers"), &found.headers, for_mesh, errors);
    check_headers(&format!("{path}.withoutHeaders"), &found.without_headers, for_mesh, errors);
    for (name, value) in &found.query_params {
        check_text(&format!("{path}.queryParams[{name:?}]"), Some(value), errors);
    }
    if found.port != 0 {
        traffic::port(format!("{path}.port"), found.port, errors);
    }
    traffic::labels(&format!("{path}.sourceLabels"), &found.source_labels, errors);
    traffic::gateways(&format!("{path}.gateways"), &found.gateways, errors);
    if !found.source_namespace.is_empty() {
        errors.check(format!("{path}.sourceNamespace"), rules::label(&found.source_namespace));
    }
}

fn check_headers(path: &str, headers: &BTreeMap<String, StringMatch>, for_mesh: bool, errors: &mut FieldErrors) {
    for (name, value) in headers {
        let path = format!("{path}[{name:?}]");
        if name.starts_with(CLAIMS) {
            if for_mesh {
                let hint = "name the gateways in spec.gateways, without mesh";
                errors.add(path.clone(), "claims of tokens are matched at gateways only", hint);
            }
        } else if !PSEUDO.contains(&name.as_str()) {
            errors.check(path.clone(), header_name(name));
        }
        // `*` is how presence used to be written.
        if value.regex.as_deref() != Some("*") {
            check_text(&path, Some(value), errors);
        }
    }
}

/// At most one kind of comparison; prefixes and expressions are not empty.
pub(super) fn check_text(path: &str, value: Option<&StringMatch>, errors: &mut FieldErrors) {
    let Some(value) = value else { return };
    let given = [&value.exact, &value.prefix, &value.regex].into_iter().flatten().count();
    if given > 1 {
        errors.add(path, "only one of exact, prefix and regex may be given", "remove the others");
    }
    if value.prefix.as_deref() == Some("") {
        errors.add(format!("{path}.prefix"), "must not be empty", "write {} to match any value");
    }
    if let Some(regex) = &value.regex {
        traffic::regex(format!("{path}.regex"), regex, errors);
    }
}
