//! What goes into the log, and what comes out of applying it.

use mesh::{ClusterName, TrustDomain};
use serde::{Deserialize, Serialize};

use crate::authorize::Role;
use crate::key::Key;
use crate::resource::{Resource, SignedFact};

/// One change that somebody asked for. `actor` and `now_ms` are stamped by the leader before the command is logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The SPIFFE id of the writer, or `token:<id>` for a join.
    pub actor: String,
    /// Unix milliseconds on the leader.
    pub now_ms: u64,
    /// What is asked for.
    pub action: Action,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Compare, then put and delete; all or nothing.
    Transact {
        /// Makes a retry by the same actor apply once.
        request_id: String,
        /// The role of the actor; operations are authorised when applied.
        role: Role,
        /// Conditions on revisions.
        compares: Vec<Compare>,
        /// Changes, in order.
        operations: Vec<Operation>,
    },
    /// Stores a token whose id and secret the shell drew.
    CreateToken(NewToken),
    /// Withdraws a token.
    RevokeToken {
        /// The token's id.
        id: String,
    },
    /// A cluster becomes a member.
    Join(Join),
    /// A cluster's lease ran out.
    ExpireLease {
        /// The cluster.
        cluster: ClusterName,
        /// The epoch of the lease that ran out.
        epoch: u64,
    },
    /// A cluster whose lease had run out is back.
    ReviveLease {
        /// The cluster.
        cluster: ClusterName,
    },
    /// A cluster is to serve less and less.
    Drain {
        /// The cluster.
        cluster: ClusterName,
        /// The role of the actor.
        role: Role,
        /// The time in which its share falls to zero, in milliseconds.
        over_ms: u64,
    },
    /// A cluster is to serve as before.
    Undrain {
        /// The cluster.
        cluster: ClusterName,
        /// The role of the actor.
        role: Role,
    },
    /// A cluster leaves the mesh, one step of it.
    Leave(Leave),
}

/// A condition on one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// The key.
    pub key: Key,
    /// The revision it must have; 0 = it must not exist.
    pub revision: u64,
}

/// One change to one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Stores a signed fact.
    Put {
        /// Where; must be the key that the fact is about.
        key: Key,
        /// What.
        fact: SignedFact,
    },
    /// Removes a resource; removing an absent one changes nothing.
    Delete {
        /// Which.
        key: Key,
    },
}

/// A step of leaving.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leave {
    /// Who leaves.
    pub cluster: ClusterName,
    /// The role of the actor.
    pub role: Role,
    /// Also if services are gone with it.
    pub force: bool,
    /// Which step.
    pub step: LeaveStep,
}

/// What leaving consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaveStep {
    /// Exports are withdrawn and tokens void; the cluster publishes no more.
    Withdraw,
    /// Record, bundle, gateways and lease are removed.
    Remove,
}

/// A token to be stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewToken {
    /// The public half, which names the token.
    pub id: String,
    /// SHA-256 of the secret half.
    pub secret_sha256: [u8; 32],
    /// Who may join with it.
    pub cluster: ClusterName,
    /// With which trust domain.
    pub trust_domain: TrustDomain,
    /// Until when, in Unix milliseconds.
    pub expires_at_ms: u64,
}

/// A join whose proof and self-signed bundle the shell has verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// The token's id.
    pub token_id: String,
    /// SHA-256 of the secret that was presented.
    pub secret_sha256: [u8; 32],
    /// Who wants to join.
    pub cluster: ClusterName,
    /// With which trust domain.
    pub trust_domain: TrustDomain,
    /// The same for every retry of one join.
    pub request_id: String,
    /// SHA-256 of the root certificate that proved possession of its key.
    pub key_fingerprint: [u8; 32],
    /// The first bundle, signed by that root.
    pub bundle: SignedFact,
}

/// What applying a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The answer to whoever asked.
    pub outcome: Result<Outcome, Refusal>,
    /// The state's revision afterwards.
    pub revision: u64,
    /// Visible changes, in order; each key at most once.
    pub changes: Vec<Change>,
    /// Rows to persist, in key order.
    pub rows: Vec<RowChange>,
}

/// A command that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The revision at which it took effect, possibly long ago if this is a retry.
    pub revision: u64,
    /// True when an earlier attempt had already taken effect.
    pub replayed: bool,
}

/// One resource before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The revision that made the change.
    pub revision: u64,
    /// What changed.
    pub key: Key,
    /// Before; `None` = did not exist.
    pub before: Option<Resource>,
    /// After; `None` = no longer exists.
    pub after: Option<Resource>,
}

/// One row to write: `None` deletes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowChange {
    /// The row's key.
    pub key: Vec<u8>,
    /// The row's new value.
    pub value: Option<Vec<u8>>,
}

