//! `when`: conditions of authorization rules.

use federation_crds::istio::authorization_policy::When;
use mesh::{AnyNot, Condition, ConditionKey, ConditionValue, StringMatch};

use super::access::Wrong;
use super::sources::{Reader, block, both, port};

/// Reads one.
pub(super) fn read(when: &When, path: &str, reader: &Reader<'_>) -> Result<Condition, Wrong> {
    let Some(key) = key(&when.key) else {
        return Err((format!("{path}.key"), format!("{:?} is not a key of a condition", when.key)));
    };
    let values = match &key {
        ConditionKey::SourceIp | ConditionKey::RemoteIp | ConditionKey::DestinationIp => {
            both(&when.values, &when.not_values, |value| block(value).map(ConditionValue::Block))
        }
        ConditionKey::DestinationPort => {
            both(&when.values, &when.not_values, |value| port(value).map(ConditionValue::Port))
        }
        ConditionKey::SourcePrincipal => Ok(texts(when, |values| reader.principals(values))),
        ConditionKey::SourceTrustDomain => Ok(texts(when, |values| reader.domains(values))),
        ConditionKey::SourceServiceAccount => Ok(texts(when, |values| reader.accounts(values))),
        _ => Ok(texts(when, |values| values.iter().map(|value| StringMatch::of_policy_value(value)).collect())),
    };
    Ok(Condition { key, values: values.map_err(|why| (format!("{path}.values"), why))? })
}

fn texts(when: &When, read: impl Fn(&[String]) -> Vec<StringMatch>) -> AnyNot<ConditionValue> {
    let all = |values: &[String]| read(values).into_iter().map(ConditionValue::Text).collect();
    AnyNot { any: all(&when.values), not: all(&when.not_values) }
}

fn key(text: &str) -> Option<ConditionKey> {
    if let Some(rest) = text.strip_prefix("request.headers") {
        let name = rest.strip_prefix('[')?.strip_suffix(']')?;
        return (!name.is_empty()).then(|| ConditionKey::Header(name.to_ascii_lowercase()));
    }
    if let Some(rest) = text.strip_prefix("request.auth.claims") {
        let names = rest.strip_prefix('[')?.strip_suffix(']')?;
        let names: Vec<String> = names.split("][").map(str::to_owned).collect();
        return names.iter().all(|name| !name.is_empty()).then_some(ConditionKey::Claim(names));
    }
    Some(match text {
        "source.ip" => ConditionKey::SourceIp,
        "remote.ip" => ConditionKey::RemoteIp,
        "source.namespace" => ConditionKey::SourceNamespace,
        "source.principal" => ConditionKey::SourcePrincipal,
        "source.serviceAccount" => ConditionKey::SourceServiceAccount,
        "source.trustDomain" => ConditionKey::SourceTrustDomain,
        "request.auth.principal" => ConditionKey::RequestPrincipal,
        "request.auth.audiences" => ConditionKey::Audiences,
        "request.auth.presenter" => ConditionKey::Presenter,
        "destination.ip" => ConditionKey::DestinationIp,
        "destination.port" => ConditionKey::DestinationPort,
        "connection.sni" => ConditionKey::Sni,
        _ => return None,
    })
}
