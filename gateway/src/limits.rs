//! Bounds on what peers can make the gateway hold.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh::SpiffeId;

/// TLS and QUIC handshakes under way at once, per listener.
pub(crate) const HANDSHAKES: usize = 256;
/// How long a handshake may take.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections of one identity. Replicas share an identity, so this is generous.
pub(crate) const CONNECTIONS_PER_PEER: usize = 1024;
/// How long a peer may take to send the header of a stream.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Counts connections by identity.
#[derive(Debug, Clone, Default)]
pub(crate) struct PeerLimit(Arc<Mutex<BTreeMap<SpiffeId, usize>>>);

impl PeerLimit {
    /// Takes a place for one more connection of a peer; `None` when it has as many as it may.
    pub(crate) fn enter(&self, peer: &SpiffeId) -> Option<PeerPlace> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(peer.clone()).or_default();
        if *count >= CONNECTIONS_PER_PEER {
            return None;
        }
        *count += 1;
        Some(PeerPlace { limit: self.clone(), peer: peer.clone() })
    }
}

/// A place that is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct PeerPlace {
    limit: PeerLimit,
    peer: SpiffeId,
}

impl Drop for PeerPlace {
    fn drop(&mut self) {
        let mut counts = self.limit.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}
