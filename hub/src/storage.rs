//! What a node keeps on disk, and how it comes back from it.
//!
//! * `raft.redb` — log, vote and committed index: what Raft's safety rests on; every write that is acknowledged is
//!   fsynced there first.
//! * `snapshots/` — files, written, fsynced and renamed *before* the log behind them is purged.
//! * `sled/` — the applied state as rows with a checksum over all of them. It is never synced: one that is missing,
//!   damaged, rolled back behind the log or that panics on open is set aside and rebuilt from the other two.
//!
//! Both engines stand behind one small trait, [`Store`], and each runs on a thread of its own, so that no disk stalls
//! a task that has to send heartbeats.

mod fingerprint;
mod held;
mod log;
mod machine;
mod recovery;
mod redb_store;
mod replica;
mod rows;
mod sled_store;
mod snapshots;
mod store;
mod worker;

pub(crate) use recovery::{Opened, open};
pub(crate) use replica::Replica;

#[cfg(test)]
mod tests;
