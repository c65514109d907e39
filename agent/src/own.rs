//! The agent's own identity: issued by its own CA, replaced at half of its life.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{ClusterCa, IssueError, Svid};
use mesh::SpiffeId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The system account of agents.
pub(crate) const ACCOUNT: &str = "agent";

/// Issues an SVID for the agent.
pub(crate) fn issue(ca: &ClusterCa, ttl: Duration) -> Result<Svid, IssueError> {
    let id = SpiffeId::system(ca.trust_domain().clone(), ACCOUNT).map_err(|_| IssueError::Validity)?;
    ca.issue_self(&id, ttl, SystemTime::now())
}

/// Replaces the SVID at half of its life until shutdown.
pub(crate) async fn rotate(
    ca: Arc<ClusterCa>,
    ttl: Duration,
    svid: watch::Sender<Option<Arc<Svid>>>,
    shutdown: CancellationToken,
) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(ttl / 2) => {}
        }
        match issue(&ca, ttl) {
            Ok(next) => drop(svid.send_replace(Some(Arc::new(next)))),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the agent's own svid is not renewed");
            }
        }
    }
}
