//! Bounds on what peers can make the gateway hold.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use identity::HandshakeBounds;

/// TLS handshakes under way at once, per listener: a stranger that stalls them leaves three quarters to the others.
pub(crate) const HANDSHAKES: HandshakeBounds = HandshakeBounds { turns: 256, pending: 4096, per_source: 1024 };
/// QUIC handshakes under way at once; who sends from made-up addresses must show first that they are real.
pub(crate) const QUIC_HANDSHAKES: usize = 256;
/// How long a handshake may take.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// HBONE connections of one identity. Replicas share an identity, so this is generous.
pub(crate) const CONNECTIONS_PER_WORKLOAD: usize = 1024;
/// Tunnel connections of one identity: all gateways of a cluster share one, and each has a few connections.
const CONNECTIONS_PER_GATEWAY: usize = 256;
/// Streams that the gateways of one cluster may have open at once, over all their connections.
const STREAMS_PER_CLUSTER: usize = 16 * 1024;
/// How long a peer may take to send the header of a stream.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// What peers may have altogether.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Tunnel connections of one identity.
    pub(crate) connections_per_gateway: usize,
    /// Streams of the gateways of one cluster.
    pub(crate) streams_per_cluster: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { connections_per_gateway: CONNECTIONS_PER_GATEWAY, streams_per_cluster: STREAMS_PER_CLUSTER }
    }
}

/// Counts what peers have, so that none has more than `most`. Clones share the counts.
#[derive(Debug, Clone)]
pub(crate) struct Limit<K: Ord> {
    most: usize,
    counts: Arc<Mutex<BTreeMap<K, usize>>>,
}

impl<K: Ord + Clone> Limit<K> {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, counts: Arc::default() }
    }

    /// Takes one more place for a peer; `None` when it has as many as it may.
    pub(crate) fn enter(&self, peer: &K) -> Option<Place<K>> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(peer.clone()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place { limit: self.clone(), peer: peer.clone() })
    }

    /// Places that are taken, by all peers.
    #[cfg(test)]
    pub(crate) fn taken(&self) -> usize {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

/// A place that is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place<K: Ord> {
    limit: Limit<K>,
    peer: K,
}

impl<K: Ord> Drop for Place<K> {
    fn drop(&mut self) {
        let mut counts = self.limit.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}
