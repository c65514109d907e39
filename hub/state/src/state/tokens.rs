//! Creating and revoking join tokens.

use mesh::{ClusterName, TrustDomain};

use super::step::{Done, Step};
use crate::command::{NewToken, Refusal};
use crate::limits::TOKENS_KEPT;
use crate::token::{Token, TokenState};

pub(super) fn create(step: &mut Step<'_>, new: &NewToken, now_ms: u64) -> Result<Done, Refusal> {
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
        None => make_room(step, now_ms)?,
    }
    step.put_token(&new.id, token);
    Ok(Done::Changed(format!("create token {} for cluster {} ({})", new.id, new.cluster, new.trust_domain)))
}

/// Drops worthless tokens, those whose time ends first before the others, until one more has its place.
fn make_room(step: &mut Step<'_>, now_ms: u64) -> Result<(), Refusal> {
    let excess = (step.state().tokens.len() + 1).saturating_sub(TOKENS_KEPT);
    if excess == 0 {
        return Ok(());
    }
    let worthless = step.state().tokens.iter().filter(|(_, token)| token.state(now_ms) != TokenState::Unused);
    let mut worthless: Vec<(u64, String)> = worthless.map(|(id, token)| (token.expires_at_ms, id.clone())).collect();
    if worthless.len() < excess {
        return Err(Refusal::Invalid { why: format!("there are {TOKENS_KEPT} unused tokens already") });
    }
    worthless.sort_unstable();
    for (_, id) in worthless.into_iter().take(excess) {
        step.delete_token(&id);
    }
    Ok(())
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
