//! RateLimitPolicy.

use std::collections::BTreeMap;
use std::sync::Arc;

use federation_crds::istio::parse_duration;
use federation_crds::istio::virtual_service::StringMatch as RawMatch;
use federation_crds::rate_limit_policy::{By, Limit, LimitMatch, RateLimitPolicy};
use federation_crds::{Kind, Manifest};
use mesh::{BodyLimit, Descriptor, HttpMatch, ObjectRef, Origin, Pattern, RateLimit, StringMatch};

use super::Scoped;
use super::scope::{Scope, Selection};
use crate::analyze::codes;
use crate::compile::Input;
use crate::finding::Finding;
use crate::mesh_config::MeshConfig;
use crate::object;

/// What they limit.
#[derive(Default)]
pub(super) struct Limits {
    pub(super) rates: Vec<Scoped<RateLimit>>,
    pub(super) bodies: Vec<Scoped<BodyLimit>>,
}

/// Reads them all, in an order that does not depend on the manifests'.
pub(super) fn read(input: &Input<'_>, mesh_config: &MeshConfig, findings: &mut Vec<Finding>) -> Limits {
    let policies = input.manifests.iter().filter_map(|manifest| match manifest {
        Manifest::RateLimitPolicy(policy) => Some(policy.as_ref()),
        _ => None,
    });
    let mut policies: Vec<&RateLimitPolicy> = policies.collect();
    policies.sort_by_key(|policy| object::age(&policy.metadata));
    let mut limits = Limits::default();
    for policy in policies {
        let selection = Selection {
            kind: Kind::RateLimitPolicy,
            metadata: &policy.metadata,
            selector: policy.spec.selector.as_ref(),
            target_ref: None,
            target_refs: &policy.spec.target_refs,
        };
        let scope = Arc::new(Scope::read(&selection, input, mesh_config, findings));
        let origin = Arc::new(object::reference(Kind::RateLimitPolicy, &policy.metadata));
        for (index, limit) in policy.spec.limits.iter().enumerate() {
            let path = format!("spec.limits[{index}]");
            match rate_limit(&origin, &path, limit) {
                Ok(part) => limits.rates.push(Scoped { scope: scope.clone(), part: Arc::new(part) }),
                Err(why) => findings.push(object::finding(&origin, path, codes::NOT_COMPILED, why)),
            }
        }
        if let Some(max_bytes) = policy.spec.max_body_bytes.and_then(|most| u64::try_from(most).ok()) {
            let origin = Origin { object: origin, path: "spec.maxBodyBytes".to_owned(), name: None };
            limits.bodies.push(Scoped { scope, part: Arc::new(BodyLimit { origin, max_bytes }) });
        }
    }
    limits
}

fn rate_limit(origin: &Arc<ObjectRef>, path: &str, limit: &Limit) -> Result<RateLimit, String> {
    let name = limit.name.clone().unwrap_or_else(|| origin.name.clone());
    let count = |number: i64| u32::try_from(number).map_err(|_| format!("{number} is no number of requests"));
    let matches = limit.matches.iter().map(http_match).collect::<Result<_, _>>()?;
    let by = limit.by.iter().map(|descriptor| descriptor.read().map(self::by)).collect::<Result<_, _>>()?;
    Ok(RateLimit {
        origin: Origin { object: origin.clone(), path: path.to_owned(), name: Some(name) },
        matches,
        by,
        requests: count(limit.requests)?,
        per: parse_duration(&limit.per)?,
        burst: count(limit.burst.unwrap_or(limit.requests))?,
    })
}

fn by(by: By) -> Descriptor {
    match by {
        By::Path => Descriptor::Path,
        By::Method => Descriptor::Method,
        By::Host => Descriptor::Host,
        By::Identity => Descriptor::Identity,
        By::RemoteIp => Descriptor::RemoteIp,
        By::Header(name) => Descriptor::Header(name),
        By::QueryParameter(name) => Descriptor::QueryParameter(name),
        By::Claim(name) => Descriptor::Claim(name),
    }
}

fn http_match(raw: &LimitMatch) -> Result<HttpMatch, String> {
    let text = |raw: &Option<RawMatch>| raw.as_ref().map(string_match).transpose();
    Ok(HttpMatch {
        uri: text(&raw.uri)?,
        ignore_uri_case: raw.ignore_uri_case.unwrap_or(false),
        method: text(&raw.method)?,
        authority: text(&raw.authority)?,
        headers: by_name(&raw.headers, |name| name.to_ascii_lowercase())?,
        without_headers: by_name(&raw.without_headers, |name| name.to_ascii_lowercase())?,
        query_params: by_name(&raw.query_params, str::to_owned)?,
        ..HttpMatch::default()
    })
}

fn by_name(
    raw: &BTreeMap<String, RawMatch>,
    written: impl Fn(&str) -> String,
) -> Result<BTreeMap<String, StringMatch>, String> {
    raw.iter().map(|(name, text)| Ok((written(name), string_match(text)?))).collect()
}

/// None of the three ways means "is there".
fn string_match(raw: &RawMatch) -> Result<StringMatch, String> {
    Ok(match (&raw.exact, &raw.prefix, &raw.regex) {
        (Some(text), ..) => StringMatch::Exact(text.clone()),
        (_, Some(text), _) => StringMatch::Prefix(text.clone()),
        (.., Some(source)) => StringMatch::Regex(Pattern::new(source.as_str()).map_err(|error| error.to_string())?),
        (None, None, None) => StringMatch::Present,
    })
}
