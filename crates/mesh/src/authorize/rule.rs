//! Whether a rule matches: one of its sources, one of its operations and all of its conditions.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use crate::policy::{
    AnyNot, AuthorizationRule, AuthorizationRules, Condition, ConditionKey, ConditionValue, OperationMatch, Origin,
    PathMatch, SourceMatch, StringMatch,
};

use super::path::template_matches;
use super::principal::request_principal_matches;
use super::subject::Subject;

/// What becomes of fields that need HTTP on a connection that has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stance {
    /// ALLOW: a rule with such a field matches nothing, so that nothing is allowed by accident.
    Narrow,
    /// The others: such a field is left out, so that nothing is let through by accident.
    Broad,
}

/// The first rule that matches.
pub(super) fn matching_rule<'a>(
    rules: &'a AuthorizationRules,
    subject: &Subject<'_>,
    stance: Stance,
) -> Option<&'a Origin> {
    rules.rules.iter().find(|rule| matches(rule, subject, stance)).map(|rule| &rule.origin)
}

fn matches(rule: &AuthorizationRule, subject: &Subject<'_>, stance: Stance) -> bool {
    if subject.http.is_none() && stance == Stance::Narrow && needs_http(rule) {
        return false;
    }
    (rule.from.is_empty() || rule.from.iter().any(|source| source_matches(source, subject)))
        && (rule.to.is_empty() || rule.to.iter().any(|operation| operation_matches(operation, subject)))
        && rule.when.iter().all(|condition| condition_matches(condition, subject))
}

/// Whether any alternative of the rule looks at HTTP. Istio drops the rule as a whole then.
fn needs_http(rule: &AuthorizationRule) -> bool {
    rule.from.iter().any(|source| !source.request_principals.is_empty())
        || rule.to.iter().any(|to| !to.hosts.is_empty() || !to.methods.is_empty() || !to.paths.is_empty())
        || rule.when.iter().any(|condition| !condition.values.is_empty() && is_http(&condition.key))
}

fn is_http(key: &ConditionKey) -> bool {
    match key {
        ConditionKey::Header(_)
        | ConditionKey::RequestPrincipal
        | ConditionKey::Audiences
        | ConditionKey::Presenter
        | ConditionKey::Claim(_) => true,
        ConditionKey::SourceIp
        | ConditionKey::RemoteIp
        | ConditionKey::SourceNamespace
        | ConditionKey::SourcePrincipal
        | ConditionKey::SourceServiceAccount
        | ConditionKey::SourceTrustDomain
        | ConditionKey::DestinationIp
        | ConditionKey::DestinationPort
        | ConditionKey::Sni => false,
    }
}

fn source_matches(source: &SourceMatch, subject: &Subject<'_>) -> bool {
    let identity = subject.identity.as_ref();
    text_fits(&source.principals, identity.map(|identity| identity.principal.as_str()))
        && text_fits(&source.namespaces, identity.map(|identity| identity.namespace))
        && text_fits(&source.service_accounts, identity.map(|identity| identity.service_account.as_str()))
        && text_fits(&source.trust_domains, identity.map(|identity| identity.trust_domain))
        && source.ip_blocks.fits(|block| within(*block, subject.source_ip))
        && source.remote_ip_blocks.fits(|block| within(*block, subject.remote_ip))
        && (subject.http.is_none() || source.request_principals.fits(|wanted| request_principal(wanted, subject)))
}

fn operation_matches(operation: &OperationMatch, subject: &Subject<'_>) -> bool {
    if !operation.ports.fits(|port| *port == subject.port) {
        return false;
    }
    let Some(http) = &subject.http else { return true };
    operation.hosts.fits(|wanted| http.hosts.iter().any(|host| wanted.matches_ignoring_case(host)))
        && operation.methods.fits(|wanted| wanted.matches(http.request.method))
        && operation.paths.fits(|wanted| match wanted {
            PathMatch::Text(wanted) => wanted.matches(http.path),
            PathMatch::Template(template) => template_matches(template, http.path),
        })
}

