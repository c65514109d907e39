//! The DNS shim: answers the clusterset zone from discovery and forwards everything else.
//!
//! What it is not: a resolver. What a name means is decided by [`mesh::resolve`] on the view of the moment, so a change of
//! the mesh shows in the next answer; a forwarded answer is passed on as the upstream gave it, and kept for others.
//!
//! Invariants:
//! * Nothing below `clusterset.local` is ever forwarded. Before the first view such names answer SERVFAIL: an NXDOMAIN
//!   that is not known to be true would be cached by clients.
//! * An answer fits: over UDP what is longer than the client takes is replaced by an empty answer with TC set.
//! * Upstreams that are slow cost at most [`MAX_FORWARDS`] questions under way; answers from the zone never wait for them.
//! * Everything that a client can make grow is bounded: the cache, waiting questions, connections, pipelines.
//!
//! Start reading at [`Shim::handle`], then [`run()`].

mod config;
mod forward;
mod metrics;
mod reply;
mod run;
mod serve;
mod shim;

pub use config::{Config, Upstream};
pub use forward::{CacheLimits, ForwardError, Forwarder, MAX_FORWARDS};
pub use metrics::Metrics;
pub use run::{RunError, run};
pub use serve::{Over, TcpLimits, serve};
pub use shim::Shim;
