//! The hub: a small replicated database of who is in the mesh, what they export, and whom to trust.

mod raft_types;
pub mod storage;
