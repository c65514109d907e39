//! RequestAuthentication.

use std::sync::Arc;
use std::time::Duration;

use federation_crds::istio::request_authentication::JwtRule;
use federation_crds::istio::{RequestAuthentication, parse_duration};
use federation_crds::{Kind, Manifest};
use mesh::{KeySource, ObjectRef, Origin, TokenHeader, TokenRule};

use super::Scoped;
use super::scope::{Scope, Selection};
use crate::compile::Input;
use crate::finding::Finding;
use crate::mesh_config::MeshConfig;
use crate::object;

/// Istio's default for fetching keys.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads them all, in an order that does not depend on the manifests'.
pub(super) fn read(input: &Input<'_>, mesh_config: &MeshConfig, findings: &mut Vec<Finding>) -> Vec<Scoped<TokenRule>> {
    let policies = input.manifests.iter().filter_map(|manifest| match manifest {
        Manifest::RequestAuthentication(policy) => Some(policy.as_ref()),
        _ => None,
    });
    let mut policies: Vec<&RequestAuthentication> = policies.collect();
    policies.sort_by_key(|policy| object::age(&policy.metadata));
    let mut scoped = Vec::new();
    for policy in policies {
        let selection = Selection {
            kind: Kind::RequestAuthentication,
            metadata: &policy.metadata,
            selector: policy.spec.selector.as_ref(),
            target_ref: policy.spec.target_ref.as_ref(),
            target_refs: &policy.spec.target_refs,
        };
        let scope = Arc::new(Scope::read(&selection, input, mesh_config, findings));
        let origin = Arc::new(object::reference(Kind::RequestAuthentication, &policy.metadata));
        for (index, rule) in policy.spec.jwt_rules.iter().enumerate() {
            let path = format!("spec.jwtRules[{index}]");
            let part = Arc::new(token_rule(&origin, path, rule));
            scoped.push(Scoped { scope: scope.clone(), part });
        }
    }
    scoped
}

fn token_rule(origin: &Arc<ObjectRef>, path: String, rule: &JwtRule) -> TokenRule {
    let headers = rule.from_headers.iter();
    let claims = rule.output_claim_to_headers.iter();
    TokenRule {
        keys: keys(rule),
        origin: Origin { object: origin.clone(), path, name: None },
        issuer: rule.issuer.clone(),
        audiences: rule.audiences.clone(),
        from_headers: headers
            .map(|header| TokenHeader { name: header.name.to_ascii_lowercase(), prefix: header.prefix.clone() })
            .collect(),
        from_params: rule.from_params.clone(),
        from_cookies: rule.from_cookies.clone(),
        forward: rule.forward_original_token.unwrap_or(false),
        payload_to_header: rule.output_payload_to_header.as_ref().map(|name| name.to_ascii_lowercase()),
        claims_to_headers: claims.map(|pair| (pair.header.to_ascii_lowercase(), pair.claim.clone())).collect(),
        timeout: rule.timeout.as_deref().and_then(|text| parse_duration(text).ok()).unwrap_or(FETCH_TIMEOUT),
        space_delimited_claims: rule.space_delimited_claims.clone(),
    }
}

fn keys(rule: &JwtRule) -> KeySource {
    match (rule.jwks.as_deref().filter(|keys| !keys.is_empty()), rule.keys_uri()) {
        (Some(keys), _) => KeySource::Inline(keys.to_owned()),
        (None, Some(uri)) => KeySource::Uri(uri.to_owned()),
        (None, None) => KeySource::Issuer(rule.issuer.clone()),
    }
}
