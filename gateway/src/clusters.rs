//! The state of every other cluster as this gateway sees it: the lease that its agent tells of, and its own paths.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh::{ClusterState, View, cluster_state};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use serde::Serialize;
use telemetry::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::paths::{PathRow, Paths};

/// How often the gauges are set.
const PERIOD: Duration = Duration::from_secs(1);

/// One row of `/debug/clusters`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ClusterRow {
    pub(crate) cluster: String,
    pub(crate) state: ClusterState,
    /// Whether any path takes streams; absent when nothing is imported from it.
    pub(crate) reachable: Option<bool>,
    /// For how long its announcements have been stale.
    pub(crate) stale_ms: Option<u64>,
    /// What is left of its share, in percent, while it drains.
    pub(crate) share_percent: u32,
}

/// Judges every cluster of the view. `now_ms` is in Unix milliseconds.
pub(crate) fn rows(view: &View, paths: &[PathRow], now_ms: u64) -> Vec<ClusterRow> {
    let row = |cluster: &Arc<mesh::RemoteCluster>| {
        let usable = paths.iter().any(|path| path.usable && path.cluster == cluster.name.as_str());
        let reachable = cluster.imported.then_some(usable);
        ClusterRow {
            cluster: cluster.name.to_string(),
            state: cluster_state(cluster.stale_since_ms.is_none(), reachable),
            reachable,
            stale_ms: cluster.stale_since_ms.map(|since| now_ms.saturating_sub(since)),
            share_percent: cluster.share_percent,
        }
    };
    view.clusters.values().map(row).collect()
}

/// The own clock, in Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    cluster: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClusterLabels {
    cluster: String,
}

/// Gauges of clusters.
#[derive(Debug, Clone, Default)]
struct Gauges {
    state: Family<StateLabels, Gauge>,
    stale: Family<ClusterLabels, Gauge>,
    share: Family<ClusterLabels, Gauge>,
}

impl Gauges {
    fn register(registry: &Registry) -> Self {
        Self {
            state: registry.make("isthmus_cluster_state", "1 for the state that a cluster is in"),
            stale: registry.make(
                "isthmus_cluster_stale_seconds",
                "For how long a cluster's announcements have been stale; 0 = fresh",
            ),
            share: registry.make(
                "isthmus_cluster_share_percent",
                "What is left of the share of a cluster that drains; 100 = it does not",
            ),
        }
    }

    fn set(&self, rows: &[ClusterRow], known: &mut BTreeMap<String, ClusterState>) {
        let gone: Vec<String> =
            known.keys().filter(|name| !rows.iter().any(|row| row.cluster == **name)).cloned().collect();
        for cluster in gone {
            known.remove(&cluster);
            for state in ClusterState::ALL {
                self.state.remove(&StateLabels { cluster: cluster.clone(), state: state.as_str() });
            }
            self.stale.remove(&ClusterLabels { cluster: cluster.clone() });
            self.share.remove(&ClusterLabels { cluster });
        }
        for row in rows {
            for state in ClusterState::ALL {
                let labels = StateLabels { cluster: row.cluster.clone(), state: state.as_str() };
                self.state.get_or_create(&labels).set(i64::from(state == row.state));
            }
            let labels = ClusterLabels { cluster: row.cluster.clone() };
            let seconds = i64::try_from(row.stale_ms.unwrap_or(0) / 1000).unwrap_or(i64::MAX);
            self.stale.get_or_create(&labels).set(seconds);
            self.share.get_or_create(&labels).set(row.share_percent.into());
            if known.insert(row.cluster.clone(), row.state) != Some(row.state) {
                tracing::info!(cluster = row.cluster, state = %row.state, "a cluster has another state");
            }
        }
    }
}

/// Keeps the gauges until `ended`.
pub(crate) async fn follow(
    registry: Registry,
    view: watch::Receiver<Arc<View>>,
    paths: Arc<Paths>,
    ended: CancellationToken,
) {
    let gauges = Gauges::register(&registry);
    let mut known = BTreeMap::new();
    loop {
        let rows = rows(&view.borrow().clone(), &paths.rows(), now_ms());
        gauges.set(&rows, &mut known);
        if ended.run_until_cancelled(tokio::time::sleep(PERIOD)).await.is_none() {
            return;
        }
    }
}
