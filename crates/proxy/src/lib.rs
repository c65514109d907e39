//! The L4/L7 engine of sidecars and gateways: listen, detect, decide, connect, copy, record.
//!
//! What it is: the thin shell around the pure decisions of `mesh`. An [`outbound`] engine carries what a workload
//! sends (HTTP per request, everything else per connection) to a sidecar of the own cluster or, through an own
//! gateway, of another cluster; an [`inbound`] engine ends mutual TLS in front of a workload. Every hop builds one
//! `mesh` decision, acts on it and records it in [`access`] and [`metrics`].
//!
//! What it is not: it knows no hub, no Kubernetes and no capture. Streams are handed to it, views and credentials are
//! watched through plain handles.
//!
//! **Invariant:** a request's bytes reach an application at most once unless the request is idempotent and no
//! response byte was seen. **Invariant:** a peer's identity comes from its TLS certificate only; a workload's or an
//! outside client's `x-forwarded-client-cert` never survives: only a gateway of the edge may say whom it saw.
//! **Invariant:** nothing here grows with the size of the mesh, only with what the workload talks to; every pool,
//! buffer and label set has a bound.
//!
//! Start reading at [`outbound`].

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests play clients, which nobody captures"))]

pub mod outbound;

pub mod inbound;

pub mod guard;

pub mod listen;

pub mod serve;

pub mod tls;

pub mod peers;

pub mod debug;

mod delegate;

pub mod detect;

pub mod sni;

pub mod body;

mod h2body;

pub mod headers;

pub mod fault;

pub mod reply;

mod upgrade;

pub mod resolve;

pub mod pool;

pub mod balance;

pub mod hbone;

pub mod tunnel;

pub mod capsule;

pub mod mailbox;

pub mod sealed;

pub mod beside;

pub mod udp;

pub mod copy;

pub mod access;

pub mod metrics;
