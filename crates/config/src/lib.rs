//! Configuration kinds, compiled: from the manifests of one cluster to what its proxies decide on.
//!
//! What it is: pure functions. [`local::build`] reads what the cluster has (services, endpoints, workloads, exports),
//! [`compile()`] reads what users configured (Istio's kinds and ours) into the neutral model of `mesh`, and [`analyze`]
//! says what is wrong with a set of manifests as a whole. The agent compiles; `hubctl analyze` and `hubctl fleet apply`
//! ask the same functions.
//!
//! What it is not: a parser (`federation_crds` reads and validates single objects) and no source of manifests.
//!
//! Invariants:
//! * Compilation is total: objects that were validated always compile, and what has no effect is a [`Finding`].
//! * The order of the manifests does not matter. Where Istio decides by age, the creation time decides, then the name.
//! * Nothing is ignored in silence.
//!
//! Start reading at [`compile()`].

pub mod analyze;
mod automatic;
pub mod compile;
pub mod finding;
pub mod gateways;
pub mod local;
pub mod mesh_config;
mod object;
pub mod security;
pub mod support;
pub mod traffic;

pub use compile::{Compiled, Imported, ImportedGroup, Input, SharedSecret, compile};
pub use finding::{Code, Finding, Severity};
pub use local::{InvalidExport, Local, LocalExport, LocalService};
