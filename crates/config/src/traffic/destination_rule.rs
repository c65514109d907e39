//! DestinationRule: several for one host merged, then bound to the services and entries that their hosts mean.

use std::collections::BTreeMap;
use std::sync::Arc;

use federation_crds::istio::DestinationRule;
use federation_crds::istio::destination_rule as crd;
use federation_crds::{Kind, Manifest};
use mesh::{
    ClientTls, DestinationRules, HostPattern, Labels, ObjectRef, PortPolicies, ServiceName, Subset, TrafficPolicy,
    Visibility,
};

use super::objects::{Notes, Object, in_order, visibility};
use super::registry::{Registry, cluster_host, covers};
use super::traffic_policy::{Level, Secrets, of_mesh, policies};
use crate::analyze::codes;
use crate::compile::{Compiled, Input};
use crate::gateways::share_secret;
use crate::mesh_config::MeshConfig;

/// Rules of one host in one namespace, and whom they are for.
struct Bound {
    object: Object,
    host: HostPattern,
    rules: DestinationRules,
}

pub(super) fn compile(input: &Input<'_>, mesh_config: &MeshConfig, registry: &Registry, compiled: &mut Compiled) {
    let all = in_order(input.manifests, |manifest| match manifest {
        Manifest::DestinationRule(object) => Some(object.as_ref()),
        _ => None,
    });
    let mut bound: Vec<Bound> = Vec::new();
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
        let selector = rule.spec.workload_selector.as_ref().map(|it| it.match_labels.clone()).unwrap_or_default();
        let mut secrets = Secrets {
            manifests: input.manifests,
            namespace: &object.namespace,
            mesh_config,
            selector: &selector,
            named: Default::default(),
        };
        let rules = rules(&object, rule, &mut secrets, &mut notes);
        let named = std::mem::take(&mut secrets.named);
        let key = Key::of(&object, &host, &rules);
        match index.get(&key).and_then(|index| bound.get_mut(*index)) {
            Some(first) => merge(first, rules, rule, &mut notes),
            None => {
                index.insert(key, bound.len());
                bound.push(Bound { object, host, rules });
            }
        }
        share(input, &selector, named, compiled);
    }
    bind(mesh_config, registry, bound, compiled);
}

/// Rules are merged when all of these are equal.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    namespace: String,
    host: HostPattern,
    visible_to: Option<Vec<String>>,
    selector: Labels,
}

impl Key {
    fn of(object: &Object, host: &HostPattern, rules: &DestinationRules) -> Self {
        let visible_to = match &rules.visible_to {
            Visibility::Everywhere => None,
            Visibility::Namespaces(some) => Some(some.iter().map(ToString::to_string).collect()),
        };
        let namespace = object.namespace.to_string();
        Self { namespace, host: host.clone(), visible_to, selector: rules.workload_selector.clone() }
    }
}

fn rules(
    object: &Object,
    rule: &DestinationRule,
    secrets: &mut Secrets<'_>,
    notes: &mut Notes<'_>,
) -> DestinationRules {
    let spec = &rule.spec;
    let outer: Vec<Level<'_>> = spec.traffic_policy.iter().map(|it| (it, "spec.trafficPolicy".to_owned())).collect();
    let policy = policies(&outer, secrets, notes);
    let mut subsets = BTreeMap::new();
    for (index, found) in spec.subsets.iter().enumerate() {
        let mut levels = outer.clone();
        levels.extend(found.traffic_policy.iter().map(|it| (it, format!("spec.subsets[{index}].trafficPolicy"))));
        // A subset without a policy of its own shares the destination's.
        let policy = if levels.len() == outer.len() { policy.clone() } else { policies(&levels, secrets, notes) };
        subsets.entry(found.name.clone()).or_insert(Subset { labels: found.labels.clone(), policy });
    }
    let selector = secrets.selector.clone();
    DestinationRules {
        origin: object.reference.as_ref().clone(),
        visible_to: visibility(&spec.export_to, &object.namespace),
        of_service: false,
        workload_selector: selector,
        policy,
        subsets,
    }
}

/// A younger rule adds subsets that the older ones do not have, and its policy if they have none.
fn merge(first: &mut Bound, rules: DestinationRules, rule: &DestinationRule, notes: &mut Notes<'_>) {
    let hint = format!("put everything about the host into {}", first.rules.origin);
    if rule.spec.traffic_policy.is_some() {
        if first.rules.policy == Default::default() {
            first.rules.policy = rules.policy;
        } else {
            let message = format!("{} has a policy for the same host already and is older", first.rules.origin);
            notes.add(codes::OBJECT_WITHOUT_EFFECT, "spec.trafficPolicy", message, hint.clone());
        }
    }
    for (name, subset) in rules.subsets {
        if first.rules.subsets.contains_key(&name) {
            let position = rule.spec.subsets.iter().position(|it: &crd::Subset| it.name == name).unwrap_or(0);
            let message = format!("{} has a subset {name:?} already and is older", first.rules.origin);
            notes.add(codes::OBJECT_WITHOUT_EFFECT, format!("spec.subsets[{position}].name"), message, hint.clone());
        } else {
            first.rules.subsets.insert(name, subset);
        }
    }
}

