//! Conditions of an AuthorizationPolicy.

use super::rule::{account, block, port};
use crate::error::{FieldErrors, Mistake};
use crate::istio::authorization_policy::When;
use crate::suggest;
use crate::validate::rules::Rule;
use crate::validate::target::no_empty;
use crate::validate::traffic::header_name;

/// Keys that are whole words.
const KEYS: [&str; 12] = [
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "source.trustDomain",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "destination.ip",
    "destination.port",
    "connection.sni",
];

pub(super) fn check(when: &When, path: &str, errors: &mut FieldErrors) {
    if let Err(mistake) = key(&when.key) {
        return errors.note(format!("{path}.key"), mistake);
    }
    if when.values.is_empty() && when.not_values.is_empty() {
        errors.add(
            path,
            format!("at least one of values and notValues is required for the key {}", when.key),
            "add values: […]",
        );
    }
    for (field, values) in [("values", &when.values), ("notValues", &when.not_values)] {
        let path = format!("{path}.{field}");
        let rule: fn(&str) -> Rule = match when.key.as_str() {
            "source.ip" | "remote.ip" | "destination.ip" => block,
            "destination.port" => port,
            "source.serviceAccount" => account,
            _ => {
                no_empty(values, &path, errors);
                continue;
            }
        };
        for (index, value) in values.iter().enumerate() {
            errors.check(format!("{path}[{index}]"), rule(value));
        }
    }
}

fn key(key: &str) -> Rule {
    if KEYS.contains(&key) {
        return Ok(());
    }
    let wrong = |message: &str, hint: &str| Err(Mistake::new(format!("{key:?} {message}"), hint));
    if key.starts_with("experimental.envoy.filters.") {
        return wrong("reads metadata of Envoy's filters, which do not exist here", "use a header or a claim");
    }
    match key.split_once('[') {
        Some(("request.headers", rest)) if rest.len() > 1 && rest.ends_with(']') => {
            header_name(&rest[..rest.len() - 1])
        }
        Some(("request.auth.claims", rest)) if rest.ends_with(']') => {
            let names = rest[..rest.len() - 1].split("][");
            let good = names.clone().all(|name| !name.is_empty() && !name.contains(['[', ']']));
            if good {
                Ok(())
            } else {
                wrong("must be request.auth.claims[name], nested as [a][b]", "write a name in each pair of brackets")
            }
        }
        _ => match key {
            "request.headers" | "request.auth.claims" => {
                wrong("must have a name in brackets, such as [x-user]", &format!("write {key}[name]"))
            }
            "destination.namespace" => {
                wrong("is replaced by metadata.namespace", "write the policy into that namespace")
            }
            _ if key.starts_with("destination.labels") => {
                wrong("is replaced by spec.selector", "write them into spec.selector.matchLabels")
            }
            _ => wrong("is not a key of a condition", &suggest::hint(key, KEYS)),
        },
    }
}
