//! The hub: a small replicated database of who is in the mesh, what they export, and whom to trust.
//!
//! What it is: the I/O around the pure `hub_state` crate — Raft (openraft), storage (redb, sled, snapshot files), the
//! network between nodes and the API for operators and agents, all over mutual TLS.
//!
//! What it is not: on the data path. Losing it changes no forwarding decision. It holds no private key of any cluster.
//!
//! **Invariants**
//! * A write is acknowledged only when it is durable on a quorum, and applied once however often it is retried.
//! * Any node answers any request; one that is not the leader forwards what only the leader can do.
//! * Every RPC has a role that follows from the certificate, and every projection is for one viewer.
//! * A connection ends when its peer's certificate expires, or its cluster leaves.
//!
//! Start reading at [`serve`](serve()), then `node.rs` (commands), `api.rs` (the RPCs), `watch.rs` and `storage.rs`.

mod api;
mod bounded;
mod config;
mod disk;
mod facts;
mod incoming;
mod join;
mod leases;
mod metrics;
mod node;
mod peer;
mod proposer;
mod raft_types;
mod serve;
mod storage;
mod trust;
mod watch;
mod wire;

pub use config::{Config, Member};
pub use serve::{Listeners, run, serve};
