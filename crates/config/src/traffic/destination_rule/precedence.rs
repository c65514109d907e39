//! Which rules are for which service or entry, in which order.

use std::collections::BTreeMap;
use std::sync::Arc;

use federation_crds::Kind;
use mesh::{ClientTls, DestinationRules, Labels, ObjectRef, PortPolicies, ServiceName, TrafficPolicy, Visibility};

use super::Bound;
use crate::compile::Compiled;
use crate::mesh_config::MeshConfig;
use crate::traffic::registry::{Registry, cluster_host, covers};
use crate::traffic::traffic_policy::of_mesh;

/// Binds rules to services and entries.
pub(super) fn bind(mesh_config: &MeshConfig, registry: &Registry, bound: Vec<Bound>, compiled: &mut Compiled) {
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
