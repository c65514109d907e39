//! The laws of the state, as one function.

use std::collections::{BTreeMap, BTreeSet};

use crate::address::ADDRESSES_MAX;
use crate::key::Key;
use crate::limits::{AUDIT_KEPT, Limits, REQUESTS_KEPT, TOKENS_KEPT};
use crate::resource::{Statement, Value, matches};
use crate::state::State;

/// A law that does not hold. It can only come from a damaged store or a bug.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A resource claims a revision that never was.
    #[error("{0} has a revision from the future")]
    Revision(Key),
    /// A value of the wrong shape, or a signed fact under another key.
    #[error("{0} holds a value that belongs elsewhere")]
    Value(Key),
    /// A resource of a cluster that is no member.
    #[error("{0} belongs to no member")]
    Orphan(Key),
    /// An export whose service has no address.
    #[error("{0} has no address")]
    NoAddress(Key),
    /// Two services share an address, or one was never handed out.
    #[error("{0} has an address that it cannot have")]
    Address(Key),
    /// Two members share a trust domain.
    #[error("{0} has the trust domain of another member")]
    TrustDomain(Key),
    /// A bound is exceeded.
    #[error("{0} exceeds its bound")]
    Bound(&'static str),
    /// A derived index differs from what it is derived from.
    #[error("{0} is not what the rows say")]
    Derived(&'static str),
}

impl State {
    /// Checks every law.
    pub fn validate(&self) -> Result<(), Broken> {
        self.validate_resources()?;
        self.validate_addresses()?;
        self.validate_members()?;
        self.validate_rings()?;
        self.validate_usage()
    }

    fn validate_resources(&self) -> Result<(), Broken> {
        for (key, resource) in &self.resources {
            if resource.revision == 0 || resource.revision > self.meta.revision {
                return Err(Broken::Revision(key.clone()));
            }
            if !matches(key, &resource.value) {
                return Err(Broken::Value(key.clone()));
            }
            match key.cluster() {
                Some(cluster) if self.cluster(cluster).is_none() => return Err(Broken::Orphan(key.clone())),
                _ => {}
            }
            match key {
                Key::Export(_, service) if !self.resources.contains_key(&Key::Address(service.clone())) => {
                    return Err(Broken::NoAddress(key.clone()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn validate_addresses(&self) -> Result<(), Broken> {
        let mut seen = BTreeSet::new();
        for (key, resource) in &self.resources {
            let Value::Address(address) = &resource.value else { continue };
            let handed_out = (1..=self.meta.addresses.min(ADDRESSES_MAX)).contains(&address.number);
            if !handed_out || !seen.insert(address.number) {
                return Err(Broken::Address(key.clone()));
            }
        }
        Ok(())
    }

    fn validate_members(&self) -> Result<(), Broken> {
        let mut seen = BTreeSet::new();
        for (key, resource) in &self.resources {
            match &resource.value {
                Value::Cluster(record) if !seen.insert(&record.trust_domain) => {
                    return Err(Broken::TrustDomain(key.clone()));
                }
                Value::Signed(fact) => {
                    let Statement::Bundle { trust_domain } = &fact.facts.statement else { continue };
                    let registered = self.cluster(&fact.facts.cluster).map(|record| &record.trust_domain);
                    if registered != Some(trust_domain) {
                        return Err(Broken::TrustDomain(key.clone()));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn validate_rings(&self) -> Result<(), Broken> {
        if self.requests.len() > REQUESTS_KEPT {
            return Err(Broken::Bound("the memory of requests"));
        }
        if self.audit.len() > AUDIT_KEPT {
            return Err(Broken::Bound("the audit log"));
        }
        if self.tokens.len() > TOKENS_KEPT {
            return Err(Broken::Bound("the table of tokens"));
        }
        let index: BTreeMap<(String, String), u64> = self
            .requests
            .iter()
            .map(|(position, request)| ((request.actor.clone(), request.id.clone()), *position))
            .collect();
        let in_range = self.requests.keys().all(|position| *position < self.meta.requests)
            && self.audit.keys().all(|position| *position < self.meta.audits);
        if index != self.request_index || index.len() != self.requests.len() || !in_range {
            return Err(Broken::Derived("the index of requests"));
        }
        Ok(())
    }

    fn validate_usage(&self) -> Result<(), Broken> {
        let mut fresh = Self::default();
        for (key, resource) in &self.resources {
            fresh.place(key.clone(), Some(resource.clone()));
        }
        if fresh.usage != self.usage {
            return Err(Broken::Derived("the usage"));
        }
        let limits = Limits::CURRENT;
        match self.usage.values().any(|usage| usage.exports > limits.exports || usage.bytes > limits.total_bytes) {
            true => Err(Broken::Bound("a quota")),
            false => Ok(()),
        }
    }
}
