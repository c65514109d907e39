//! Creating and revoking join tokens.

use mesh::{ClusterName, TrustDomain};

use super::step::{Done, Step};
use crate::command::{NewToken, Refusal};
use crate::token::Token;

/// Tokens that exist at one time, used and expired ones included; the oldest of those make room.
const TOKENS_KEPT: usize = 4096;

pub(super) fn create(step: &mut Step<'_>, new: &NewToken) -> Result<Done, Refusal> {
    check_not_reserved(&new.cluster, &new.trust_domain)?;
    if let Some(owner) = step.state().cluster_of(&new.trust_domain)
        && *owner != new.cluster
    {
        return Err(Refusal::TrustDomainTaken { trust_domain: new.trust_domain.clone(), cluster: owner.clone() });
    }
    let token = Token {
        secret_sha256: new.secret_sha256,
        cluster: new.cluster.clone(),
        trust_domain: new.trust_domain.clone(),
        expires_at_ms: new.expires_at_ms,
        revoked: false,
        used_by: None,
    };
    match step.state().tokens.get(&new.id) {
        // The shell retries with the same id and secret when the leader is lost on the way.
        Some(existing) if *existing == token => return Ok(Done::Replayed(step.revision() - 1)),
        Some(_) => return Err(Refusal::Invalid { why: "a token with this id exists".to_owned() }),
        None if step.state().tokens.len() >= TOKENS_KEPT => {
            return Err(Refusal::Invalid { why: format!("there are {TOKENS_KEPT} tokens already") });
        }
        None => {}
    }
    step.put_token(&new.id, token);
    Ok(Done::Changed(format!("create token {} for cluster {} ({})", new.id, new.cluster, new.trust_domain)))
}

pub(super) fn revoke(step: &mut Step<'_>, id: &str) -> Result<Done, Refusal> {
    let Some(token) = step.state().tokens.get(id).cloned() else { return Err(Refusal::TokenUnknown) };
    if token.revoked {
        return Ok(Done::Replayed(step.revision() - 1));
    }
    step.put_token(id, Token { revoked: true, ..token });
    Ok(Done::Changed(format!("revoke token {id}")))
}

/// `hub` is the name of the hub's own trust domain in every mesh.
pub(super) fn check_not_reserved(cluster: &ClusterName, trust_domain: &TrustDomain) -> Result<(), Refusal> {
    let is_hub = |name: &str| name == "hub" || name.starts_with("hub.");
    match [cluster.as_str(), trust_domain.as_str()].into_iter().find(|name| is_hub(name)) {
        Some(name) => Err(Refusal::Reserved { name: name.to_owned() }),
        None => Ok(()),
    }
}
