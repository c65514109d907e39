//! ClusterTrafficPolicy: of those for a service, for its namespace and for the mesh the nearest counts, as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use federation_crds::cluster_traffic_policy::{ClusterTrafficPolicy, ClusterTrafficPolicySpec, Tier};
use federation_crds::istio::parse_duration;
use federation_crds::{Kind, Manifest};
use mesh::{ClusterMode, ClusterName, ClusterTier, ClusterTraffic, ClusterWeight, ObjectRef, ServiceName};

use crate::analyze::codes;
use crate::compile::{Compiled, Input};
use crate::finding::Finding;
use crate::mesh_config::MeshConfig;
use crate::object;

/// What a policy is for. Nearer ones sort first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Service(String, String),
    Namespace(String),
    Mesh,
}

pub(super) fn compile(input: &Input<'_>, mesh_config: &MeshConfig, compiled: &mut Compiled) {
    let policies = read(input, mesh_config, &mut compiled.findings);
    if policies.is_empty() {
        return;
    }
    let services: BTreeSet<&ServiceName> = input.local.services.keys().chain(input.imported.keys()).collect();
    for name in services {
        let (namespace, service) = (name.namespace().to_string(), name.name().to_owned());
        let nearest = [Scope::Service(namespace.clone(), service), Scope::Namespace(namespace), Scope::Mesh];
        if let Some(rules) = nearest.iter().find_map(|scope| policies.get(scope)) {
            compiled.services.entry(name.clone()).or_default().clusters = Some(Arc::clone(rules));
        }
    }
}

/// Reads them all; the oldest one of a scope counts.
fn read(
    input: &Input<'_>,
    mesh_config: &MeshConfig,
    findings: &mut Vec<Finding>,
) -> BTreeMap<Scope, Arc<ClusterTraffic>> {
    let objects = input.manifests.iter().filter_map(|manifest| match manifest {
        Manifest::ClusterTrafficPolicy(policy) => Some(policy.as_ref()),
        _ => None,
    });
    let mut objects: Vec<&ClusterTrafficPolicy> = objects.collect();
    objects.sort_by_key(|policy| object::age(&policy.metadata));
    let mut policies: BTreeMap<Scope, Arc<ClusterTraffic>> = BTreeMap::new();
    for policy in objects {
        let origin = object::reference(Kind::ClusterTrafficPolicy, &policy.metadata);
        let rules = match rules(&origin, &policy.spec) {
            Ok(rules) => Arc::new(rules),
            Err(why) => {
                findings.push(object::finding(&origin, "spec", codes::NOT_COMPILED, why));
                continue;
            }
        };
        for (path, scope) in scopes(&origin, &policy.spec, mesh_config) {
            note_missing(input, &origin, &path, &scope, findings);
            if let Some(older) = policies.get(&scope).and_then(|rules| rules.origin.as_ref()) {
                let message = format!("{older} is older and for the same");
                let hint = "of several policies for the same services only the oldest counts; merge them";
                findings.push(object::finding(&origin, path, codes::OBJECT_WITHOUT_EFFECT, message).hint(hint));
                continue;
            }
            policies.insert(scope, Arc::clone(&rules));
        }
    }
    policies
}

fn scopes(origin: &ObjectRef, spec: &ClusterTrafficPolicySpec, mesh_config: &MeshConfig) -> Vec<(String, Scope)> {
    let namespace = &origin.namespace;
    if spec.services.is_empty() {
        let is_root = *namespace == mesh_config.root_namespace;
        return vec![("spec".to_owned(), if is_root { Scope::Mesh } else { Scope::Namespace(namespace.clone()) })];
    }
    let scope = |(index, service): (usize, &String)| {
        (format!("spec.services[{index}]"), Scope::Service(namespace.clone(), service.clone()))
    };
    spec.services.iter().enumerate().map(scope).collect()
}

fn note_missing(input: &Input<'_>, origin: &ObjectRef, path: &str, scope: &Scope, findings: &mut Vec<Finding>) {
    let Scope::Service(namespace, service) = scope else { return };
    let is_it = |name: &&ServiceName| name.namespace().as_str() == namespace && name.name() == service;
    if !input.local.services.keys().chain(input.imported.keys()).any(|name| is_it(&name)) {
        let message =
            format!("{namespace}/{service} is no service of this cluster, and nobody exports it to this cluster");
        let hint = "until there is one the policy has no effect for it";
        findings.push(object::finding(origin, path, codes::REFERENCED_RESOURCE_NOT_FOUND, message).hint(hint));
    }
}

fn rules(origin: &ObjectRef, spec: &ClusterTrafficPolicySpec) -> Result<ClusterTraffic, String> {
    let default = ClusterTraffic::default();
    let count =
        |value: Option<i64>, default: u32| value.map_or(Ok(default), u32::try_from).map_err(|error| error.to_string());
    let overflow_percent = count(spec.overflow.as_ref().and_then(|it| it.healthy_percent), default.overflow_percent)?;
    let hysteresis = spec.hysteresis.as_ref();
    let return_percent = count(hysteresis.and_then(|it| it.healthy_percent), default.return_percent)?;
    let return_after = hysteresis.and_then(|it| it.return_after.as_deref()).map(parse_duration).transpose()?;
    let cap = spec.cap.as_ref();
    let max_requests = cap.and_then(|it| it.max_requests).map(u32::try_from).transpose();
    let import_from = spec.import_from.as_ref().map(|names| names.iter().map(|name| cluster(name)).collect());
    Ok(ClusterTraffic {
        origin: Some(origin.clone()),
        mode: match spec.mode.as_deref() {
            Some("weighted") => ClusterMode::Weighted,
            Some("local-only") => ClusterMode::LocalOnly,
            _ => ClusterMode::LocalFirst,
        },
        tiers: spec.tiers.iter().map(tier).collect::<Result<_, _>>()?,
        import_from: import_from.transpose()?,
        overflow_percent,
        return_percent: return_percent.max(overflow_percent),
        return_after: return_after.unwrap_or(default.return_after),
        max_share_percent: count(cap.and_then(|it| it.max_share_percent), default.max_share_percent)?,
        max_requests: max_requests.map_err(|error| error.to_string())?,
        unmeshed_clients: spec.unmeshed_clients.as_deref() == Some("allow"),
    })
}

fn tier(raw: &Tier) -> Result<ClusterTier, String> {
    let weighted = raw.clusters.iter().map(|raw| {
        let weight = raw.weight.map(u32::try_from).transpose().map_err(|error| error.to_string())?;
        Ok(ClusterWeight { cluster: cluster(&raw.name)?, weight })
    });
    Ok(ClusterTier { clusters: weighted.collect::<Result<_, String>>()? })
}

fn cluster(name: &str) -> Result<ClusterName, String> {
    name.parse().map_err(|error: mesh::NameError| error.to_string())
}
