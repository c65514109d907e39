//! The fields that a kind has, from its schema: what documentation and its tests are made from.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::manifest::Kind;
use crate::{cluster_traffic_policy, istio, rate_limit_policy, schema};

/// The paths of all fields below `spec`, sorted: `spec.http[].match[].uri`; `{}` stands for the keys of a map. What
/// compares texts (`exact`, `prefix`, `regex`) is one field. Empty for kinds that are Kubernetes' own.
pub fn fields(kind: Kind) -> BTreeSet<String> {
    let schema = match kind {
        Kind::VirtualService => schema::of::<istio::VirtualService>(),
        Kind::DestinationRule => schema::of::<istio::DestinationRule>(),
        Kind::Gateway => schema::of::<istio::Gateway>(),
        Kind::ServiceEntry => schema::of::<istio::ServiceEntry>(),
        Kind::WorkloadEntry => schema::of::<istio::WorkloadEntry>(),
        Kind::Sidecar => schema::of::<istio::Sidecar>(),
        Kind::PeerAuthentication => schema::of::<istio::PeerAuthentication>(),
        Kind::RequestAuthentication => schema::of::<istio::RequestAuthentication>(),
        Kind::AuthorizationPolicy => schema::of::<istio::AuthorizationPolicy>(),
        Kind::RateLimitPolicy => schema::of::<rate_limit_policy::RateLimitPolicy>(),
        Kind::ClusterTrafficPolicy => schema::of::<cluster_traffic_policy::ClusterTrafficPolicy>(),
        _ => return BTreeSet::new(),
    };
    let mut fields = BTreeSet::new();
    if let Some(spec) = schema.pointer("/properties/spec") {
        walk(spec, "spec", &mut fields);
    }
    fields
}

fn walk(schema: &Value, path: &str, fields: &mut BTreeSet<String>) {
    let alternatives = ["anyOf", "oneOf", "allOf"].iter().filter_map(|word| schema.get(word)?.as_array()).flatten();
    for alternative in alternatives {
        walk(alternative, path, fields);
    }
    if let Some(items) = schema.get("items") {
        return walk(items, &format!("{path}[]"), fields);
    }
    if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
        return walk(values, &format!("{path}{{}}"), fields);
    }
    let members = schema.get("properties").and_then(Value::as_object);
    match members.filter(|members| !compares(members)) {
        Some(members) => members.iter().for_each(|(name, member)| walk(member, &format!("{path}.{name}"), fields)),
        None if path != "spec" && has_value(schema) => {
            fields.insert(path.to_owned());
        }
        None => {}
    }
}

/// Of a type of its own, one of some words, or read by code alone.
fn has_value(schema: &Value) -> bool {
    let words = ["enum", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-int-or-string"];
    schema.get("type").is_some_and(|kind| kind != "null") || words.iter().any(|word| schema.get(*word).is_some())
}

fn compares(members: &serde_json::Map<String, Value>) -> bool {
    members.len() == 3 && ["exact", "prefix", "regex"].iter().all(|name| members.contains_key(*name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_at_every_depth() {
        let fields = fields(Kind::VirtualService);
        for path in
            ["spec.hosts[]", "spec.http[].match[].uri", "spec.http[].match[].headers{}", "spec.http[].route[].weight"]
        {
            assert!(fields.contains(path), "{path}: {fields:#?}");
        }
    }
}
