//! What the cluster offers to others: from local services to signed facts in the hub.
//!
//! [`plan_exports`] is pure; [`book`] keeps what was signed, with the serials, on disk; [`reconcile`] brings the hub in
//! line with it.

pub(crate) mod book;
pub(crate) mod conditions;
pub(crate) mod reconcile;

use std::collections::{BTreeMap, BTreeSet};

use api::trust::{Export, Group, Pod, Port};
use mesh::{ClusterName, Endpoint, ServiceName};

use config::local::{Local, LocalService};

/// Groups of one export; the smallest are merged beyond.
pub const MAX_GROUPS: usize = 32;
/// Pods of one headless export; others are reached by the service's name only.
pub const MAX_PODS: usize = 256;
/// One step towards the exports that the cluster wants. Serials are given when the step is taken.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Sign and write this export (its serial is 0).
    Publish {
        /// The new export.
        export: Export,
        /// Only counts above zero differ from what is signed: it may wait for others.
        only_counts: bool,
    },
    /// Remove the export.
    Withdraw(ServiceName),
}

/// Compares what the cluster wants to export with what it last signed. `now` (Unix seconds) dates exports whose
/// ServiceExport says no time; `labels` tell groups apart.
pub fn plan_exports(
    cluster: &ClusterName,
    labels: &BTreeSet<String>,
    local: &Local,
    signed: &BTreeMap<ServiceName, Export>,
    now: u64,
) -> Vec<Step> {
    let mut steps = Vec::new();
    for (name, service) in &local.services {
        let Some(wish) = &service.export else { continue };
        let previous = signed.get(name);
        let created_at = wish.created_at.or(previous.map(|previous| previous.created_at)).unwrap_or(now);
        let groups = groups(&service.endpoints, labels);
        let export = Export {
            cluster: cluster.to_string(),
            serial: 0,
            namespace: name.namespace().to_string(),
            name: name.name().to_owned(),
            ports: service.ports.iter().map(Port::from).collect(),
            pods: pods(service, &groups),
            groups,
            to_clusters: wish.to_clusters.iter().map(ToString::to_string).collect(),
            created_at,
            headless: service.headless,
            session_affinity_seconds: service.session_affinity.unwrap_or(0),
            labels: wish.labels.clone(),
            annotations: wish.annotations.clone(),
        };
        match previous.map(|previous| Export { serial: 0, ..previous.clone() }) {
            Some(previous) if previous == export => {}
            previous => {
                let only_counts = previous.is_some_and(|previous| differ_in_counts_only(&previous, &export));
                steps.push(Step::Publish { export, only_counts });
            }
        }
    }
    let wanted = |name: &ServiceName| local.services.get(name).is_some_and(|service| service.export.is_some());
    steps.extend(signed.keys().filter(|name| !wanted(name)).cloned().map(Step::Withdraw));
    steps
}

/// Endpoints by what a sidecar elsewhere chooses between. A group without a healthy endpoint is listed with 0, so that
/// its coming back changes a number only.
fn groups(endpoints: &[Endpoint], labels: &BTreeSet<String>) -> Vec<Group> {
    let mut counts: BTreeMap<(String, BTreeMap<String, String>, String, bool), u32> = BTreeMap::new();
    for endpoint in endpoints {
        // Where nobody proves an identity there is no account to expect.
        let proven = endpoint.identity.as_ref().or(endpoint.stand_in.as_ref());
        let account = proven.map(|identity| identity.account().to_owned()).unwrap_or_default();
        let labels = labels.iter().filter_map(|key| endpoint.labels.get_key_value(key));
        let labels = labels.map(|(key, value)| (key.clone(), value.clone()));
        let key = (account, labels.collect(), endpoint.locality.clone(), endpoint.identity.is_some());
        *counts.entry(key).or_default() += u32::from(endpoint.ready);
    }
    let group = |((service_account, labels, locality, meshed), healthy)| Group {
        service_account,
        labels,
        locality,
        meshed,
        healthy,
    };
    merge(counts.into_iter().map(group).collect())
}

/// The pods of a headless service that clients elsewhere may address: ready, with a sidecar, each with its group.
fn pods(service: &LocalService, groups: &[Group]) -> Vec<Pod> {
    if !service.headless {
        return Vec::new();
    }
    let of_group = |endpoint: &Endpoint, group: &Group| {
        let account = endpoint.identity.as_ref().map(|identity| identity.account());
        let labels = group.labels.iter().all(|(key, value)| endpoint.labels.get(key) == Some(value));
        account == Some(group.service_account.as_str()) && labels && endpoint.locality == group.locality
    };
    let pod = |endpoint: &Endpoint| {
        let group = groups.iter().position(|group| group.meshed && of_group(endpoint, group))?;
        let names = service.names.pods.get(&endpoint.name);
        let hostname = names.and_then(|names| names.hostname.clone()).unwrap_or_default();
        Some(Pod { name: endpoint.name.clone(), hostname, group: u32::try_from(group).ok()? })
    };
    let ready = service.endpoints.iter().filter(|endpoint| endpoint.ready);
    ready.filter_map(pod).take(MAX_PODS).collect()
}

/// Brings the groups down to [`MAX_GROUPS`]: first localities are given up, then labels; account and mesh membership
/// never are, because they say whom to expect at the other end. Whatever is beyond even then is left out.
fn merge(groups: Vec<Group>) -> Vec<Group> {
    let mut groups = groups;
    let coarsen: [fn(&mut Group); 2] = [|group| group.locality.clear(), |group| group.labels.clear()];
    for coarsen in coarsen {
        if groups.len() <= MAX_GROUPS {
            break;
        }
        groups.iter_mut().for_each(coarsen);
        groups = summed(groups);
    }
    if groups.len() > MAX_GROUPS {
        tracing::error!(groups = groups.len(), "a service has more than {MAX_GROUPS} accounts; some are not exported");
        groups.sort_by_key(|group| std::cmp::Reverse(group.healthy));
        groups.truncate(MAX_GROUPS);
        groups = summed(groups);
    }
    groups
}

/// Adds up equal groups, in a fixed order.
fn summed(groups: Vec<Group>) -> Vec<Group> {
    let mut sums: BTreeMap<_, Group> = BTreeMap::new();
    for group in groups {
        let key = (group.service_account.clone(), group.labels.clone(), group.locality.clone(), group.meshed);
        match sums.get_mut(&key) {
            Some(sum) => sum.healthy += group.healthy,
            None => drop(sums.insert(key, group)),
        }
    }
    sums.into_values().collect()
}

/// Whether two exports are the same but for counts that stay above zero or stay zero.
fn differ_in_counts_only(previous: &Export, next: &Export) -> bool {
    let zeroed = |export: &Export| {
        let mut export = export.clone();
        export.groups.iter_mut().for_each(|group| group.healthy = u32::from(group.healthy > 0));
        export
    };
    zeroed(previous) == zeroed(next)
}

/// The name of an export.
pub(crate) fn name_of(export: &Export) -> Option<ServiceName> {
    format!("{}/{}", export.namespace, export.name).parse().ok()
}

/// Whether the service is exported.
pub(crate) fn is_exported(service: &LocalService) -> bool {
    service.export.is_some()
}

#[cfg(test)]
mod tests;
