//! Transactions: compare on revision, then put and delete.

use std::sync::Arc;

use mesh::ClusterName;

use super::membership;
use super::step::{Done, Step};
use crate::address::{ADDRESSES_MAX, AddressRecord};
use crate::authorize::{Role, Verb, authorize};
use crate::command::{Command, Compare, Operation, Refusal};
use crate::key::{Key, Kind};
use crate::limits::Limits;
use crate::resource::{SignedFact, Statement, Value};

/// The parts of a transaction.
pub(super) struct Request<'a> {
    pub(super) id: &'a str,
    pub(super) role: &'a Role,
    pub(super) compares: &'a [Compare],
    pub(super) operations: &'a [Operation],
}

pub(super) fn apply(step: &mut Step<'_>, command: &Command, request: &Request<'_>) -> Result<Done, Refusal> {
    check_shape(request)?;
    let index = (command.actor.clone(), request.id.to_owned());
    if let Some(position) = step.state().request_index.get(&index) {
        // Both maps change together, see `Step::remember_request`.
        let revision = step.state().requests.get(position).map(|request| request.revision);
        return Ok(Done::Replayed(revision.unwrap_or_default()));
    }
    if let Role::Agent(cluster) = request.role {
        step.require_member(cluster)?;
    }
    request.compares.iter().try_for_each(|compare| check_compare(step, request.role, compare))?;
    request.operations.iter().try_for_each(|operation| operate(step, request.role, operation))?;
    if let Role::Agent(cluster) = request.role {
        check_quota(step, cluster)?;
    }
    Ok(Done::Changed(describe(request.operations)))
}

fn check_shape(request: &Request<'_>) -> Result<(), Refusal> {
    let invalid = |why: &str| Err(Refusal::Invalid { why: why.to_owned() });
    if request.id.is_empty() || request.id.chars().count() > 64 {
        return invalid("request_id must have 1 to 64 characters");
    }
    if request.operations.is_empty() {
        return invalid("it has no operations");
    }
    if request.operations.len() + request.compares.len() > Limits::CURRENT.operations {
        return invalid("it has too many operations; hint: split it");
    }
    Ok(())
}

/// A compare tells whether something exists, so it is limited to keys that the caller may write.
fn check_compare(step: &Step<'_>, role: &Role, compare: &Compare) -> Result<(), Refusal> {
    if let Role::Agent(own) = role
        && compare.key.cluster() != Some(own)
    {
        return Err(Refusal::Forbidden { key: compare.key.clone() });
    }
    let actual = step.state().resources.get(&compare.key).map_or(0, |resource| resource.revision);
    if actual == compare.revision {
        return Ok(());
    }
    Err(Refusal::Conflict { key: compare.key.clone(), expected: compare.revision, actual })
}

fn operate(step: &mut Step<'_>, role: &Role, operation: &Operation) -> Result<(), Refusal> {
    match operation {
        Operation::Put { key, fact } => {
            authorize(role, Verb::Put, key)?;
            put(step, key, fact)
        }
        Operation::Delete { key } => {
            authorize(role, Verb::Delete, key)?;
            delete(step, key);
            Ok(())
        }
    }
}

fn put(step: &mut Step<'_>, key: &Key, fact: &SignedFact) -> Result<(), Refusal> {
    if fact.facts.key() != *key {
        return Err(Refusal::Mismatch { key: key.clone() });
    }
    if fact.bytes.len() > Limits::CURRENT.value_bytes {
        let cluster = fact.facts.cluster.clone();
        let (what, limit) = ("bytes per value".to_owned(), Limits::CURRENT.value_bytes as u64);
        return Err(Refusal::Quota { cluster, what, limit });
    }
    if key.kind() == Kind::Export && membership::record(step, &fact.facts.cluster).is_some_and(|known| known.leaving) {
        return Err(Refusal::Leaving { cluster: fact.facts.cluster.clone() });
    }
    check_trust_domain(step, key, fact)?;
    check_serial(step, key, fact)?;
    step.put(key.clone(), Value::Signed(Arc::new(fact.clone())));
    if let Statement::Export { service, .. } = &fact.facts.statement {
        let key = Key::Address(service.clone());
        if !step.state().resources.contains_key(&key) {
            allocate(step, key, &fact.facts.cluster)?;
        }
    }
    Ok(())
}

/// A member may change its roots, never the trust domain that they are for.
fn check_trust_domain(step: &Step<'_>, key: &Key, fact: &SignedFact) -> Result<(), Refusal> {
    let Statement::Bundle { trust_domain } = &fact.facts.statement else { return Ok(()) };
    match step.state().cluster(&fact.facts.cluster) {
        Some(record) if record.trust_domain == *trust_domain => Ok(()),
        _ => Err(Refusal::Mismatch { key: key.clone() }),
    }
}

fn check_serial(step: &Step<'_>, key: &Key, fact: &SignedFact) -> Result<(), Refusal> {
    let stored = step.state().resources.get(key).and_then(|resource| resource.value.signed());
    match stored.map(|stored| stored.facts.serial) {
        Some(stored) if fact.facts.serial < stored => {
            Err(Refusal::Serial { key: key.clone(), stored, offered: fact.facts.serial })
        }
        _ => Ok(()),
    }
}

fn allocate(step: &mut Step<'_>, key: Key, cluster: &ClusterName) -> Result<(), Refusal> {
    let number = step.next_address();
    if number > ADDRESSES_MAX {
        return Err(Refusal::AddressesExhausted);
    }
    step.put(key, Value::Address(AddressRecord { number, first_exporter: cluster.clone() }));
    Ok(())
}

/// Removing a member removes all that it said; addresses stay, they belong to the mesh.
fn delete(step: &mut Step<'_>, key: &Key) {
    let Key::Cluster(cluster) = key else { return step.delete(key.clone()) };
    let owned = step.state().resources.keys().filter(|key| key.cluster() == Some(cluster));
    for key in owned.cloned().collect::<Vec<_>>() {
        step.delete(key);
    }
}

fn check_quota(step: &Step<'_>, cluster: &ClusterName) -> Result<(), Refusal> {
    let (usage, limits) = (step.state().usage(cluster), Limits::CURRENT);
    let counted = [
        (usage.exports, limits.exports, "exports"),
        (usage.bytes, limits.total_bytes, "bytes"),
        (usage.addresses, limits.addresses, "addresses"),
    ];
    match counted.into_iter().find(|(used, limit, _)| used > limit) {
        Some((_, limit, what)) => {
            Err(Refusal::Quota { cluster: cluster.clone(), what: what.to_owned(), limit: limit as u64 })
        }
        None => Ok(()),
    }
}

/// A short line for the audit log: the first operations, and how many more.
pub(crate) fn describe(operations: &[Operation]) -> String {
    const SHOWN: usize = 4;
    let words = operations.iter().take(SHOWN).map(|operation| match operation {
        Operation::Put { key, .. } => format!("put {key}"),
        Operation::Delete { key } => format!("delete {key}"),
    });
    let mut text = words.collect::<Vec<_>>().join(", ");
    if operations.len() > SHOWN {
        text.push_str(&format!(" and {} more", operations.len() - SHOWN));
    }
    text
}
