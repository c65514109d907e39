//! Which workloads a policy is for.

use std::collections::BTreeSet;

use federation_crds::istio::{PolicyTargetReference, WorkloadSelector};
use federation_crds::{Kind, Manifest};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh::{Labels, Namespace, ObjectRef, ServiceName, Workload};

use crate::analyze::codes;
use crate::compile::Input;
use crate::finding::Finding;
use crate::mesh_config::MeshConfig;
use crate::object;

/// The label by which Istio knows the pods of a Gateway of the Gateway API.
const GATEWAY_NAME_LABEL: &str = "gateway.networking.k8s.io/gateway-name";

/// Workloads by their labels or by their names.
#[derive(Debug, PartialEq)]
pub(super) enum Scope {
    /// With all these labels, of one namespace or (`None`) of all.
    Labels { namespace: Option<String>, labels: Labels },
    /// These, by `<namespace>/<pod>`.
    Pods(BTreeSet<String>),
}

/// The parts of a policy that say which workloads it is for.
pub(super) struct Selection<'a> {
    pub(super) kind: Kind,
    pub(super) metadata: &'a ObjectMeta,
    pub(super) selector: Option<&'a WorkloadSelector>,
    pub(super) target_ref: Option<&'a PolicyTargetReference>,
    pub(super) target_refs: &'a [PolicyTargetReference],
}

impl Scope {
    /// Reads it. A target that is not there selects nothing and is a finding.
    pub(super) fn read(
        selection: &Selection<'_>,
        input: &Input<'_>,
        mesh_config: &MeshConfig,
        findings: &mut Vec<Finding>,
    ) -> Self {
        let namespace = object::namespace(selection.metadata);
        let single = selection.target_ref.map(|target| ("spec.targetRef".to_owned(), target));
        let several = selection.target_refs.iter().enumerate();
        let several = several.map(|(index, target)| (format!("spec.targetRefs[{index}]"), target));
        let targets: Vec<_> = single.into_iter().chain(several).collect();
        if targets.is_empty() {
            let labels = selection.selector.map(|selector| selector.match_labels.clone()).unwrap_or_default();
            let namespace = (namespace != mesh_config.root_namespace).then(|| namespace.to_owned());
            return Self::Labels { namespace, labels };
        }
        let origin = object::reference(selection.kind, selection.metadata);
        let pods = targets.iter().flat_map(|(path, target)| pods(&origin, path, target, input, findings)).collect();
        Self::Pods(pods)
    }

    /// Whether a workload, by its `<namespace>/<pod>`, is among them.
    pub(super) fn selects(&self, key: &str, workload: &Workload) -> bool {
        match self {
            Self::Labels { namespace, labels } => {
                namespace.as_deref().is_none_or(|namespace| namespace == workload.namespace.as_str())
                    && has_labels(workload, labels)
            }
            Self::Pods(pods) => pods.contains(key),
        }
    }
}

/// Whether a workload has all of some labels.
pub(crate) fn has_labels(workload: &Workload, labels: &Labels) -> bool {
    labels.iter().all(|(key, value)| workload.labels.get(key) == Some(value))
}

fn pods(
    origin: &ObjectRef,
    path: &str,
    target: &PolicyTargetReference,
    input: &Input<'_>,
    findings: &mut Vec<Finding>,
) -> Vec<String> {
    let found = match (target.group.as_str(), target.kind.as_str()) {
        ("" | "core", "Service") => pods_of_service(&origin.namespace, &target.name, input),
        ("gateway.networking.k8s.io", "Gateway") => Some(labelled(
            input,
            &[(GATEWAY_NAME_LABEL.to_owned(), target.name.clone())].into(),
            Some(&origin.namespace),
        )),
        ("networking.istio.io", "Gateway") => pods_of_gateway(&origin.namespace, &target.name, input),
        _ => {
            let message = format!("{} cannot be the target of a policy here", target.kind);
            let hint = "name a Service or a Gateway, or select workloads by their labels";
            findings.push(object::finding(origin, path, codes::OBJECT_WITHOUT_EFFECT, message).hint(hint));
            return Vec::new();
        }
    };
    found.unwrap_or_else(|| {
        let message = format!("there is no {} {}/{}", target.kind, origin.namespace, target.name);
        findings.push(object::finding(origin, path, codes::REFERENCED_RESOURCE_NOT_FOUND, message));
        Vec::new()
    })
}

fn pods_of_service(namespace: &str, name: &str, input: &Input<'_>) -> Option<Vec<String>> {
    let name = ServiceName::new(Namespace::new(namespace).ok()?, name).ok()?;
    let service = input.local.services.get(&name)?;
    Some(service.endpoints.iter().map(|endpoint| format!("{namespace}/{}", endpoint.name)).collect())
}

fn pods_of_gateway(namespace: &str, name: &str, input: &Input<'_>) -> Option<Vec<String>> {
    let gateway = input.manifests.iter().find_map(|manifest| match manifest {
        Manifest::Gateway(gateway) => {
            let own =
                object::namespace(&gateway.metadata) == namespace && gateway.metadata.name.as_deref() == Some(name);
            own.then_some(gateway)
        }
        _ => None,
    })?;
    Some(labelled(input, &gateway.spec.selector, None))
}

fn labelled(input: &Input<'_>, labels: &Labels, namespace: Option<&str>) -> Vec<String> {
    let selected = input.local.workloads.iter().filter(|(_, workload)| {
        has_labels(workload, labels) && namespace.is_none_or(|namespace| namespace == workload.namespace.as_str())
    });
    selected.map(|(key, _)| key.clone()).collect()
}