/// Clients beside a Secret may have it: those that the rule selects, or all.
fn share(
    input: &Input<'_>,
    selector: &Labels,
    named: impl IntoIterator<Item = (String, String)>,
    compiled: &mut Compiled,
) {
    for (namespace, name) in named {
        let selected = |workload: &mesh::Workload| {
            workload.namespace.as_str() == namespace
                && selector.iter().all(|(key, value)| workload.labels.get(key) == Some(value))
        };
        for (key, _) in input.local.workloads.iter().filter(|(_, workload)| selected(workload)) {
            // A Secret that does not exist was noted where it is named.
            share_secret(input, &format!("{namespace}/{name}"), key, compiled);
        }
    }
}

fn bind(mesh_config: &MeshConfig, registry: &Registry, bound: Vec<Bound>, compiled: &mut Compiled) {
    let exact: BTreeMap<&str, Vec<&Bound>> = bound.iter().fold(BTreeMap::new(), |mut map, bound| {
        map.entry(bound.host.as_str()).or_insert_with(Vec::new).push(bound);
        map
    });
    let wildcards: Vec<&Bound> = bound.iter().filter(|bound| bound.host.is_wildcard()).collect();
    let of_hosts = |hosts: &[String]| {
        let mut found: Vec<(usize, &Bound)> = Vec::new();
        for (rank, host) in hosts.iter().enumerate() {
            found.extend(exact.get(host.as_str()).into_iter().flatten().map(|bound| (rank, *bound)));
            let wild = wildcards.iter().filter(|bound| bound.host.as_str() != host && covers(&bound.host, host));
            found.extend(wild.map(|bound| (rank, *bound)));
        }
        found
    };
    let of_mesh = of_mesh(mesh_config).map(|policy| Arc::new(mesh_wide(mesh_config, policy)));
    for service in &registry.services {
        let found = of_hosts(&[cluster_host(service), service.clusterset_host()]);
        let mut rules = in_precedence(mesh_config, service, found, &[]);
        rules.extend(of_mesh.clone());
        if !rules.is_empty() {
            compiled.services.entry(service.clone()).or_default().destinations = rules;
        }
    }
    for (name, entry) in &mut compiled.entries {
        let names = entry.config.entry.as_ref().map(|it| it.subject_alt_names.clone()).unwrap_or_default();
        let rules = in_precedence(mesh_config, name, of_hosts(&[name.name().to_owned()]), &names);
        Arc::make_mut(&mut entry.config).destinations = rules;
    }
}

/// What MeshConfig says about destinations that no rule is about.
fn mesh_wide(mesh_config: &MeshConfig, policy: TrafficPolicy) -> DestinationRules {
    let namespace = mesh_config.root_namespace.clone();
    DestinationRules {
        origin: ObjectRef { kind: Kind::ConfigMap.to_string(), namespace, name: "istio".to_owned() },
        visible_to: Visibility::Everywhere,
        of_service: true,
        workload_selector: Labels::new(),
        policy: PortPolicies { any: Arc::new(policy), ports: BTreeMap::new() },
        subsets: BTreeMap::new(),
    }
}

/// Rules of the service's namespace, then of the root namespace, then of others (which only their own clients use).
/// Inside a namespace the more specific host wins, then a rule for selected clients, then the older one. A rule for
/// the cluster's name of a service comes before one for its clusterset name.
fn in_precedence(
    mesh_config: &MeshConfig,
    service: &ServiceName,
    mut found: Vec<(usize, &Bound)>,
    subject_alt_names: &[String],
) -> Vec<Arc<DestinationRules>> {
    let own = |bound: &Bound| bound.object.namespace == *service.namespace();
    let root = |bound: &Bound| bound.object.namespace.as_str() == mesh_config.root_namespace;
    found.sort_by(|(rank_a, a), (rank_b, b)| {
        let place = |bound: &Bound| (!own(bound), !root(bound), bound.object.namespace.clone());
        let specific = |bound: &Bound| std::cmp::Reverse(bound.host.specificity());
        let unselective = |bound: &Bound| bound.rules.workload_selector.is_empty();
        (place(a), rank_a, specific(a), unselective(a), a.object.age()).cmp(&(
            place(b),
            rank_b,
            specific(b),
            unselective(b),
            b.object.age(),
        ))
    });
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|(_, bound)| seen.insert((bound.object.age(), bound.host.clone())));
    let rules = found.into_iter().map(|(_, bound)| {
        let mut rules = bound.rules.clone();
        rules.of_service = own(bound) || root(bound);
        with_names(&mut rules, subject_alt_names);
        Arc::new(rules)
    });
    rules.collect()
}

/// Names that a ServiceEntry expects in certificates count where the rule says none.
fn with_names(rules: &mut DestinationRules, names: &[String]) {
    if names.is_empty() {
        return;
    }
    let policies =
        std::iter::once(&mut rules.policy).chain(rules.subsets.values_mut().map(|subset| &mut subset.policy));
    for policies in policies {
        for policy in std::iter::once(&mut policies.any).chain(policies.ports.values_mut()) {
            if let ClientTls::Originate(tls) = &mut Arc::make_mut(policy).tls
                && tls.subject_alt_names.is_empty()
            {
                tls.subject_alt_names = names.to_vec();
            }
        }
    }
}
