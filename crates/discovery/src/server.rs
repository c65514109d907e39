//! The server of discovery: hands each client what it subscribed to and may see.

mod incoming;
mod service;
mod session;
mod snapshot;

pub use incoming::{Connection, accept_mutual, accept_open};
pub use service::{ClientState, Clients, Server};
pub use session::{MAX_NAMES, Progress, Session, Violation};
pub use snapshot::{Entry, NotAdmitted, Peer, Snapshot};

#[cfg(test)]
mod tests;
