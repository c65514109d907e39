//! DestinationRule: several for one host merged, then bound to the services and entries that their hosts mean.

mod precedence;

use std::collections::BTreeMap;
use std::sync::Arc;

use federation_crds::Manifest;
use federation_crds::istio::DestinationRule;
use federation_crds::istio::destination_rule as crd;
use mesh::{DestinationRules, HostPattern, Labels, PortPolicies, ServiceName, Subset, Visibility};

use super::objects::{Notes, Object, in_order, visibility};
use super::pool::Towards;
use super::registry::{Registry, cluster_host, cluster_service, clusterset_service, covers};
use super::traffic_policy::{Level, Secrets, nearest_first, policies};
use crate::analyze::codes;
use crate::compile::{Compiled, Input};
use crate::gateways::{is_gateway, share_secret};
use crate::mesh_config::MeshConfig;

/// Rules of one host in one namespace, and whom they are for.
struct Bound {
    object: Object,
    host: HostPattern,
    rules: DestinationRules,
    /// The same for Services whose nearest endpoints come first: as they stand in rules that say nothing of localities.
    nearest_first: Option<DestinationRules>,
}

/// The rules of one host and namespace, before they are compiled: levels are merged as they are written, so that a
/// subset inherits the policy that counts.
struct Group<'a> {
    /// The oldest.
    object: Object,
    host: HostPattern,
    visible_to: Visibility,
    selector: Labels,
    policy: Option<(Object, Level<'a>)>,
    subsets: Vec<(Object, String, &'a crd::Subset)>,
}

pub(super) fn compile(input: &Input<'_>, mesh_config: &MeshConfig, registry: &Registry, compiled: &mut Compiled) {
    let all = in_order(input.manifests, |manifest| match manifest {
        Manifest::DestinationRule(object) => Some(object.as_ref()),
        _ => None,
    });
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut index: BTreeMap<Key, usize> = BTreeMap::new();
    for (object, rule) in all {
        let mut notes = Notes { object: Arc::clone(&object.reference), findings: &mut compiled.findings };
        let host = match registry.full_name(&rule.spec.host, &object.namespace).parse::<HostPattern>() {
            Ok(host) => host,
            Err(error) => {
                notes.not_compiled("spec.host", error);
                continue;
            }
        };
        let group = Group::of(object, host, rule);
        match index.get(&group.key()).and_then(|index| groups.get_mut(*index)) {
            Some(first) => first.merge(group, &mut notes),
            None => {
                index.insert(group.key(), groups.len());
                groups.push(group);
            }
        }
    }
    let bound: Vec<Bound> = groups.into_iter().map(|group| group.compile(input, mesh_config, compiled)).collect();
    precedence::bind(input, mesh_config, registry, bound, compiled);
}

/// Namespace, host, `exportTo` and selector: rules are merged when all of these are equal.
type Key = (String, HostPattern, Option<Vec<String>>, Labels);

impl<'a> Group<'a> {
    fn of(object: Object, host: HostPattern, rule: &'a DestinationRule) -> Self {
        let spec = &rule.spec;
        let level = spec.traffic_policy.as_ref().map(|it| (it, "spec.trafficPolicy".to_owned()));
        let subset = |(index, it)| (object.clone(), format!("spec.subsets[{index}]"), it);
        Self {
            host,
            visible_to: visibility(&spec.export_to, &object.namespace),
            selector: spec.workload_selector.as_ref().map(|it| it.match_labels.clone()).unwrap_or_default(),
            policy: level.map(|level| (object.clone(), level)),
            subsets: spec.subsets.iter().enumerate().map(subset).collect(),
            object,
        }
    }

    fn key(&self) -> Key {
        let visible_to = match &self.visible_to {
            Visibility::Everywhere => None,
            Visibility::Namespaces(some) => Some(some.iter().map(ToString::to_string).collect()),
        };
        (self.object.namespace.to_string(), self.host.clone(), visible_to, self.selector.clone())
    }

    /// A younger rule adds subsets that the older ones do not have, and its policy if they have none.
    fn merge(&mut self, younger: Self, notes: &mut Notes<'_>) {
        let hint = format!("put everything about the host into {}", self.object.reference);
        if let Some((owner, _)) = &self.policy
            && younger.policy.is_some()
        {
            let message = format!("{} has a policy for the same host already and is older", owner.reference);
            notes.add(codes::OBJECT_WITHOUT_EFFECT, "spec.trafficPolicy", message, hint.clone());
        }
        self.policy = self.policy.take().or(younger.policy);
        for (owner, path, subset) in younger.subsets {
            match self.subsets.iter().find(|(_, _, known)| known.name == subset.name) {
                Some((older, ..)) => {
                    let message = format!("{} has a subset {:?} already and is older", older.reference, subset.name);
                    notes.add(codes::OBJECT_WITHOUT_EFFECT, format!("{path}.name"), message, hint.clone());
                }
                None => self.subsets.push((owner, path, subset)),
            }
        }
    }

    fn compile(self, input: &Input<'_>, mesh_config: &MeshConfig, compiled: &mut Compiled) -> Bound {
        let mut secrets = Secrets {
            manifests: input.manifests,
            namespace: &self.object.namespace,
            mesh_config,
            towards: towards(input, &self.host),
            named: Default::default(),
        };
        let outer: Vec<Level<'_>> = self.policy.iter().map(|(_, level)| level.clone()).collect();
        let owner = self.policy.as_ref().map_or(&self.object, |(owner, _)| owner);
        let mut notes = Notes { object: Arc::clone(&owner.reference), findings: &mut compiled.findings };
        let policy = policies(&outer, &mut secrets, &mut notes);
        let wanted = input.local.services.values().any(|service| service.nearest_first);
        let nearest = |policy: &PortPolicies, levels: &[Level<'_>]| wanted.then(|| nearest_first(policy, levels));
        let mut nearest_subsets = BTreeMap::new();
        let mut subsets = BTreeMap::new();
        for (owner, path, found) in &self.subsets {
            // A subset without a policy of its own shares the destination's.
            let own = found.traffic_policy.as_ref().map(|own| (own, format!("{path}.trafficPolicy")));
            let inherits = own.is_none();
            let levels: Vec<_> = outer.iter().cloned().chain(own).collect();
            let policy = match inherits {
                true => policy.clone(),
                false => {
                    let mut scratch = Vec::new();
                    let mut notes = Notes { object: Arc::clone(&owner.reference), findings: &mut scratch };
                    let policy = policies(&levels, &mut secrets, &mut notes);
                    // What is found about the outer level was noted above.
                    compiled.findings.extend(scratch.into_iter().filter(|finding| finding.path.starts_with(path)));
                    policy
                }
            };
            let labels = &found.labels;
            if let Some(policy) = nearest(&policy, &levels) {
                let subset = Subset { labels: labels.clone(), policy };
                nearest_subsets.entry(found.name.clone()).or_insert(subset);
            }
            subsets.entry(found.name.clone()).or_insert(Subset { labels: labels.clone(), policy });
        }
        let nearest_policy = nearest(&policy, &outer);
        share(input, &self.selector, secrets.named, compiled);
        let rules = DestinationRules {
            origin: self.object.reference.as_ref().clone(),
            visible_to: self.visible_to,
            of_service: false,
            workload_selector: self.selector,
            policy,
            subsets,
        };
        let nearest_first =
            nearest_policy.map(|policy| DestinationRules { policy, subsets: nearest_subsets, ..rules.clone() });
        Bound { object: self.object, host: self.host, rules, nearest_first }
    }
}

/// Whether endpoints of a host have sidecars. Those of other clusters are reached through the gateways, as if they had.
fn towards(input: &Input<'_>, host: &HostPattern) -> Towards {
    let has_sidecars = |name: &ServiceName| {
        let local = input.local.services.get(name);
        input.imported.contains_key(name)
            || local.is_some_and(|service| service.endpoints.iter().any(|endpoint| endpoint.identity.is_some()))
    };
    let shared = if host.is_wildcard() {
        let mut names = input.local.services.keys().chain(input.imported.keys());
        names.any(|name| {
            let hosts = [cluster_host(name), name.clusterset_host()];
            hosts.iter().any(|named| covers(host, named)) && has_sidecars(name)
        })
    } else {
        let named = cluster_service(host.as_str()).or_else(|| clusterset_service(host.as_str()));
        named.is_some_and(|name| has_sidecars(&name))
    };
    if shared { Towards::Sidecars } else { Towards::Servers }
}

/// Of the clients beside a Secret those that the rule selects may have it. A rule that selects nobody is for every
/// client, and then, as in Istio, it is the gateways' alone: a Secret is not for all that run beside it.
fn share(
    input: &Input<'_>,
    selector: &Labels,
    named: impl IntoIterator<Item = (String, String)>,
    compiled: &mut Compiled,
) {
    for (namespace, name) in named {
        let selected = |workload: &mesh::Workload| match selector.is_empty() {
            true => is_gateway(input, workload),
            false => selector.iter().all(|(key, value)| workload.labels.get(key) == Some(value)),
        };
        let beside = |workload: &mesh::Workload| workload.namespace.as_str() == namespace && selected(workload);
        for (key, _) in input.local.workloads.iter().filter(|(_, workload)| beside(workload)) {
            // A Secret that does not exist was noted where it is named.
            share_secret(input, &format!("{namespace}/{name}"), key, compiled);
        }
    }
}
