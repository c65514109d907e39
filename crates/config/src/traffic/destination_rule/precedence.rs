//! Which rules are for which service or entry, in which order.

use std::collections::BTreeMap;
use std::sync::Arc;

use federation_crds::Kind;
use mesh::{ClientTls, DestinationRules, Labels, ObjectRef, PortPolicies, ServiceName, TrafficPolicy, Visibility};

use super::Bound;
use crate::compile::{Compiled, Input};
use crate::mesh_config::MeshConfig;
use crate::traffic::registry::{Registry, cluster_host, covers};
use crate::traffic::traffic_policy::{self, of_mesh};

/// Binds rules to services and entries.
pub(super) fn bind(
    input: &Input<'_>,
    mesh_config: &MeshConfig,
    registry: &Registry,
    bound: Vec<Bound>,
    compiled: &mut Compiled,
) {
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
        let nearest_first = input.local.services.get(service).is_some_and(|service| service.nearest_first);
        let mut rules = in_precedence(mesh_config, service, found, Wanted { subject_alt_names: &[], nearest_first });
        match nearest_first {
            true => rules.push(Arc::new(of_service(mesh_config, service))),
            false => rules.extend(of_mesh.clone()),
        }
        if !rules.is_empty() {
            compiled.services.entry(service.clone()).or_default().destinations = rules;
        }
    }
    for (name, entry) in &mut compiled.entries {
        let names = entry.config.entry.as_ref().map(|it| it.subject_alt_names.clone()).unwrap_or_default();
        let wanted = Wanted { subject_alt_names: &names, nearest_first: false };
        let rules = in_precedence(mesh_config, name, of_hosts(&[name.name().to_owned()]), wanted);
        Arc::make_mut(&mut entry.config).destinations = rules;
    }
}

/// What MeshConfig says about destinations that no rule is about.
fn mesh_wide(mesh_config: &MeshConfig, policy: TrafficPolicy) -> DestinationRules {
    let namespace = mesh_config.root_namespace.clone();
    for_all(ObjectRef { kind: Kind::ConfigMap.to_string(), namespace, name: "istio".to_owned() }, policy)
}

/// What a Service says by `trafficDistribution` where no rule is about it.
fn of_service(mesh_config: &MeshConfig, service: &ServiceName) -> DestinationRules {
    let (namespace, name) = (service.namespace().to_string(), service.name().to_owned());
    let origin = ObjectRef { kind: Kind::Service.to_string(), namespace, name };
    for_all(origin, traffic_policy::of_service(mesh_config))
}

fn for_all(origin: ObjectRef, policy: TrafficPolicy) -> DestinationRules {
    DestinationRules {
        origin,
        visible_to: Visibility::Everywhere,
        of_service: true,
        workload_selector: Labels::new(),
        policy: PortPolicies { any: Arc::new(policy), ports: BTreeMap::new() },
        subsets: BTreeMap::new(),
    }
}

/// What a service or an entry wants of the rules.
struct Wanted<'a> {
    /// Names that a ServiceEntry expects in certificates.
    subject_alt_names: &'a [String],
    /// The nearest endpoints first, where rules do not say otherwise.
    nearest_first: bool,
}

/// Rules of the service's namespace, then of the root namespace, then of others (which only their own clients use).
/// Inside a namespace the more specific host wins, then a rule for selected clients, then the older one. A rule for
/// the cluster's name of a service comes before one for its clusterset name.
fn in_precedence(
    mesh_config: &MeshConfig,
    service: &ServiceName,
    mut found: Vec<(usize, &Bound)>,
    wanted: Wanted<'_>,
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
        let nearest = bound.nearest_first.as_ref().filter(|_| wanted.nearest_first);
        let mut rules = nearest.unwrap_or(&bound.rules).clone();
        rules.of_service = own(bound) || root(bound);
        with_names(&mut rules, wanted.subject_alt_names);
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
