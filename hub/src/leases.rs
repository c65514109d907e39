//! The leader's watch over leases: renewals stay in memory, expiry and revival go through the log.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hub_state::{Action, Key, LeaseClock, Value};
use mesh::ClusterName;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::proposer::Proposer;
use crate::raft_types::{NodeId, Raft};
use crate::storage::Replica;

/// Who stands in the audit log for what no caller asked for.
pub(crate) const HUB_ACTOR: &str = "hub";

/// Renewals as this node knows them; meaningful only while it leads. Clones share them.
#[derive(Clone)]
pub(crate) struct Leases {
    clock: Arc<Mutex<Option<LeaseClock>>>,
    started: Instant,
    ttl: Duration,
}

impl Leases {
    pub(crate) fn new(ttl: Duration) -> Self {
        Self { clock: Arc::default(), started: Instant::now(), ttl }
    }

    /// Notes a renewal; false if this node does not lead.
    pub(crate) fn renew(&self, cluster: &ClusterName) -> bool {
        let now = self.now();
        match self.lock().as_mut() {
            Some(clock) => {
                clock.handle_renewal(cluster, now);
                true
            }
            None => false,
        }
    }

    /// Follows the leadership of this node and, while it leads, expires leases.
    pub(crate) async fn watch(
        self,
        id: NodeId,
        raft: Raft,
        replica: Replica,
        proposer: Proposer,
        ended: CancellationToken,
    ) {
        let mut metrics = raft.server_metrics();
        let tick = (self.ttl / 10).clamp(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            let leads = metrics.borrow_and_update().current_leader == Some(id);
            self.follow_leadership(leads);
            let expired = replica.read(|state| {
                self.lock().as_ref().map(|clock| clock.expired(state.resources(), self.now())).unwrap_or_default()
            });
            for (cluster, epoch) in expired {
                let action = Action::ExpireLease { cluster: cluster.clone(), epoch };
                let proposed = proposer.propose(HUB_ACTOR.to_owned(), action);
                // Without a quorum the answer does not come; the next round decides again.
                if let Ok(Ok(Ok(_))) = tokio::time::timeout(Duration::from_secs(2), proposed).await {
                    tracing::info!(%cluster, "a lease ran out");
                }
            }
            let wait = async {
                tokio::select! {
                    changed = metrics.changed() => changed.is_ok(),
                    () = tokio::time::sleep(tick) => true,
                }
            };
            if ended.run_until_cancelled(wait).await != Some(true) {
                return;
            }
        }
    }

    fn follow_leadership(&self, leads: bool) {
        let now = self.now();
        let mut clock = self.lock();
        match (leads, clock.is_some()) {
            (true, false) => *clock = Some(LeaseClock::new(millis(self.ttl), now)),
            (false, true) => *clock = None,
            _ => {}
        }
    }

    fn now(&self) -> u64 {
        millis(self.started.elapsed())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<LeaseClock>> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the cluster's lease has run out in the state; `None` if it is no member.
pub(crate) fn is_live(replica: &Replica, cluster: &ClusterName) -> Option<bool> {
    replica.read(|state| match &state.resources().get(&Key::Lease(cluster.clone()))?.value {
        Value::Lease(lease) => Some(lease.live),
        _ => None,
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
