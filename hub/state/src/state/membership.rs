//! A member drains, comes back, or leaves.
//!
//! Leaving has two steps, so that nobody uses what is no longer there: the exports are withdrawn and the tokens void, and
//! only when everybody had time to see that, the rest is removed: record, bundle, gateways, lease.

use std::collections::BTreeSet;

use mesh::{ClusterName, ServiceName};

use super::step::{Done, Step};
use crate::authorize::Role;
use crate::command::{Leave, LeaveStep, Refusal};
use crate::drain::DrainRecord;
use crate::key::{Key, Kind};
use crate::resource::{Resources, Value};

/// The longest drain, a week.
const OVER_MAX_MS: u64 = 7 * 24 * 3600 * 1000;

pub(super) fn drain(
    step: &mut Step<'_>,
    (role, cluster): (&Role, &ClusterName),
    over_ms: u64,
    now_ms: u64,
) -> Result<Done, Refusal> {
    may_speak_for(role, cluster)?;
    step.require_member(cluster)?;
    if over_ms > OVER_MAX_MS {
        return Err(Refusal::Invalid { why: "a drain takes at most a week".to_owned() });
    }
    match record(step, cluster) {
        Some(known) if known.leaving => return Err(Refusal::Leaving { cluster: cluster.clone() }),
        // A retry must not begin anew.
        Some(known) if known.over_ms == over_ms => return Ok(Done::Replayed(step.revision() - 1)),
        _ => {}
    }
    set(step, cluster, DrainRecord { started_at_ms: now_ms, over_ms, leaving: false });
    Ok(Done::Changed(format!("drain cluster {cluster} over {} s", over_ms / 1000)))
}

pub(super) fn undrain(step: &mut Step<'_>, role: &Role, cluster: &ClusterName) -> Result<Done, Refusal> {
    may_speak_for(role, cluster)?;
    step.require_member(cluster)?;
    match record(step, cluster) {
        None => return Ok(Done::Replayed(step.revision() - 1)),
        Some(known) if known.leaving => return Err(Refusal::Leaving { cluster: cluster.clone() }),
        Some(_) => step.delete(Key::Drain(cluster.clone())),
    }
    Ok(Done::Changed(format!("undrain cluster {cluster}")))
}

pub(super) fn leave(step: &mut Step<'_>, leave: &Leave, now_ms: u64) -> Result<Done, Refusal> {
    let cluster = &leave.cluster;
    may_speak_for(&leave.role, cluster)?;
    step.require_member(cluster)?;
    match leave.step {
        LeaveStep::Withdraw => withdraw(step, leave, now_ms),
        LeaveStep::Remove if record(step, cluster).is_some_and(|known| known.leaving) => {
            remove(step, cluster, |_| true);
            Ok(Done::Changed(format!("cluster {cluster} left")))
        }
        LeaveStep::Remove => Err(Refusal::Invalid { why: "its exports must be withdrawn first".to_owned() }),
    }
}

fn withdraw(step: &mut Step<'_>, leave: &Leave, now_ms: u64) -> Result<Done, Refusal> {
    let cluster = &leave.cluster;
    if record(step, cluster).is_some_and(|known| known.leaving) {
        return Ok(Done::Replayed(step.revision() - 1));
    }
    let alone = exported_by_nobody_else(&step.state().resources, cluster);
    if !leave.force && !alone.is_empty() {
        let services = alone.iter().take(4).map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(Refusal::LastExporter { cluster: cluster.clone(), services, count: alone.len() as u64 });
    }
    remove(step, cluster, |key| key.kind() == Kind::Export);
    let tokens = step.state().tokens.iter().filter(|(_, token)| token.cluster == *cluster);
    for id in tokens.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
        step.delete_token(&id);
    }
    set(step, cluster, DrainRecord { started_at_ms: now_ms, over_ms: 0, leaving: true });
    let forced = if leave.force { ", forced" } else { "" };
    Ok(Done::Changed(format!("cluster {cluster} leaves: exports withdrawn, tokens void{forced}")))
}

/// Services that would be gone with the cluster.
fn exported_by_nobody_else(resources: &Resources, cluster: &ClusterName) -> BTreeSet<ServiceName> {
    let (mut own, mut others) = (BTreeSet::new(), BTreeSet::new());
    for key in resources.keys() {
        let Key::Export(exporter, service) = key else { continue };
        if exporter == cluster {
            own.insert(service.clone())
        } else {
            others.insert(service.clone())
        };
    }
    own.difference(&others).cloned().collect()
}

fn remove(step: &mut Step<'_>, cluster: &ClusterName, which: impl Fn(&Key) -> bool) {
    let owned = step.state().resources.keys().filter(|key| key.cluster() == Some(cluster) && which(key));
    for key in owned.cloned().collect::<Vec<_>>() {
        step.delete(key);
    }
}

/// Operators, and a cluster for itself.
fn may_speak_for(role: &Role, cluster: &ClusterName) -> Result<(), Refusal> {
    match role {
        Role::Operator => Ok(()),
        Role::Agent(own) if own == cluster => Ok(()),
        _ => Err(Refusal::Forbidden { key: Key::Cluster(cluster.clone()) }),
    }
}

/// The drain of a member, if there is one.
pub(super) fn record<'a>(step: &'a Step<'_>, cluster: &ClusterName) -> Option<&'a DrainRecord> {
    match &step.state().resources.get(&Key::Drain(cluster.clone()))?.value {
        Value::Drain(record) => Some(record),
        _ => None,
    }
}

fn set(step: &mut Step<'_>, cluster: &ClusterName, record: DrainRecord) {
    step.put(Key::Drain(cluster.clone()), Value::Drain(record));
}
