//! The two transitions of a lease.

use mesh::ClusterName;

use super::step::{Done, Step};
use crate::command::Refusal;
use crate::key::Key;
use crate::lease::LeaseRecord;
use crate::resource::Value;

pub(super) fn expire(step: &mut Step<'_>, cluster: &ClusterName, epoch: u64, now_ms: u64) -> Result<Done, Refusal> {
    let lease = find(step, cluster)?;
    if !lease.live || lease.epoch != epoch {
        return Ok(Done::Replayed(step.revision() - 1));
    }
    set(step, cluster, LeaseRecord { live: false, changed_at_ms: now_ms, epoch: epoch + 1 });
    Ok(Done::Changed(format!("expire lease of cluster {cluster}")))
}

pub(super) fn revive(step: &mut Step<'_>, cluster: &ClusterName, now_ms: u64) -> Result<Done, Refusal> {
    let lease = find(step, cluster)?;
    if lease.live {
        return Ok(Done::Replayed(step.revision() - 1));
    }
    set(step, cluster, LeaseRecord { live: true, changed_at_ms: now_ms, epoch: lease.epoch + 1 });
    Ok(Done::Changed(format!("revive lease of cluster {cluster}")))
}

fn find(step: &Step<'_>, cluster: &ClusterName) -> Result<LeaseRecord, Refusal> {
    match step.state().resources.get(&Key::Lease(cluster.clone())).map(|resource| &resource.value) {
        Some(Value::Lease(lease)) => Ok(lease.clone()),
        _ => Err(Refusal::NotMember { cluster: cluster.clone() }),
    }
}

fn set(step: &mut Step<'_>, cluster: &ClusterName, lease: LeaseRecord) {
    step.put(Key::Lease(cluster.clone()), Value::Lease(lease));
}
