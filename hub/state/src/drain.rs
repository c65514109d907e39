//! A member that drains or leaves, as everybody is told.

use serde::{Deserialize, Serialize};

/// The wish that a cluster serves less and less, and at last nothing that others can serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainRecord {
    /// Unix milliseconds of the wish, on the leader.
    pub started_at_ms: u64,
    /// The time in which its share falls to zero, in milliseconds.
    pub over_ms: u64,
    /// It is about to leave: its exports are withdrawn, and it publishes no more.
    pub leaving: bool,
}
