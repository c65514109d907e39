//! The hub's replicated state: what it holds, how one command changes it, and who may see what of it.
//!
//! What it is: a pure library. [`State::apply`] takes a [`Command`] and answers with an [`Applied`]: the outcome, the
//! visible changes and the rows that a store must write. The time, the actor and every random value come inside the
//! command, so that each replica computes the same bytes from the same log.
//!
//! What it is not: it has no clock, no randomness, no I/O and no protobuf. Signatures are checked and messages decoded
//! by the shell in `hub`; a [`SignedFact`] carries the decoded [`Facts`] beside the bytes.
//!
//! Invariants (checked by [`State::validate`], after every apply in tests):
//! * **one revision per visible change**: a command that changes anything raises the revision by exactly one, and every
//!   resource it touched carries that revision;
//! * **all or nothing**: a refused command changes no row;
//! * **rows are the state**: `State::from_rows(state.rows()) == state`;
//! * **an address is for ever**: once a service has an address it keeps it, and no two services share one;
//! * **projections do not leak**: an agent sees an export of another cluster only if it was exported to its own.
//!
//! Start reading at [`Command`], then `state.rs` (the dispatch), `state/transact.rs` and `projection.rs`.

mod address;
mod authorize;
mod command;
mod drain;
mod history;
mod key;
mod lease;
mod limits;
mod projection;
mod resource;
mod row;
mod state;
mod token;
mod validate;

pub use address::AddressRecord;
pub use authorize::{Role, Verb, authorize};
pub use command::{
    Action, Applied, AuditEntry, Change, Command, Compare, Join, Leave, LeaveStep, NewToken, Operation, Outcome,
    Refusal, RowChange,
};
pub use drain::DrainRecord;
pub use history::History;
pub use key::{Key, Kind};
pub use lease::{LeaseClock, LeaseRecord};
pub use limits::{AUDIT_KEPT, Limits, REQUESTS_KEPT, TOKENS_KEPT, Usage};
pub use projection::{Delta, Viewer, diff, patch, projection};
pub use resource::{ClusterRecord, Facts, Resource, Resources, SignedFact, Statement, Value};
pub use row::RowError;
pub use state::State;
pub use token::{Token, TokenShown, TokenState, TokenUse};
pub use validate::Broken;
