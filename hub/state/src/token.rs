//! Join tokens: single use, short lived, for one cluster and one trust domain.

use mesh::{ClusterName, TrustDomain};
use serde::{Deserialize, Serialize};

/// A token as stored; of the secret only the hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// SHA-256 of the secret.
    pub secret_sha256: [u8; 32],
    /// The only cluster name that may join with it.
    pub cluster: ClusterName,
    /// The only trust domain that may join with it.
    pub trust_domain: TrustDomain,
    /// Unix milliseconds after which it is worthless.
    pub expires_at_ms: u64,
    /// Set by an operator.
    pub revoked: bool,
    /// Set by the join that used it.
    pub used_by: Option<TokenUse>,
}

/// Who used a token. The same key with the same request id is a retry, anything else a second use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUse {
    /// SHA-256 of the root certificate that joined.
    pub key_fingerprint: [u8; 32],
    /// The request id of the join.
    pub request_id: String,
    /// The revision of the join, which a retry is answered with.
    pub revision: u64,
}

/// What a join says about its token.
#[derive(Debug, Clone, Copy)]
pub struct TokenShown<'a> {
    /// The token's id.
    pub id: &'a str,
    /// SHA-256 of the secret that was shown.
    pub secret_sha256: &'a [u8; 32],
    /// The cluster that wants to join.
    pub cluster: &'a ClusterName,
    /// Its trust domain.
    pub trust_domain: &'a TrustDomain,
    /// The request id of the join.
    pub request_id: &'a str,
}

/// What a token is good for at a given time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenState {
    /// May be used once.
    Unused,
    /// Was used.
    Used,
    /// Ran out unused.
    Expired,
    /// Withdrawn by an operator.
    Revoked,
}

impl TokenState {
    /// The word that people read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Used => "used",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl Token {
    /// What the token is good for at `now_ms`.
    pub fn state(&self, now_ms: u64) -> TokenState {
        match self {
            Self { revoked: true, .. } => TokenState::Revoked,
            Self { used_by: Some(_), .. } => TokenState::Used,
            Self { expires_at_ms, .. } if *expires_at_ms <= now_ms => TokenState::Expired,
            _ => TokenState::Unused,
        }
    }
}
