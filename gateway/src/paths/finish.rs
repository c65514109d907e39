//! Connections that take no new flows, while those that they have go on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh::PathAction;
use tokio::time::{interval, timeout};

use super::probe::probe;
use super::{Connection, Paths, TICK, Target};

/// How long a probe stream is kept; a later answer is as good as none.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Lets the flows of a connection end, then closes it. A connection that is dead ends by itself.
///
/// It is probed meanwhile as all are: flows that wait for it in a black hole go on when something is acknowledged, and without
/// probes the transport would say something again only after as long as the hole has lasted.
pub(super) async fn finish(paths: &Arc<Paths>, target: &Target, connection: &Arc<Connection>) {
    let idle = async {
        let mut ticks = interval(TICK);
        while connection.streams() > 0 {
            ticks.tick().await;
            if connection.observe(Instant::now()).contains(&PathAction::Probe) {
                let (paths, target, connection) = (Arc::clone(paths), target.clone(), Arc::clone(connection));
                tokio::spawn(async move {
                    let _ = timeout(PROBE_TIMEOUT, probe(paths.ground(), &target, &connection)).await;
                });
            }
        }
    };
    tokio::select! {
        () = idle => {}
        _ = connection.closed() => {}
    }
    connection.close(0, "no longer needed");
}
