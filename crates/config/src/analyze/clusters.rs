//! What is wrong between clusters: exports that do not fit each other, and configuration that differs.

use std::collections::{BTreeMap, BTreeSet};

use federation_crds::{Manifest, ManifestKey};
use mesh::{ClusterName, Host, MeshInfo, Namespace, ObjectRef, ServiceName, ServicePort};

use super::codes;
use super::found::{Found, Said, object_ref};
use super::{analyze, registry};
use crate::compile::{Imported, ImportedGroup, Input};
use crate::finding::Finding;
use crate::local::{Local, LocalService};

/// One cluster of a mesh, as far as its manifests show it.
#[derive(Debug, Clone)]
pub struct ClusterManifests {
    /// Its place in the mesh.
    pub mesh: MeshInfo,
    /// Its objects.
    pub manifests: Vec<Manifest>,
    /// The services, endpoints and workloads among them.
    pub local: Local,
}

impl ClusterManifests {
    /// Reads what the cluster has.
    pub fn new(mesh: MeshInfo, manifests: Vec<Manifest>) -> Self {
        let local = crate::local::build(&manifests, &mesh.trust_domain);
        Self { mesh, manifests, local }
    }

    fn exported_to(&self, cluster: &ClusterName) -> impl Iterator<Item = (&ServiceName, &LocalService)> {
        self.local.services.iter().filter(move |(_, service)| {
            service
                .export
                .as_ref()
                .is_some_and(|export| export.to_clusters.is_empty() || export.to_clusters.contains(cluster))
        })
    }
}

/// The services that the others export to a cluster.
pub fn imports(clusters: &[ClusterManifests], to: &ClusterName) -> BTreeMap<ServiceName, Imported> {
    let mut all: BTreeMap<ServiceName, Imported> = BTreeMap::new();
    for other in clusters.iter().filter(|other| other.mesh.cluster != *to) {
        for (name, service) in other.exported_to(to) {
            let imported = all.entry(name.clone()).or_default();
            imported.ports.extend(service.ports.iter().map(|port| port.number));
            imported.groups.extend(service.endpoints.iter().map(|endpoint| ImportedGroup {
                cluster: other.mesh.cluster.clone(),
                labels: endpoint.labels.clone(),
                locality: endpoint.locality.clone(),
            }));
        }
    }
    all
}

/// Everything that is found about the clusters of a mesh: about each alone, and between them.
pub fn analyze_mesh(clusters: &[ClusterManifests]) -> BTreeMap<ClusterName, Vec<Finding>> {
    let mut between = between(clusters);
    let of = |cluster: &ClusterManifests| {
        let imported = imports(clusters, &cluster.mesh.cluster);
        let (manifests, local, mesh) = (&cluster.manifests, &cluster.local, &cluster.mesh);
        let mut findings = analyze(&Input { manifests, local, mesh, imported: &imported });
        findings.extend(between.remove(&cluster.mesh.cluster).unwrap_or_default());
        findings.sort();
        (cluster.mesh.cluster.clone(), findings)
    };
    clusters.iter().map(of).collect()
}

fn between(clusters: &[ClusterManifests]) -> BTreeMap<ClusterName, Vec<Finding>> {
    let mut found = BTreeMap::new();
    for (index, a) in clusters.iter().enumerate() {
        for b in &clusters[index + 1..] {
            for (one, other) in [(a, b), (b, a)] {
                let mut said = Found::default();
                exports(one, other, &mut said);
                differences(one, other, &mut said);
                found.entry(one.mesh.cluster.clone()).or_insert_with(Vec::new).extend(said.0);
            }
        }
    }
    found
}

/// KEP-1645: of conflicting exports the oldest decides; clients may meet ports that only some clusters have.
fn exports(own: &ClusterManifests, other: &ClusterManifests, found: &mut Found) {
    for (name, service) in own.exported_to(&other.mesh.cluster) {
        let Some(theirs) = other.local.services.get(name).filter(|theirs| theirs.export.is_some()) else { continue };
        let differing = differing(&service.ports, &theirs.ports);
        if differing.is_empty() {
            continue;
        }
        let object = ObjectRef {
            kind: "ServiceExport".to_owned(),
            namespace: name.namespace().to_string(),
            name: name.name().to_owned(),
        };
        let message = format!("{} exports {name} too, and they differ: {}", other.mesh.cluster, differing.join("; "));
        let hint = "give the Services the same ports and protocols; the oldest export decides";
        found.note(object, codes::INCONSISTENT_ACROSS_CLUSTERS, Said { path: "", message, hint });
    }
}

fn differing(own: &[ServicePort], theirs: &[ServicePort]) -> Vec<String> {
    let by_number = |ports: &[ServicePort]| -> BTreeMap<u16, ServicePort> {
        ports.iter().map(|port| (port.number, port.clone())).collect()
    };
    let (own, theirs) = (by_number(own), by_number(theirs));
    let numbers: BTreeSet<u16> = own.keys().chain(theirs.keys()).copied().collect();
    let told = |number: &u16| match (own.get(number), theirs.get(number)) {
        (Some(a), Some(b)) if a.protocol != b.protocol => {
            Some(format!("port {number} is {} here and {} there", a.protocol.as_str(), b.protocol.as_str()))
        }
        (Some(_), None) => Some(format!("port {number} is only here")),
        (None, Some(_)) => Some(format!("port {number} is only there")),
        _ => None,
    };
    numbers.iter().filter_map(told).collect()
}

/// Configuration is each cluster's own. Two objects of one name that differ about a shared service are often a slip.
fn differences(own: &ClusterManifests, other: &ClusterManifests, found: &mut Found) {
    let theirs: BTreeMap<ManifestKey, &Manifest> =
        other.manifests.iter().map(|manifest| (manifest.key(), manifest)).collect();
    for manifest in &own.manifests {
        let key = manifest.key();
        let Some(namesake) = theirs.get(&key) else { continue };
        let (path, differs) = match (manifest, namesake) {
            (Manifest::VirtualService(a), Manifest::VirtualService(b)) => ("spec", a.spec != b.spec),
            (Manifest::DestinationRule(a), Manifest::DestinationRule(b)) => ("spec", a.spec != b.spec),
            _ => continue,
        };
        let Some(service) = shared(manifest, own, other).filter(|_| differs) else { continue };
        let message = format!("{} has another one of that name, and both clusters use {service}", other.mesh.cluster);
        let hint = "apply the same object to both clusters, if clients are to be treated alike";
        found.note(object_ref(&key), codes::DIFFERENT_ACROSS_CLUSTERS, Said { path, message, hint });
    }
}

/// The service of an object's hosts that one of the clusters exports to the other.
fn shared(manifest: &Manifest, own: &ClusterManifests, other: &ClusterManifests) -> Option<ServiceName> {
    let namespace = manifest.key().namespace;
    let hosts: Vec<&String> = match manifest {
        Manifest::VirtualService(object) => object.spec.hosts.iter().collect(),
        Manifest::DestinationRule(object) => vec![&object.spec.host],
        _ => return None,
    };
    let named = hosts.into_iter().filter_map(|host| {
        let parsed = Host::parse(&registry::qualified(host, &namespace), &Namespace::new(namespace.as_str()).ok()?);
        parsed.service().cloned()
    });
    let exported = |name: &ServiceName| {
        own.exported_to(&other.mesh.cluster)
            .chain(other.exported_to(&own.mesh.cluster))
            .any(|(exported, _)| exported == name)
    };
    named.into_iter().find(exported)
}
