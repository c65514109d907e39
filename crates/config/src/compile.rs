//! The one door: all manifests of a cluster in, everything that proxies are told about configuration out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use federation_crds::Manifest;
use mesh::{
    ClusterName, HostEntry, Labels, MeshInfo, Placed, Secret, Service, ServiceConfig, ServiceName, WorkloadConfig,
};

use crate::finding::Finding;
use crate::local::Local;
use crate::mesh_config::MeshConfig;
use crate::{gateways, security, traffic};

/// What compilation reads.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Every object of the cluster.
    pub manifests: &'a [Manifest],
    /// The services, endpoints and workloads among them.
    pub local: &'a Local,
    /// The own mesh, cluster and trust domain.
    pub mesh: &'a MeshInfo,
    /// Services that other clusters export to this one.
    pub imported: &'a BTreeMap<ServiceName, Imported>,
}

/// What other clusters export under one name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Imported {
    /// The union of their service ports.
    pub ports: BTreeSet<u16>,
    /// What subsets select from.
    pub groups: BTreeSet<ImportedGroup>,
}

/// A group of endpoints in another cluster; where only that cluster's manifests are known, one of the endpoints.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImportedGroup {
    /// Whose it is.
    pub cluster: ClusterName,
    /// Its labels.
    pub labels: Labels,
    /// `region/zone/subzone`, or empty.
    pub locality: String,
}

impl ImportedGroup {
    /// With the labels that say where it is.
    pub fn placed(&self) -> Placed<'_> {
        Placed { labels: &self.labels, locality: &self.locality, cluster: Some(&self.cluster) }
    }
}

/// What compilation gives. Maps have an element only where something is configured.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Compiled {
    /// For services of the cluster and imported ones.
    pub services: BTreeMap<ServiceName, ServiceConfig>,
    /// Hosts that are added to the registry, whole.
    pub entries: BTreeMap<ServiceName, Service>,
    /// Names of those for DNS, with given or automatic addresses.
    pub hosts: BTreeMap<ServiceName, HostEntry>,
    /// For workloads, by `<namespace>/<pod>`.
    pub workloads: BTreeMap<String, WorkloadConfig>,
    /// TLS material that some configuration names, by `<namespace>/<name>`.
    pub secrets: BTreeMap<String, SharedSecret>,
    /// Endpoints whose sidecars accept no mTLS, by `<namespace>/<pod>`: ports of the pod (PeerAuthentication DISABLE).
    pub plain_ports: BTreeMap<String, BTreeSet<u16>>,
    /// What was found on the way, sorted.
    pub findings: Vec<Finding>,
}

/// A Secret and the workloads (`<namespace>/<pod>`) that may have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedSecret {
    /// The material.
    pub secret: Arc<Secret>,
    /// Whose configuration names it.
    pub readers: BTreeSet<String>,
}

/// Compiles the configuration of a cluster. Total, and independent of the order of the manifests.
pub fn compile(input: &Input<'_>) -> Compiled {
    let mut compiled = Compiled::default();
    let mesh_config = MeshConfig::read(input.manifests, &mut compiled.findings);
    traffic::compile(input, &mesh_config, &mut compiled);
    security::compile(input, &mesh_config, &mut compiled);
    gateways::compile(input, &mesh_config, &mut compiled);
    if !mesh_config.paths.is_default() {
        for key in input.local.workloads.keys() {
            compiled.workloads.entry(key.clone()).or_default().paths = mesh_config.paths;
        }
    }
    compiled.findings.sort();
    compiled.findings.dedup();
    compiled
}
