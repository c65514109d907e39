//! What every Isthmus process shows of itself and how it stops: logs, metrics, readiness, the admin listener, the access
//! log, the two steps of a shutdown, and the wait for a predecessor that is not quite gone.
//!
//! What it is not: a place for the metrics of a component. Those live with the component, which registers them in the
//! [`Registry`] that it is given.
//!
//! Invariants:
//!
//! * Nothing here slows the data path: metrics are atomics, and the access log never waits for its reader (it counts what
//!   it drops).
//! * The admin listener is bounded in connections, header size and time, and only ever reads.
//! * Logs go to stderr, data (the access log) to stdout.
//!
//! Start reading at [`Shutdown`], which a binary passes to everything it starts, then [`Admin`].

mod access_log;
mod admin;
mod descriptors;
mod logging;
mod predecessor;
mod process;
mod readiness;
mod registry;
mod shed;
mod shutdown;
mod workers;

pub use access_log::AccessLog;
pub use admin::{Admin, AdminError, Query};
pub use descriptors::raise_descriptor_limit;
pub use logging::{LOG_VARIABLE, init_logging};
pub use predecessor::{PREDECESSOR_PATIENCE, when_free};
pub use readiness::{Readiness, ReadyBlock};
pub use registry::Registry;
pub use shed::shed;
pub use shutdown::Shutdown;
pub use workers::{WORKERS_VARIABLE, worker_threads};
