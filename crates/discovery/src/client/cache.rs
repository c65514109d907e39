//! The last-good cache on disk: the responses that would recreate what the client knows.
//!
//! A file of length-delimited `DeltaDiscoveryResponse`s. The first one is a header: its `nonce` is the time of writing
//! (Unix milliseconds), its `type_url` names the node, so that another workload's cache is not taken for one's own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use prost::Message;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::session::Session;
use crate::types::NodeId;

/// At most one write in this time.
const INTERVAL: Duration = Duration::from_secs(1);
const FILE: &str = "discovery.cache";

/// What the session exports for the cache.
pub(super) type Saved = Arc<Vec<DeltaDiscoveryResponse>>;

/// The cache of one client.
#[derive(Debug)]
pub(super) struct Cache {
    path: PathBuf,
    node: String,
}

impl Cache {
    pub(super) fn new(directory: &Path, node: &NodeId) -> Self {
        Self { path: directory.join(FILE), node: node.to_string() }
    }

    /// Fills a new session from the cache, if there is a usable one; returns the cache's age.
    pub(super) fn restore(&self, session: &mut Session) -> Duration {
        let Ok(bytes) = std::fs::read(&self.path) else { return Duration::ZERO };
        let Some((header, responses)) = decode(&bytes).filter(|(header, _)| header.type_url == self.node) else {
            tracing::warn!(path = %self.path.display(), "the discovery cache is not usable and is ignored");
            return Duration::ZERO;
        };
        for rejected in session.import(&responses) {
            tracing::warn!(%rejected, "a cached resource is left out");
        }
        let written = UNIX_EPOCH + Duration::from_millis(header.nonce.parse().unwrap_or_default());
        SystemTime::now().duration_since(written).unwrap_or_default()
    }

    /// Writes what is published, coalesced; once more at the end.
    pub(super) async fn run(self, mut saved: watch::Receiver<Saved>, shutdown: CancellationToken) {
        loop {
            let ended = tokio::select! {
                () = shutdown.cancelled() => true,
                changed = saved.changed() => changed.is_err(),
            };
            if ended && !saved.has_changed().unwrap_or(false) {
                return;
            }
            let responses = Arc::clone(&saved.borrow_and_update());
            let bytes = encode(&self.node, &responses, SystemTime::now());
            let path = self.path.clone();
            let written = tokio::task::spawn_blocking(move || identity::files::write_private(&path, &bytes)).await;
            match written {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(path = %self.path.display(), %error, "the cache cannot be written"),
                Err(_) => return,
            }
            if ended {
                return;
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }
}

fn encode(node: &str, responses: &[DeltaDiscoveryResponse], now: SystemTime) -> Vec<u8> {
    let millis = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let header = DeltaDiscoveryResponse {
        type_url: node.to_owned(),
        nonce: millis.to_string(),
        ..DeltaDiscoveryResponse::default()
    };
    let all = std::iter::once(&header).chain(responses);
    all.flat_map(Message::encode_length_delimited_to_vec).collect()
}

fn decode(mut bytes: &[u8]) -> Option<(DeltaDiscoveryResponse, Vec<DeltaDiscoveryResponse>)> {
    let header = DeltaDiscoveryResponse::decode_length_delimited(&mut bytes).ok()?;
    let mut responses = Vec::new();
    while !bytes.is_empty() {
        responses.push(DeltaDiscoveryResponse::decode_length_delimited(&mut bytes).ok()?);
    }
    Some((header, responses))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_or_foreign_cache_is_ignored() {
        let directory = tempfile::tempdir().expect("directory");
        let node: NodeId = "dns~isthmus-system/dns".parse().expect("valid");
        let cache = Cache::new(directory.path(), &node);
        let response = DeltaDiscoveryResponse { type_url: crate::types::MESH.into(), ..Default::default() };
        let bytes = encode(&node.to_string(), &[response], SystemTime::now());
        for (content, complete) in [(&bytes[..], 1), (&bytes[..bytes.len() - 1], 0), (&b"\xff\xff\xff"[..], 0)] {
            std::fs::write(&cache.path, content).expect("written");
            let mut session = Session::new(node.clone());
            cache.restore(&mut session);
            assert_eq!(session.known().complete.len(), complete);
        }
        std::fs::write(&cache.path, &bytes).expect("written");
        let other: NodeId = "dns~isthmus-system/other".parse().expect("valid");
        let mut session = Session::new(other.clone());
        Cache::new(directory.path(), &other).restore(&mut session);
        assert!(session.known().complete.is_empty());
    }
}
