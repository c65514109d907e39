//! What is valid in an AuthorizationPolicy and probably not meant: Istio's warnings.

use federation_crds::istio::AuthorizationPolicy;
use federation_crds::istio::authorization_policy::{Action, Operation, PolicyRule, Source};
use federation_crds::{Kind, Manifest};
use mesh::ObjectRef;

use crate::analyze::codes;
use crate::compile::Input;
use crate::finding::Finding;
use crate::object;

/// Looks at all policies.
pub(super) fn read(input: &Input<'_>, findings: &mut Vec<Finding>) {
    for manifest in input.manifests {
        if let Manifest::AuthorizationPolicy(policy) = manifest {
            of_policy(policy, findings);
        }
    }
}

fn of_policy(policy: &AuthorizationPolicy, findings: &mut Vec<Finding>) {
    let origin = object::reference(Kind::AuthorizationPolicy, &policy.metadata);
    for (index, rule) in policy.spec.rules.iter().enumerate() {
        let path = format!("spec.rules[{index}]");
        if policy.spec.action == Action::Deny && is_for_http_only(rule) {
            let message = "denies everything on TCP ports, because its fields are of HTTP only";
            let hint = "name the ports that it is for: to[].operation.ports";
            findings.push(object::finding(&origin, path.clone(), codes::SCHEMA_WARNING, message).hint(hint));
        }
        for (field, value) in values(rule, &path).into_iter().filter(|(_, value)| has_literal_star(value)) {
            note_star(&origin, field, value, findings);
        }
    }
}

fn note_star(origin: &ObjectRef, path: String, value: &str, findings: &mut Vec<Finding>) {
    let message = format!("the star inside {value:?} is an ordinary character");
    let hint = "a star stands at one end of a value; in paths {*} is one segment and {**} the rest";
    findings.push(object::finding(origin, path, codes::SCHEMA_WARNING, message).hint(hint));
}

/// Istio's rule: no `to` names ports, or there is no `to` and no `from` names anything that connections have.
fn is_for_http_only(rule: &PolicyRule) -> bool {
    let sources: Vec<&Source> = rule.from.iter().filter_map(|from| from.source.as_ref()).collect();
    let operations: Vec<&Operation> = rule.to.iter().filter_map(|to| to.operation.as_ref()).collect();
    if !operations.is_empty() {
        return operations.iter().all(|operation| operation.ports.is_empty() && operation.not_ports.is_empty());
    }
    !sources.is_empty() && sources.iter().all(|source| !is_of_connections(source))
}

/// Whether a source looks at anything but tokens.
fn is_of_connections(source: &Source) -> bool {
    let of_tokens = ["requestPrincipals", "notRequestPrincipals"];
    source.fields().iter().any(|(field, values)| !values.is_empty() && !of_tokens.contains(field))
}

/// Fields of a source whose values may have stars.
const STARRED: [&str; 6] =
    ["principals", "notPrincipals", "requestPrincipals", "notRequestPrincipals", "namespaces", "notNamespaces"];

/// Values that may have stars, and their paths.
fn values<'a>(rule: &'a PolicyRule, path: &str) -> Vec<(String, &'a str)> {
    let mut all = Vec::new();
    let mut add = |path: &str, fields: Vec<(&'static str, &'a Vec<String>)>| {
        for (field, values) in fields {
            all.extend(
                values.iter().enumerate().map(|(index, value)| (format!("{path}.{field}[{index}]"), value.as_str())),
            );
        }
    };
    for (index, source) in rule.from.iter().enumerate().filter_map(|(index, from)| Some((index, from.source.as_ref()?)))
    {
        let starred = source.fields().into_iter().filter(|(field, _)| STARRED.contains(field)).collect();
        add(&format!("{path}.from[{index}].source"), starred);
    }
    for (index, to) in rule.to.iter().enumerate().filter_map(|(index, to)| Some((index, to.operation.as_ref()?))) {
        let fields = vec![
            ("hosts", &to.hosts),
            ("notHosts", &to.not_hosts),
            ("methods", &to.methods),
            ("notMethods", &to.not_methods),
            ("paths", &to.paths),
            ("notPaths", &to.not_paths),
        ];
        add(&format!("{path}.to[{index}].operation"), fields);
    }
    all
}

/// A star that is neither the first nor the last character, or a second one.
fn has_literal_star(value: &str) -> bool {
    if value.contains("{*}") || value.contains("{**}") {
        return false;
    }
    let inner = value.strip_prefix('*').or_else(|| value.strip_suffix('*')).unwrap_or(value);
    inner.contains('*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn istios_warnings_are_findings() {
        let cases: [(&str, &[&str]); 8] = [
            ("{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}", &["spec.rules[0]"]),
            ("{action: DENY, rules: [{to: [{operation: {methods: [GET], ports: ['80']}}]}]}", &[]),
            ("{action: ALLOW, rules: [{to: [{operation: {methods: [GET]}}]}]}", &[]),
            ("{action: DENY, rules: [{from: [{source: {notRequestPrincipals: ['*']}}]}]}", &["spec.rules[0]"]),
            ("{action: DENY, rules: [{from: [{source: {namespaces: [a]}}]}]}", &[]),
            (
                "{rules: [{to: [{operation: {paths: [/a/*/b, '/a/*', '*', '*/a', '/a/{*}/b']}}]}]}",
                &["spec.rules[0].to[0].operation.paths[0]"],
            ),
            (
                "{rules: [{from: [{source: {principals: ['*/ns/a/*'], namespaces: [a*]}}]}]}",
                &["spec.rules[0].from[0].source.principals[0]"],
            ),
            ("{action: DENY, rules: [{when: [{key: source.namespace, values: [a]}]}]}", &[]),
        ];
        for (spec, expected) in cases {
            let text = format!(
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: a}}\nspec: {spec}\n"
            );
            let manifests = federation_crds::parse_manifests(&text, "test.yaml").unwrap();
            let mut findings = Vec::new();
            for manifest in &manifests {
                if let Manifest::AuthorizationPolicy(policy) = manifest {
                    of_policy(policy, &mut findings);
                }
            }
            let paths: Vec<_> = findings.iter().map(|finding| finding.path.as_str()).collect();
            assert_eq!(paths, expected, "{spec}");
            assert!(findings.iter().all(|finding| finding.code == codes::SCHEMA_WARNING));
        }
    }
}
