//! Policies of a view in words: what is asked of clients, and what the workload may reach.

use mesh::{AuthorizationAction, AuthorizationRules, InboundPolicy, KeySource, MtlsMode, OutboundPolicy, UnknownHosts};
use serde::Serialize;
use serde_json::Value;

use crate::commands::explain::told::how::destination;

/// One policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    pub(super) policy: &'static str,
    pub(super) object: String,
    pub(super) says: String,
}

pub(super) fn rows(view: &Value) -> Vec<Row> {
    let config = &view["workload"]["config"];
    let inbound = serde_json::from_value::<InboundPolicy>(config["inbound"].clone()).unwrap_or_default();
    let outbound = serde_json::from_value::<OutboundPolicy>(config["outbound"].clone()).unwrap_or_default();
    let mut rows = mtls(&inbound, &view["workload"]["mtls"]);
    let mut add = |policy, object: String, says: String| rows.push(Row { policy, object, says });
    for token in &inbound.tokens {
        let keys = match &token.keys {
            KeySource::Inline(_) => "keys in the object".to_owned(),
            KeySource::Uri(uri) => format!("keys from {uri}"),
            KeySource::Issuer(url) => format!("keys from where {url} says"),
        };
        add("token", token.origin.to_string(), format!("issuer {}, {keys}", token.issuer));
    }
    for rules in &inbound.authorization {
        add("authorization", rules.origin.to_string(), authorization(rules));
    }
    for limit in &inbound.limits {
        let by: Vec<String> = limit.by.iter().map(|by| format!("{by:?}").to_lowercase()).collect();
        let by = if by.is_empty() { String::new() } else { format!(" by {}", by.join(", ")) };
        let says =
            format!("{} requests in {} ms{by}, bursts of {}", limit.requests, limit.per.as_millis(), limit.burst);
        add("limit", limit.origin.to_string(), says);
    }
    for limit in &inbound.body_limits {
        add("limit", limit.origin.to_string(), format!("bodies of at most {} bytes", limit.max_bytes));
    }
    rows.push(reach(&outbound));
    rows
}

fn mtls(inbound: &InboundPolicy, workload: &Value) -> Vec<Row> {
    let word = |mode: MtlsMode| match mode {
        MtlsMode::Permissive => "PERMISSIVE",
        MtlsMode::Strict => "STRICT",
        MtlsMode::Disable => "DISABLE",
    };
    let row = |object: String, says: String| Row { policy: "mtls", object, says };
    let mut rows = vec![match &inbound.mtls {
        Some(rule) => row(rule.origin.to_string(), word(rule.mode).to_owned()),
        None => row(String::new(), workload.as_str().unwrap_or("permissive").to_uppercase()),
    }];
    let ports = inbound.port_mtls.iter();
    rows.extend(ports.map(|(port, rule)| row(rule.origin.to_string(), format!("port {port}: {}", word(rule.mode)))));
    rows
}

fn authorization(rules: &AuthorizationRules) -> String {
    let action = match &rules.action {
        AuthorizationAction::Allow => "ALLOW".to_owned(),
        AuthorizationAction::Deny => "DENY".to_owned(),
        AuthorizationAction::Audit => "AUDIT".to_owned(),
        AuthorizationAction::Custom(authorizer) => format!("CUSTOM, provider {}", authorizer.name),
    };
    let rules_count = match rules.rules.len() {
        0 => "no rule: matches nothing".to_owned(),
        1 => "1 rule".to_owned(),
        several => format!("{several} rules"),
    };
    let dry = if rules.dry_run { ", dry run" } else { "" };
    format!("{action}, {rules_count}{dry}")
}

fn reach(outbound: &OutboundPolicy) -> Row {
    let unknown = match &outbound.unknown {
        UnknownHosts::Allow => "unknown hosts: dialled as they are (ALLOW_ANY)".to_owned(),
        UnknownHosts::Refuse => "unknown hosts: refused (REGISTRY_ONLY)".to_owned(),
        UnknownHosts::Through(through) => format!("unknown hosts: through {}", destination(through)),
    };
    let hosts = outbound.hosts.as_ref().map(|hosts| {
        let named = hosts.iter().map(|host| {
            let namespace = host.namespace.as_ref().map_or("*", |namespace| namespace.as_str());
            format!("{namespace}/{}", host.host)
        });
        format!("; known hosts: {}", named.collect::<Vec<_>>().join(", "))
    });
    let object = outbound.origin.as_ref().map(ToString::to_string).unwrap_or_default();
    Row { policy: "outbound", object, says: format!("{unknown}{}", hosts.unwrap_or_default()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn policies_are_told_with_the_object_that_says_so() {
        let object = |kind: &str| json!({"kind": kind, "namespace": "default", "name": "x"});
        let view = json!({"workload": {"mtls": "permissive", "config": {
            "inbound": {
                "mtls": {"origin": object("PeerAuthentication"), "mode": "strict"},
                "authorization": [{"origin": object("AuthorizationPolicy"), "action": "deny", "rules": []}],
            },
            "outbound": {"unknown": "refuse"},
        }}});
        let told: Vec<String> =
            rows(&view).iter().map(|row| format!("{} {} {}", row.policy, row.object, row.says)).collect();
        assert_eq!(
            told,
            [
                "mtls PeerAuthentication default/x STRICT",
                "authorization AuthorizationPolicy default/x DENY, no rule: matches nothing",
                "outbound  unknown hosts: refused (REGISTRY_ONLY)",
            ]
        );
    }
}
