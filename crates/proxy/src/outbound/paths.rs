//! The paths between gateways, as far as their health concerns the own connections and targets.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::TargetKey;
use crate::balance::Aside;
use crate::pool::gateways::OnPathEvent;

/// What rides on a path that went down is told; a cluster to which a path is usable again is tried at once, however long it
/// was to be left alone.
pub(super) fn on_path_event(paths: Paths, aside: Aside<TargetKey>) -> OnPathEvent {
    Arc::new(move |gateway, event| {
        if event.usable {
            paths.regain(gateway, &event.path);
            let leads_to =
                |key: &TargetKey| matches!(key, TargetKey::Remote(key) if key.cluster.as_str() == event.cluster);
            aside.hurry(leads_to);
        } else {
            paths.lose(gateway, &event.path);
        }
    })
}

/// Opening a flow takes no longer.
const REMEMBERED: Duration = Duration::from_secs(60);

/// The paths between gateways that connections ride on, each with the token that says it is dead.
#[derive(Clone, Default)]
pub(super) struct Paths(Arc<Mutex<State>>);

/// By gateway and path.
#[derive(Default)]
struct State {
    /// A token lives as long as something rides on its path.
    tokens: BTreeMap<(String, String), Weak<CancellationToken>>,
    /// When paths were lost that have not come back, for flows that were asked for before and are answered after it.
    lost: BTreeMap<(String, String), Instant>,
}

impl Paths {
    /// The token of a path, for a connection that was asked for at this time and rides on it. It is cancelled if the path was
    /// lost since: the gateway's event has overtaken its answer.
    pub(super) fn ride(&self, gateway: &str, path: &str, asked: Instant) -> Arc<CancellationToken> {
        let key = (gateway.to_owned(), path.to_owned());
        let mut state = self.state();
        if state.lost.get(&key).is_some_and(|lost| *lost >= asked) {
            let token = CancellationToken::new();
            token.cancel();
            return Arc::new(token);
        }
        state.tokens.retain(|_, token| token.strong_count() > 0);
        let entry = state.tokens.entry(key).or_default();
        entry.upgrade().unwrap_or_else(|| {
            let token = Arc::new(CancellationToken::new());
            *entry = Arc::downgrade(&token);
            token
        })
    }

    /// Tells everything that rides on a path that it is dead.
    fn lose(&self, gateway: &str, path: &str) {
        let key = (gateway.to_owned(), path.to_owned());
        let token = {
            let (mut state, now) = (self.state(), Instant::now());
            state.lost.retain(|_, lost| now.duration_since(*lost) < REMEMBERED);
            state.lost.insert(key.clone(), now);
            state.tokens.remove(&key)
        };
        if let Some(token) = token.and_then(|token| token.upgrade()) {
            tracing::info!(gateway, path, "a path between gateways went down");
            token.cancel();
        }
    }

    /// The path is usable again, and whoever is told that a flow rides on it is told of a new life.
    fn regain(&self, gateway: &str, path: &str) {
        self.state().lost.remove(&(gateway.to_owned(), path.to_owned()));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let asked = Instant::now();
        let ride = |gateway| paths.ride(gateway, "to-west", asked);
        let (on_it, beside) = (ride("gateway-1"), ride("gateway-2"));
        let (west, north) = (reviews_in("west"), reviews_in("north"));
        aside.set(west.clone());
        aside.set(north.clone());
        happens("gateway-1", &event(false));
        assert!(on_it.is_cancelled() && !beside.is_cancelled());
        assert!(aside.is_aside(&west));
        assert!(ride("gateway-1").is_cancelled(), "its answer came after the loss");
        let after = Instant::now() + Duration::from_nanos(1);
        assert!(!paths.ride("gateway-1", "to-west", after).is_cancelled(), "the gateway knew better by then");
        happens("gateway-1", &event(true));
        assert!(!aside.is_aside(&west) && aside.is_aside(&north));
        assert!(!ride("gateway-1").is_cancelled(), "it is back");
    }
}
