//! The paths between gateways, as far as their health concerns the own connections and targets.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio_util::sync::CancellationToken;

use super::TargetKey;
use crate::balance::Aside;
use crate::pool::gateways::OnPathEvent;

/// What rides on a path that went down is told; a cluster to which a path is usable again is tried at once, however long it
/// was to be left alone.
pub(super) fn on_path_event(paths: Paths, aside: Aside<TargetKey>) -> OnPathEvent {
    Arc::new(move |gateway, event| {
        if event.usable {
            let leads_to =
                |key: &TargetKey| matches!(key, TargetKey::Remote(key) if key.cluster.as_str() == event.cluster);
            aside.hurry(leads_to);
        } else {
            paths.lose(gateway, &event.path);
        }
    })
}

/// The paths between gateways that connections ride on, each with the token that says it is dead.
#[derive(Clone, Default)]
pub(super) struct Paths(Arc<Mutex<PathTokens>>);

/// By gateway and path; a token lives as long as something rides on its path.
type PathTokens = BTreeMap<(String, String), Weak<CancellationToken>>;

impl Paths {
    /// The token of a path, for a connection that rides on it.
    pub(super) fn ride(&self, gateway: &str, path: &str) -> Arc<CancellationToken> {
        let mut paths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        paths.retain(|_, token| token.strong_count() > 0);
        let entry = paths.entry((gateway.to_owned(), path.to_owned())).or_default();
        entry.upgrade().unwrap_or_else(|| {
            let token = Arc::new(CancellationToken::new());
            *entry = Arc::downgrade(&token);
            token
        })
    }

    /// Tells everything that rides on a path that it is dead.
    fn lose(&self, gateway: &str, path: &str) {
        let key = (gateway.to_owned(), path.to_owned());
        let token = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        if let Some(token) = token.and_then(|token| token.upgrade()) {
            tracing::info!(gateway, path, "a path between gateways went down");
            token.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use api::tunnel::PathEvent;
    use mesh::{ClusterName, GroupKey, Labels};

    use super::*;
    use crate::pool::dial::RemoteKey;

    fn reviews_in(cluster: &str) -> TargetKey {
        TargetKey::Remote(RemoteKey {
            cluster: ClusterName::new(cluster).unwrap(),
            service: "default/reviews".parse().unwrap(),
            port: 80,
            udp: false,
            group: GroupKey {
                service_account: "reviews".to_owned(),
                labels: Labels::default(),
                locality: String::new(),
            },
            pod: None,
            unmeshed: false,
        })
    }

    #[tokio::test]
    async fn a_path_that_goes_ends_what_rides_on_it_and_one_that_comes_back_lets_its_cluster_be_tried() {
        let (paths, aside) = (Paths::default(), Aside::default());
        let happens = on_path_event(paths.clone(), aside.clone());
        let event = |usable| PathEvent { path: "to-west".into(), cluster: "west".into(), usable };
        let (on_it, beside) = (paths.ride("gateway-1", "to-west"), paths.ride("gateway-2", "to-west"));
        let (west, north) = (reviews_in("west"), reviews_in("north"));
        aside.set(west.clone());
        aside.set(north.clone());
        happens("gateway-1", &event(false));
        assert!(on_it.is_cancelled() && !beside.is_cancelled());
        assert!(aside.is_aside(&west));
        happens("gateway-1", &event(true));
        assert!(!aside.is_aside(&west) && aside.is_aside(&north));
    }
}
