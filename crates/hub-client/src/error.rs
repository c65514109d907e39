//! Why a call to the hub failed.

use std::time::Duration;

use tonic::{Code, Status};

/// Why a call to the hub brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The client knows no node at all.
    #[error("no address of a hub node is known\nhint: give at least one host:port of a hub node")]
    NoAddress,
    /// An address cannot be dialled at all.
    #[error("hub address {address:?} is not valid\nhint: write host:port")]
    Address {
        /// The text that is no address.
        address: String,
    },
    /// TLS could not be set up from the credential.
    #[error("the TLS configuration towards the hub could not be built")]
    Tls(#[source] identity::TlsConfigError),
    /// No node answered before the deadline.
    #[error(
        "no hub node answered within {} s (last tried {address})\nhint: check that the hub runs and that a majority of its nodes is up",
        within.as_secs()
    )]
    Unreachable {
        /// The node that was tried last.
        address: String,
        /// How long the call kept trying.
        within: Duration,
        /// What the last try met.
        source: Box<Status>,
    },
    /// The hub answered, and the answer is no.
    #[error("the hub refused: {message}")]
    Refused {
        /// gRPC's class of the refusal, such as [`Code::PermissionDenied`].
        code: Code,
        /// The hub's own words.
        message: String,
    },
    /// A watch ended or broke; resume it from the last revision.
    #[error("the watch ended")]
    WatchEnded {
        /// What broke it; `None` if the hub closed it, or its node was found silent.
        source: Option<Box<Status>>,
    },
}

impl HubError {
    /// The code of a refusal; `None` if no node answered.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    pub(crate) fn refused(status: &Status) -> Self {
        Self::Refused { code: status.code(), message: status.message().to_owned() }
    }
}

/// Whether another node may answer what this one did not: the transport failed, or the node said that it cannot now.
pub(crate) fn is_worth_another_node(status: &Status) -> bool {
    use std::error::Error as _;
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) || status.source().is_some()
}