fn condition_matches(condition: &Condition, subject: &Subject<'_>) -> bool {
    if subject.http.is_none() && is_http(&condition.key) {
        return true;
    }
    let values = &condition.values;
    let identity = subject.identity.as_ref();
    match &condition.key {
        ConditionKey::Header(name) => header_fits(values, subject.header(name).as_deref()),
        ConditionKey::SourceIp => values.fits(|value| address_is(value, subject.source_ip)),
        ConditionKey::RemoteIp => values.fits(|value| address_is(value, subject.remote_ip)),
        ConditionKey::DestinationIp => values.fits(|value| address_is(value, subject.destination_ip)),
        ConditionKey::SourceNamespace => values.fits(|value| text_is(value, identity.map(|it| it.namespace))),
        ConditionKey::SourcePrincipal => values.fits(|value| text_is(value, identity.map(|it| it.principal.as_str()))),
        ConditionKey::SourceServiceAccount => {
            values.fits(|value| text_is(value, identity.map(|it| it.service_account.as_str())))
        }
        ConditionKey::SourceTrustDomain => values.fits(|value| text_is(value, identity.map(|it| it.trust_domain))),
        ConditionKey::RequestPrincipal => {
            values.fits(|value| matches!(value, ConditionValue::Text(wanted) if request_principal(wanted, subject)))
        }
        ConditionKey::Audiences => values.fits(|value| claim_is(value, subject, &["aud"])),
        ConditionKey::Presenter => values.fits(|value| claim_is(value, subject, &["azp"])),
        ConditionKey::Claim(path) => values.fits(|value| claim_is(value, subject, path)),
        ConditionKey::DestinationPort => values.fits(|value| port_is(value, subject.port)),
        ConditionKey::Sni => values.fits(|value| text_is(value, subject.sni)),
    }
}

/// Compares a text that may be absent; what is absent matches no pattern.
fn text_fits(patterns: &AnyNot<StringMatch>, text: Option<&str>) -> bool {
    patterns.fits(|pattern| text.is_some_and(|text| pattern.matches(text)))
}

fn text_is(value: &ConditionValue, text: Option<&str>) -> bool {
    matches!(value, ConditionValue::Text(pattern) if text.is_some_and(|text| pattern.matches(text)))
}

/// `*` wants a header that is there, be it empty.
fn header_fits(values: &AnyNot<ConditionValue>, header: Option<&str>) -> bool {
    values.fits(|value| match value {
        ConditionValue::Text(StringMatch::Present) => header.is_some(),
        value => text_is(value, header),
    })
}

fn within(block: IpNet, address: Option<IpAddr>) -> bool {
    address.is_some_and(|address| block.contains(&address))
}

fn address_is(value: &ConditionValue, address: Option<IpAddr>) -> bool {
    matches!(value, ConditionValue::Block(block) if within(*block, address))
}

fn port_is(value: &ConditionValue, port: u16) -> bool {
    match value {
        ConditionValue::Port(wanted) => *wanted == port,
        ConditionValue::Text(pattern) => pattern.matches(&port.to_string()),
        ConditionValue::Block(_) => false,
    }
}

fn request_principal(wanted: &StringMatch, subject: &Subject<'_>) -> bool {
    subject.claims.is_some_and(|claims| request_principal_matches(wanted, claims))
}

/// Claims are texts or lists of texts; numbers and flags match nothing, as in Istio.
fn claim_is(value: &ConditionValue, subject: &Subject<'_>, path: &[impl AsRef<str>]) -> bool {
    let ConditionValue::Text(pattern) = value else { return false };
    let Some((first, rest)) = path.split_first() else { return false };
    let top = subject.claims.and_then(|claims| claims.all.get(first.as_ref()));
    let claim = rest.iter().try_fold(top, |value, name| match value {
        Some(Value::Object(members)) => Some(members.get(name.as_ref())),
        _ => None,
    });
    match claim.flatten() {
        Some(Value::String(text)) => pattern.matches(text),
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).any(|text| pattern.matches(text)),
        _ => false,
    }
}
