//! The agent: the control plane of one cluster. It reads the cluster's manifests, is its certificate authority, offers
//! its exports to the hub, believes what other clusters sign, and serves the result to the cluster's proxies.
//!
//! What it is not: part of any data path. Proxies go on without it; it goes on without the hub.
//!
//! Invariants:
//! * What a proxy is told is [`compile`]d from whole inputs by a pure function.
//! * The hub is believed in nothing that a cluster signs: every imported fact is verified against the bundle that this
//!   agent accepted, and a serial that went back is refused, also after a restart ([`imports`]).
//! * A file that does not parse changes nothing; its previous content stays in force.
//! * Serials are persisted before they are used.
//! * The CA's key never leaves its directory, and every SVID is issued to whoever proved the workload's secret.
//!
//! Start with [`compile`] (what comes out), `config::compile` and [`imports`] (what goes in), then [`run`] (the wiring).

pub mod ca;
pub mod compile;
pub mod config;
pub mod exports;
pub mod imports;
pub mod listeners;
pub mod source;

mod admin;
mod facts;
mod hub;
mod metrics;
mod own;
mod publish;
mod run;
mod state;

pub use config::Config;
pub use run::{Listeners, RunError, run, serve};
