//! The sidecar: the proxy beside one workload, with transparent or explicit capture.
//!
//! What it is: configuration, listeners and wiring around the engine in `proxy`. With explicit capture the workload
//! reaches the mesh through one listener that speaks SOCKS5 and HTTP forward proxying ([`Explicit`]), and peers reach the
//! workload on an mTLS port and on the workload's own ports. With transparent capture ([`capture`]) the kernel hands
//! connections over, and the application is as it was. Views and certificates come from the agent through `discovery`.
//!
//! What it is not: it decides nothing (see `mesh`) and copies nothing itself (see `proxy`).
//!
//! **Invariant:** it starts and serves its last-good view without its agent. **Invariant:** what the workload says about
//! identities or ports in `x-isthmus-*` and `x-forwarded-client-cert` headers never leaves the sidecar.
//!
//! Start reading at [`run()`].

mod association;
pub mod capture;
mod config;
mod datagrams;
mod debug;
mod directory;
mod explicit;
mod flows;
mod resolver;
mod run;
mod socks;
mod transparent;

pub use config::{CaptureConfig, Config};
pub use datagrams::{CapturedDatagrams, listen_for_datagrams};
pub use explicit::Explicit;
pub use resolver::ShimResolver;
pub use run::{RunError, run};
pub use transparent::{Transparent, listen_everywhere};
