//! Incremental discovery: how a sidecar, a gateway or the DNS shim learns what its agent knows, in the delta-xDS
//! envelope (`DeltaDiscoveryRequest`/`DeltaDiscoveryResponse`) with type URLs of our own.
//!
//! What it is not: the source of the facts. An agent compiles them and hands whole snapshots to [`server`]; proxies
//! read whole [`mesh::View`]s from [`Client`] and decide on them with the functions of `mesh`.
//!
//! Invariants:
//! * A view is replaced as a whole; nobody sees half of a response.
//! * A resource that cannot be converted is refused by name and its previous version is kept; the others apply.
//! * Silence erases nothing: without its agent a client goes on with its last view and says how old it is.
//! * A server holds at most one unacknowledged response per type and stream, so that a slow client costs nothing but
//!   its own age.
//! * A role is a claim until the TLS identity supports it.
//!
//! Start with [`types`] and [`delta`] (what travels), then `client/session.rs` and `server/session.rs` (the protocol
//! without any I/O), then [`client`] and [`server`] (the I/O around them).

pub mod client;
pub mod delta;
pub mod server;
pub mod types;

mod backoff;

pub use client::{Client, ClientConfig, Demand, StandIns, StartError};
pub use types::{Kind, Role};
