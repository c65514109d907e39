//! Everything that talks *to* the hub: the files that `hub init` writes, the credential of an operator, the client of
//! the API and the one call that makes a cluster a member.
//!
//! What it is not: a part of the hub's process, and no policy. It knows how to find a node that answers and how to be
//! sure that it is the hub; what to write there is the caller's business.
//!
//! Invariants:
//! * Nothing is sent to a peer before TLS has shown that it is `hub` in `isthmus-system` of the hub's own trust
//!   domain: verified against the bundle that the credential carries, or, in [`join`], against the root whose hash the
//!   operator handed over.
//! * Every call may meet several nodes: it is repeated only when the hub cannot have refused it, and what changes
//!   state carries a request id that makes the repetition apply once.
//! * Private keys are written 0600, are never printed, and never leave the directory that they were made for.
//!
//! Start reading at [`init`](fn@init), then [`HubClient`], then [`join`](fn@join).

mod client;
mod connection;
mod error;
mod init;
mod join;
mod member;
mod member_file;
mod nodes;
mod operator;
mod pinned;
mod watch;

pub use client::HubClient;
pub use error::HubError;
pub use init::{InitError, InitRequest, Member, NODE_TTL, init, issue_node};
pub use join::{FIRST_BUNDLE_SERIAL, JoinConfig, JoinError, Joined, join, join_proof_message};
pub use member::{AGENT_ACCOUNT, MemberClientError, member_client};
pub use member_file::{MemberFile, MemberFileError};
pub use operator::{OperatorClientError, OperatorCredential, OperatorError};
pub use watch::Watch;

/// The system account of hub nodes in the hub's trust domain.
pub const HUB_ACCOUNT: &str = "hub";
/// The system account of operators in the hub's trust domain.
pub const OPERATOR_ACCOUNT: &str = "operator";

#[cfg(test)]
mod testing;
