//! Which proven peers a listener or a dialler wants.

use std::collections::BTreeSet;

use mesh::{SpiffeId, TrustDomain};

/// Asked after a chain has been validated: is this peer one that is expected here?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerPolicy {
    /// Anybody whose trust domain is known.
    AnyKnown,
    /// Anybody of one of these trust domains.
    TrustDomains(BTreeSet<TrustDomain>),
    /// Exactly one of these identities.
    Exactly(BTreeSet<SpiffeId>),
    /// A component of Isthmus itself, such as `gateway`.
    System {
        /// The component's account in the namespace `isthmus-system`.
        account: &'static str,
        /// The trust domain that it must belong to; any known one if absent.
        trust_domain: Option<TrustDomain>,
    },
}

impl PeerPolicy {
    /// Exactly one identity.
    pub fn only(id: SpiffeId) -> Self {
        Self::Exactly(BTreeSet::from([id]))
    }

    /// Anybody of one trust domain.
    pub fn trust_domain(trust_domain: TrustDomain) -> Self {
        Self::TrustDomains(BTreeSet::from([trust_domain]))
    }

    /// Whether the policy wants this (proven) identity.
    pub fn admits(&self, id: &SpiffeId) -> bool {
        match self {
            Self::AnyKnown => true,
            Self::TrustDomains(domains) => domains.contains(id.trust_domain()),
            Self::Exactly(ids) => ids.contains(id),
            Self::System { account, trust_domain } => {
                id.is_system(account) && trust_domain.as_ref().is_none_or(|wanted| wanted == id.trust_domain())
            }
        }
    }
}
