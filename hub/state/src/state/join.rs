//! A cluster becomes a member. The shell has verified the proof and the bundle's signature; the token is judged here.

use std::sync::Arc;

use super::step::{Done, Step};
use super::tokens::check_not_reserved;
use crate::command::{Join, Refusal};
use crate::key::Key;
use crate::lease::LeaseRecord;
use crate::limits::Limits;
use crate::resource::{ClusterRecord, Statement, Value};
use crate::state::State;
use crate::token::{Token, TokenShown, TokenUse};

pub(super) fn apply(step: &mut Step<'_>, join: &Join, now_ms: u64) -> Result<Done, Refusal> {
    check_not_reserved(&join.cluster, &join.trust_domain)?;
    let shown = TokenShown {
        id: &join.token_id,
        secret_sha256: &join.secret_sha256,
        cluster: &join.cluster,
        trust_domain: &join.trust_domain,
        request_id: &join.request_id,
    };
    let token = step.state().check_token(&shown, now_ms)?.clone();
    match &token.used_by {
        Some(used) if used.key_fingerprint == join.key_fingerprint => return Ok(Done::Replayed(used.revision)),
        Some(_) => return Err(Refusal::TokenUsed),
        None => {}
    }
    check_bundle(join)?;
    check_members(step, join)?;
    step.put_token(&join.token_id, Token { used_by: Some(used_by(step, join)), ..token });
    admit(step, join, now_ms);
    Ok(Done::Changed(format!("join cluster {} ({})", join.cluster, join.trust_domain)))
}

impl State {
    /// What may be known of a token before any signature is looked at: with `Err` the join would be refused. A token
    /// that was used may come with the same request again, even when it has expired meanwhile; whether by the same key,
    /// only the join itself tells.
    pub fn check_token(&self, shown: &TokenShown<'_>, now_ms: u64) -> Result<&Token, Refusal> {
        let token = match self.tokens.get(shown.id) {
            Some(token) if token.secret_sha256 == *shown.secret_sha256 => token,
            _ => return Err(Refusal::TokenUnknown),
        };
        if token.revoked {
            return Err(Refusal::TokenRevoked);
        }
        if token.cluster != *shown.cluster || token.trust_domain != *shown.trust_domain {
            let (cluster, trust_domain) = (token.cluster.clone(), token.trust_domain.clone());
            return Err(Refusal::TokenElsewhere { cluster, trust_domain });
        }
        match &token.used_by {
            Some(used) if used.request_id == shown.request_id => Ok(token),
            Some(_) => Err(Refusal::TokenUsed),
            None if token.expires_at_ms <= now_ms => Err(Refusal::TokenExpired),
            None => Ok(token),
        }
    }
}

fn check_bundle(join: &Join) -> Result<(), Refusal> {
    let key = Key::Bundle(join.cluster.clone());
    let facts = &join.bundle.facts;
    let states_it =
        matches!(&facts.statement, Statement::Bundle { trust_domain } if *trust_domain == join.trust_domain);
    if !states_it || facts.cluster != join.cluster {
        return Err(Refusal::Mismatch { key });
    }
    if join.bundle.bytes.len() > Limits::CURRENT.value_bytes {
        let (what, limit) = ("bytes per value".to_owned(), Limits::CURRENT.value_bytes as u64);
        return Err(Refusal::Quota { cluster: join.cluster.clone(), what, limit });
    }
    Ok(())
}

fn check_members(step: &Step<'_>, join: &Join) -> Result<(), Refusal> {
    match step.state().cluster(&join.cluster) {
        Some(record) if record.key_fingerprint != join.key_fingerprint => {
            return Err(Refusal::AlreadyMember { cluster: join.cluster.clone() });
        }
        _ => {}
    }
    match step.state().cluster_of(&join.trust_domain) {
        Some(owner) if *owner != join.cluster => {
            Err(Refusal::TrustDomainTaken { trust_domain: join.trust_domain.clone(), cluster: owner.clone() })
        }
        _ => check_serial(step, join),
    }
}

fn check_serial(step: &Step<'_>, join: &Join) -> Result<(), Refusal> {
    let key = Key::Bundle(join.cluster.clone());
    let stored = step.state().resources.get(&key).and_then(|resource| resource.value.signed());
    match stored.map(|stored| stored.facts.serial) {
        Some(stored) if join.bundle.facts.serial < stored => {
            Err(Refusal::Serial { key, stored, offered: join.bundle.facts.serial })
        }
        _ => Ok(()),
    }
}

fn used_by(step: &Step<'_>, join: &Join) -> TokenUse {
    TokenUse { key_fingerprint: join.key_fingerprint, request_id: join.request_id.clone(), revision: step.revision() }
}

fn admit(step: &mut Step<'_>, join: &Join, now_ms: u64) {
    let record = step.state().cluster(&join.cluster).cloned().unwrap_or_else(|| ClusterRecord {
        trust_domain: join.trust_domain.clone(),
        joined_at_ms: now_ms,
        key_fingerprint: join.key_fingerprint,
    });
    step.put(Key::Cluster(join.cluster.clone()), Value::Cluster(record));
    step.put(Key::Bundle(join.cluster.clone()), Value::Signed(Arc::new(join.bundle.clone())));
    let lease = Key::Lease(join.cluster.clone());
    if !step.state().resources.contains_key(&lease) {
        step.put(lease, Value::Lease(LeaseRecord { live: true, changed_at_ms: now_ms, epoch: 1 }));
    }
}
