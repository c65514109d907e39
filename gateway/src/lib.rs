//! The gateways. The east-west gateway carries flows between clusters over QUIC without being able to read them.
//!
//! What it is: two listeners and the tunnels between them. On its *source* side ([`source`]) a workload of the own
//! cluster opens an HBONE flow whose header names a service of another cluster; the gateway checks that the header
//! speaks for the TLS peer, picks a path and carries the flow as one QUIC stream. On its *destination* side
//! ([`destination`]) a gateway of another cluster opens that stream; the gateway authorises the peer's *cluster*
//! against the export, picks an endpoint for this stream alone, and copies raw bytes to the endpoint's mTLS port.
//! [`paths`] keeps one QUIC connection to every gateway of every cluster that something is imported from, and judges
//! their health.
//!
//! What it is not: it decides nothing itself. `mesh::admit_source`, `mesh::admit_destination` and `mesh::PathHealth`
//! do; the gateway acts on their answers, logs them and sends denials back as reasons.
//!
//! **Invariant:** a peer's identity comes from TLS only. **Invariant:** a flow is sent over another path only while no
//! byte of an answer was seen. **Invariant:** a connection ends at most 5 s after its peer is no longer trusted or its
//! cluster has left. **Invariant:** no resumption, no early data.
//!
//! The same binary serves at the edge of the mesh: as an ingress or egress gateway it does what Gateways of the
//! configuration say, with the engine that sidecars have (`edge`).
//!
//! Start reading at [`run`], then `source::carry` and `destination::serve_stream`.

mod config;
mod run;

mod accept;
mod context;
mod flow;
mod limits;
mod metrics;
mod record;

mod source;

mod destination;
mod endpoints;
mod stand_in;
mod unmeshed;

mod edge;

mod clusters;
mod datagrams;
mod paths;
mod stream;
mod transport;

pub use config::{Config, Role};
pub use run::{Parts, RunError, Running, run, start};
pub use stand_in::Identities;
pub use transport::{Congestion, TunnelSettings};

#[cfg(test)]
pub(crate) mod tests;