/// One line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// The revision of the write.
    pub revision: u64,
    /// Unix milliseconds.
    pub at_ms: u64,
    /// Who wrote.
    pub actor: String,
    /// What, in words.
    pub action: String,
}

/// Why a command was not applied. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// A compare did not hold.
    #[error("{key} is at revision {actual}, not {expected}")]
    Conflict {
        /// The key that was compared.
        key: Key,
        /// The revision asked for.
        expected: u64,
        /// The revision found; 0 = absent.
        actual: u64,
    },
    /// The role does not allow it.
    #[error("the caller may not change {key}")]
    Forbidden {
        /// The key.
        key: Key,
    },
    /// An older signed fact than the one that is stored.
    #[error("serial {offered} of {key} is older than the stored {stored}")]
    Serial {
        /// The key.
        key: Key,
        /// The serial that is stored.
        stored: u64,
        /// The serial that came.
        offered: u64,
    },
    /// The signed message is about something else than the key says.
    #[error("the message signed for {key} is about something else")]
    Mismatch {
        /// The key.
        key: Key,
    },
    /// A cluster would exceed what it may store.
    #[error("cluster {cluster} would exceed its quota of {limit} {what}")]
    Quota {
        /// The cluster.
        cluster: ClusterName,
        /// What is limited.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// The cluster is no member (any more).
    #[error("cluster {cluster} is not a member")]
    NotMember {
        /// The cluster.
        cluster: ClusterName,
    },
    /// No address is left.
    #[error("all addresses of 243.0.0.0/8 are allocated")]
    AddressesExhausted,
    /// The request itself is malformed.
    #[error("the request is not valid: {why}")]
    Invalid {
        /// The rule that it breaks.
        why: String,
    },
    /// No such token, or the wrong secret; deliberately the same words.
    #[error("the token is not known")]
    TokenUnknown,
    /// The token was used by another join.
    #[error("the token was used before")]
    TokenUsed,
    /// The token's time is over.
    #[error("the token has expired")]
    TokenExpired,
    /// An operator withdrew the token.
    #[error("the token was revoked")]
    TokenRevoked,
    /// The token is for another cluster or trust domain.
    #[error("the token is for cluster {cluster} with trust domain {trust_domain}")]
    TokenElsewhere {
        /// Whom it is for.
        cluster: ClusterName,
        /// Its trust domain.
        trust_domain: TrustDomain,
    },
    /// The name or trust domain belongs to the hub itself.
    #[error("{name} is reserved for the hub")]
    Reserved {
        /// The name.
        name: String,
    },
    /// A member of that name exists with another key.
    #[error("cluster {cluster} is a member already, with another key")]
    AlreadyMember {
        /// The cluster.
        cluster: ClusterName,
    },
    /// Another member has that trust domain.
    #[error("trust domain {trust_domain} belongs to cluster {cluster}")]
    TrustDomainTaken {
        /// The trust domain.
        trust_domain: TrustDomain,
        /// Its owner.
        cluster: ClusterName,
    },
    /// The cluster is about to leave.
    #[error("cluster {cluster} is leaving the mesh; hint: `hubctl cluster leave {cluster}` ends it")]
    Leaving {
        /// The cluster.
        cluster: ClusterName,
    },
    /// Services would be gone with the cluster.
    #[error("nobody but {cluster} exports {services}{}; hint: export them elsewhere first, or leave with --force", more(*.count))]
    LastExporter {
        /// The cluster.
        cluster: ClusterName,
        /// The first of them.
        services: String,
        /// How many there are.
        count: u64,
    },
}

impl Refusal {
    /// A stable word per reason, for metrics and machine-readable errors.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => "conflict",
            Self::Forbidden { .. } => "forbidden",
            Self::Serial { .. } => "serial",
            Self::Mismatch { .. } => "mismatch",
            Self::Quota { .. } => "quota",
            Self::NotMember { .. } => "not-member",
            Self::AddressesExhausted => "addresses-exhausted",
            Self::Invalid { .. } => "invalid",
            Self::TokenUnknown => "token-unknown",
            Self::TokenUsed => "token-used",
            Self::TokenExpired => "token-expired",
            Self::TokenRevoked => "token-revoked",
            Self::TokenElsewhere { .. } => "token-elsewhere",
            Self::Reserved { .. } => "reserved",
            Self::AlreadyMember { .. } => "already-member",
            Self::TrustDomainTaken { .. } => "trust-domain-taken",
            Self::Leaving { .. } => "leaving",
            Self::LastExporter { .. } => "last-exporter",
        }
    }
}

/// What follows the services that are named.
fn more(count: u64) -> String {
    match count.saturating_sub(4) {
        0 => String::new(),
        others => format!(" and {others} more"),
    }
}
