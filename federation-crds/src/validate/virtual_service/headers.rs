//! Header operations.

use crate::error::{FieldErrors, Mistake};
use crate::istio::virtual_service::{HeaderOperations, Headers, HttpRewrite};
use crate::validate::rules::Rule;
use crate::validate::traffic::{header_name, is_authority};

pub(super) fn check(path: &str, headers: &Option<Headers>, errors: &mut FieldErrors) {
    let Some(headers) = headers else { return };
    for (side, operations) in [("request", &headers.request), ("response", &headers.response)] {
        let Some(operations) = operations else { continue };
        check_side(&format!("{path}.headers.{side}"), operations, side == "request", errors);
    }
}

/// The authority of a request may be set; no other pseudo header may be touched.
fn check_side(path: &str, operations: &HeaderOperations, request: bool, errors: &mut FieldErrors) {
    for (word, map) in [("set", &operations.set), ("add", &operations.add)] {
        for (name, value) in map {
            let path = format!("{path}.{word}[{name:?}]");
            if !(request && is_authority(name)) {
                errors.check(path.clone(), changeable(name));
            }
            if value.bytes().any(|byte| (byte < 0x20 && byte != b'\t') || byte == 0x7f) {
                errors.add(
                    path,
                    "the value has control characters",
                    "write the value on one line; in YAML with > and not |",
                );
            }
        }
    }
    for (index, name) in operations.remove.iter().enumerate() {
        errors.check(format!("{path}.remove[{index}]"), changeable(name));
    }
}

fn changeable(name: &str) -> Rule {
    let hint = match name {
        ":path" => "use rewrite.uri",
        _ if is_authority(name) => "use rewrite.authority, or headers.request.set of the rule",
        _ if name.starts_with(':') => "remove it; of the pseudo headers only :authority can be set",
        _ => return header_name(name),
    };
    Err(Mistake::new(format!("{name:?} cannot be changed here"), hint))
}

/// The authority may be set in one place only.
pub(super) fn check_authority(
    path: &str,
    rewrite: &Option<HttpRewrite>,
    headers: &Option<Headers>,
    errors: &mut FieldErrors,
) {
    let request = headers.as_ref().and_then(|headers| headers.request.as_ref());
    let rewritten = usize::from(rewrite.as_ref().is_some_and(|rewrite| !rewrite.authority.is_empty()));
    let set =
        request.map_or(0, |request| request.set.keys().chain(request.add.keys()).filter(|it| is_authority(it)).count());
    if rewritten + set > 1 {
        let hint = "keep rewrite.authority, and remove host and :authority from headers.request";
        errors.add(format!("{path}.headers.request"), "the authority is set several times", hint);
    }
}
