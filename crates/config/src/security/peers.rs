//! PeerAuthentication: which transport a workload accepts, by port, workload, namespace and mesh.

use std::collections::{BTreeMap, BTreeSet};

use federation_crds::istio::PeerAuthentication;
use federation_crds::istio::peer_authentication::{MutualTls, MutualTlsMode};
use federation_crds::{Kind, Manifest};
use mesh::{MtlsMode, PeerPolicyRule, Workload};

use super::scope::has_labels;
use crate::analyze::codes;
use crate::compile::Input;
use crate::finding::Finding;
use crate::mesh_config::MeshConfig;
use crate::object;

/// All of them, the oldest first.
pub(super) struct Peers<'a> {
    root_namespace: &'a str,
    policies: Vec<&'a PeerAuthentication>,
}

type Modes = (Option<PeerPolicyRule>, BTreeMap<u16, PeerPolicyRule>);

impl<'a> Peers<'a> {
    /// Reads them; those that cannot have an effect are findings.
    pub(super) fn read(input: &Input<'a>, mesh_config: &'a MeshConfig, findings: &mut Vec<Finding>) -> Self {
        let policies = input.manifests.iter().filter_map(|manifest| match manifest {
            Manifest::PeerAuthentication(policy) => Some(policy.as_ref()),
            _ => None,
        });
        let mut policies: Vec<&PeerAuthentication> = policies.collect();
        policies.sort_by_key(|policy| object::age(&policy.metadata));
        let peers = Self { root_namespace: &mesh_config.root_namespace, policies };
        peers.without_effect(findings);
        peers
    }

    /// The mode of a workload and of its ports that have one of their own.
    pub(super) fn of(&self, workload: &Workload) -> Modes {
        let own = workload.namespace.as_str();
        let mesh = self.first(|policy| is_general(policy) && self.in_root(policy));
        let namespace = self.first(|policy| is_general(policy) && !self.in_root(policy) && in_namespace(policy, own));
        let selecting = self.first(|policy| {
            !self.in_root(policy) && in_namespace(policy, own) && !is_general(policy) && selects(policy, workload)
        });
        let levels = [selecting, namespace, mesh];
        let mtls = levels.into_iter().flatten().find_map(|policy| rule(policy, policy.spec.mtls));
        let port_mtls = selecting.map(port_rules).unwrap_or_default();
        (mtls, port_mtls)
    }

    fn first(&self, wanted: impl Fn(&PeerAuthentication) -> bool) -> Option<&'a PeerAuthentication> {
        self.policies.iter().copied().find(|policy| wanted(policy))
    }

    fn in_root(&self, policy: &PeerAuthentication) -> bool {
        in_namespace(policy, self.root_namespace)
    }

    fn without_effect(&self, findings: &mut Vec<Finding>) {
        let mut general: BTreeMap<&str, &PeerAuthentication> = BTreeMap::new();
        for policy in self.policies.iter().copied() {
            let origin = object::reference(Kind::PeerAuthentication, &policy.metadata);
            let namespace = object::namespace(&policy.metadata);
            if !is_general(policy) {
                if self.in_root(policy) {
                    let message = "a selector in the root namespace selects nothing";
                    let hint = "leave the selector out for the whole mesh, or write it in the workload's namespace";
                    let finding = object::finding(&origin, "spec.selector", codes::OBJECT_WITHOUT_EFFECT, message);
                    findings.push(finding.hint(hint));
                }
                continue;
            }
            if let Some(first) = general.get(namespace) {
                let first = first.metadata.name.as_deref().unwrap_or_default();
                let message = format!("{first} is older and is for all workloads of {namespace}, too");
                let finding = object::finding(&origin, "", codes::OBJECT_WITHOUT_EFFECT, message);
                findings.push(finding.hint("remove one of the two"));
            } else {
                general.insert(namespace, policy);
            }
        }
    }
}

/// Ports of the pod on which its sidecar accepts no mTLS.
pub(super) fn plain_ports(
    workload: &Workload,
    mtls: Option<&PeerPolicyRule>,
    port_mtls: &BTreeMap<u16, PeerPolicyRule>,
) -> BTreeSet<u16> {
    let ports = workload.ports.iter().map(|port| port.number).chain(port_mtls.keys().copied());
    let disabled = |port: &u16| {
        let rule = port_mtls.get(port).or(mtls);
        rule.is_some_and(|rule| rule.mode == MtlsMode::Disable)
    };
    ports.filter(disabled).collect()
}

/// Not for single workloads.
fn is_general(policy: &PeerAuthentication) -> bool {
    policy.spec.selector.as_ref().is_none_or(|selector| selector.match_labels.is_empty())
}

fn in_namespace(policy: &PeerAuthentication, namespace: &str) -> bool {
    object::namespace(&policy.metadata) == namespace
}

fn selects(policy: &PeerAuthentication, workload: &Workload) -> bool {
    policy.spec.selector.as_ref().is_some_and(|selector| has_labels(workload, &selector.match_labels))
}

fn port_rules(policy: &PeerAuthentication) -> BTreeMap<u16, PeerPolicyRule> {
    let ports = policy.spec.port_level_mtls.iter().flatten();
    ports.filter_map(|(port, mtls)| Some((port.parse().ok()?, rule(policy, Some(*mtls))?))).collect()
}

/// What a policy says; `None` where it leaves the question to the level above.
fn rule(policy: &PeerAuthentication, mtls: Option<MutualTls>) -> Option<PeerPolicyRule> {
    let mode = match mtls?.mode {
        MutualTlsMode::Unset => return None,
        MutualTlsMode::Disable => MtlsMode::Disable,
        MutualTlsMode::Permissive => MtlsMode::Permissive,
        MutualTlsMode::Strict => MtlsMode::Strict,
    };
    Some(PeerPolicyRule { origin: object::reference(Kind::PeerAuthentication, &policy.metadata), mode })
}
