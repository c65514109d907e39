//! What a caller may see: the privacy boundary between members.
//!
//! A change of one export can make other resources appear or disappear for a viewer (the exporter's bundle, say), so a
//! delta is never filtered from the log of changes: it is the difference of two projections.

use std::collections::{BTreeMap, BTreeSet};

use mesh::{ClusterName, ServiceName};

use crate::key::{Key, Kind};
use crate::resource::{Resource, Resources, Statement, Value};

/// Who looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Viewer {
    /// Sees everything.
    Operator,
    /// Sees its own resources, what is exported to it, and whom it exchanges services with.
    Cluster(ClusterName),
}

/// The difference between two projections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// New or changed resources.
    pub put: BTreeMap<Key, Resource>,
    /// Resources that are gone, or gone from view.
    pub deleted: BTreeSet<Key>,
}

impl Delta {
    /// Whether the two projections were the same.
    pub fn is_empty(&self) -> bool {
        self.put.is_empty() && self.deleted.is_empty()
    }
}

/// The resources that the viewer may see.
pub fn projection(resources: &Resources, viewer: &Viewer) -> Resources {
    let Viewer::Cluster(own) = viewer else { return resources.clone() };
    let audience = Audience::of(resources, own);
    let visible = resources.iter().filter(|(key, resource)| audience.sees(own, key, &resource.value));
    visible.map(|(key, resource)| (key.clone(), resource.clone())).collect()
}

/// What changed from `before` to `after`.
pub fn diff(before: &Resources, after: &Resources) -> Delta {
    let changed = after.iter().filter(|(key, resource)| before.get(*key) != Some(*resource));
    Delta {
        put: changed.map(|(key, resource)| (key.clone(), resource.clone())).collect(),
        deleted: before.keys().filter(|key| !after.contains_key(*key)).cloned().collect(),
    }
}

/// Applies a difference.
pub fn patch(resources: &mut Resources, delta: Delta) {
    for key in &delta.deleted {
        resources.remove(key);
    }
    resources.extend(delta.put);
}

/// What one cluster has to do with.
struct Audience<'a> {
    /// Clusters that export something to it, or to which it exports.
    related: BTreeSet<&'a ClusterName>,
    /// Its own exported services and those that it may use.
    services: BTreeSet<&'a ServiceName>,
}

impl<'a> Audience<'a> {
    fn of(resources: &'a Resources, own: &ClusterName) -> Self {
        let mut audience = Self { related: BTreeSet::new(), services: BTreeSet::new() };
        for fact in resources.values().filter_map(|resource| resource.value.signed()) {
            let Statement::Export { service, to_clusters } = &fact.facts.statement else { continue };
            if fact.facts.exported_to(own) {
                audience.services.insert(service);
                audience.related.insert(&fact.facts.cluster);
            }
            if fact.facts.cluster == *own {
                if to_clusters.is_empty() {
                    audience.related.extend(members(resources));
                } else {
                    audience.related.extend(members(resources).filter(|member| to_clusters.contains(*member)));
                }
            }
        }
        audience
    }

    fn sees(&self, own: &ClusterName, key: &Key, value: &Value) -> bool {
        match key {
            Key::Export(..) => value.signed().is_some_and(|fact| fact.facts.exported_to(own)),
            Key::Address(service) => self.services.contains(service),
            Key::Cluster(cluster)
            | Key::Bundle(cluster)
            | Key::Gateways(cluster)
            | Key::Lease(cluster)
            | Key::Drain(cluster) => cluster == own || self.related.contains(cluster),
        }
    }
}

fn members(resources: &Resources) -> impl Iterator<Item = &ClusterName> {
    resources.keys().take_while(|key| key.kind() == Kind::Cluster).filter_map(Key::cluster)
}
