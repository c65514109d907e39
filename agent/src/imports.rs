//! What other clusters announce, and which of it is believed.
//!
//! The hub only carries these facts. Each is believed when a root of the cluster's *accepted* bundle signed it and its
//! serial did not go back; a new bundle must be signed by the one before it. What was believed last is kept on disk, also
//! when it was withdrawn since, so that a restart forgets no serial.

mod accept;
pub(crate) mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::trust::{Bundle, Export, GatewaySet, Signed};
use identity::TrustBundle;
use mesh::{ClusterName, ServiceName, TrustDomain};

pub(crate) use accept::parts;
pub use accept::{accept, withdraw};

/// A fact that was believed.
#[derive(Debug, Clone, PartialEq)]
pub struct Fact<T> {
    /// As it was signed.
    pub signed: Signed,
    /// What it says.
    pub value: T,
    /// Whether the hub shows it now; a withdrawn fact is kept for its serial.
    pub present: bool,
}

/// What is believed of one cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Its bundle; everything else rests on it.
    pub bundle: Fact<Bundle>,
    /// The bundle, parsed.
    pub trust: TrustBundle,
    /// The gateways in front of it.
    pub gateways: Option<Fact<GatewaySet>>,
    /// Its exports that this cluster may see.
    pub exports: BTreeMap<ServiceName, Fact<Export>>,
}

/// Everything that is believed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Accepted {
    /// By cluster.
    pub members: BTreeMap<ClusterName, Arc<Member>>,
}

/// What decides on acceptance besides the facts themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The own cluster; its own facts are no imports.
    pub own: ClusterName,
    /// Trust domains that no other cluster may claim: the own one and the hub's.
    pub reserved: BTreeSet<TrustDomain>,
    /// With manual acceptance: which root (`sha256:<hex>`) each cluster must begin with. `None`: whoever the hub admitted.
    pub fingerprints: Option<BTreeMap<ClusterName, String>>,
}

/// What a fact is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FactKind {
    /// Roots of a cluster.
    Bundle,
    /// Gateways of a cluster.
    Gateways,
    /// An exported service.
    Export,
}

impl FactKind {
    /// The text in [`Signed::kind`] and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bundle => "bundle",
            Self::Gateways => "gateways",
            Self::Export => "export",
        }
    }
}

/// A fact that is not believed; what was believed before stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {} {name:?} of cluster {cluster:?} is refused: {reason}", kind.as_str())]
pub struct Refusal {
    /// What it is about.
    pub kind: FactKind,
    /// The cluster that it claims to come from.
    pub cluster: String,
    /// The service; empty for bundles and gateways.
    pub name: String,
    /// Why.
    pub reason: Reason,
}

/// Why a fact is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It does not decode, or what it says breaks a rule.
    #[error("it is malformed: {0}")]
    Malformed(String),
    /// It was filed under another key than it says.
    #[error("it was filed under another name than it carries")]
    Misfiled,
    /// It claims the own trust domain, the hub's, or another member's.
    #[error("the trust domain {0} is not its own")]
    TrustDomain(String),
    /// The bundle names another trust domain than before.
    #[error("it moves the cluster to another trust domain")]
    Moved,
    /// No bundle of the cluster is accepted (yet).
    #[error("no bundle of the cluster is accepted")]
    Unknown,
    /// Acceptance is manual and nobody accepted this root.
    #[error("its root {0} was not accepted; hint: compare it with the cluster's own, then `hubctl trust accept`")]
    NotAccepted(String),
    /// The signature is not by a root of the accepted bundle.
    #[error("its signature does not hold: {0}")]
    Signature(identity::SignatureError),
    /// It is older than what was believed before.
    #[error("its serial {serial} is older than {seen}")]
    Replayed {
        /// Its serial.
        serial: u64,
        /// The highest serial seen.
        seen: u64,
    },
    /// Another fact with the same serial was believed before.
    #[error("it says something else than before under the same serial {0}")]
    Equivocated(u64),
}

impl Reason {
    /// The label in metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Misfiled => "misfiled",
            Self::TrustDomain(_) => "trust-domain",
            Self::Moved => "moved",
            Self::Unknown => "unknown-cluster",
            Self::NotAccepted(_) => "not-accepted",
            Self::Signature(_) => "signature",
            Self::Replayed { .. } => "replayed",
            Self::Equivocated(_) => "equivocated",
        }
    }
}

impl Member {
    /// The exports that are in force and offered to a cluster. Whom an export is offered to is the exporter's word, not
    /// the hub's.
    pub fn offered_to(&self, own: &ClusterName) -> impl Iterator<Item = (&ServiceName, &Export)> {
        let offered = move |export: &Export| {
            export.to_clusters.is_empty() || export.to_clusters.iter().any(|cluster| cluster == own.as_str())
        };
        let believed = self.exports.iter().filter(|_| self.bundle.present).filter(|(_, fact)| fact.present);
        believed.map(|(name, fact)| (name, &fact.value)).filter(move |(_, export)| offered(export))
    }
}

#[cfg(test)]
pub(crate) mod tests;
