//! Endpoints of a ServiceEntry: written down, or selected among WorkloadEntries and pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use federation_crds::Manifest;
use federation_crds::istio::ServiceEntry;
use federation_crds::istio::service_entry::{EntryPort, Location, Resolution};
use federation_crds::istio::workload_entry::WorkloadEntrySpec;
use mesh::{Endpoint, Labels, NamedEndpoint};

use crate::analyze::codes;
use crate::compile::Input;
use crate::local::workload_entries::{identity, weight};
use crate::traffic::objects::{Notes, Object, in_order};

/// Endpoints with an address, and those with a name.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) hosts: Vec<NamedEndpoint>,
}

/// What endpoints are looked for in.
pub(super) struct Candidates<'a> {
    pub(super) input: &'a Input<'a>,
    pub(super) object: &'a Object,
    pub(super) entry: &'a ServiceEntry,
}

impl Candidates<'_> {
    pub(super) fn collect(&self, notes: &mut Notes<'_>) -> Found {
        let mut found = Found::default();
        let spec = &self.entry.spec;
        if spec.resolution == Resolution::None {
            if spec.workload_selector.is_some() {
                let hint = "use resolution: STATIC";
                let message = "has no effect with resolution NONE";
                notes.add(codes::WITHOUT_EFFECT, "spec.workloadSelector", message, hint);
            }
            return found;
        }
        for (index, endpoint) in spec.endpoints.iter().enumerate() {
            let (name, path) = (format!("{}-{index}", self.object.reference.name), format!("spec.endpoints[{index}]"));
            note_network(endpoint, &path, notes);
            self.add(&name, endpoint, &path, &mut found, notes);
        }
        if let Some(selector) = &spec.workload_selector {
            self.selected(&selector.labels, &mut found, notes);
        }
        found
    }

    fn add(&self, name: &str, endpoint: &WorkloadEntrySpec, path: &str, found: &mut Found, notes: &mut Notes<'_>) {
        let spec = &self.entry.spec;
        match endpoint.address.parse::<IpAddr>() {
            Ok(address) => found.endpoints.push(Endpoint {
                name: name.to_owned(),
                address,
                ports: ports(&spec.ports, &endpoint.ports),
                identity: (spec.location == Location::MeshInternal)
                    .then(|| identity(endpoint, &self.object.namespace, &self.input.mesh.trust_domain))
                    .flatten(),
                labels: endpoint.labels.clone(),
                locality: endpoint.locality.clone(),
                ready: true,
                other_addresses: Vec::new(),
                plain_ports: BTreeSet::new(),
                stand_in: None,
                weight: weight(endpoint),
            }),
            Err(_) if endpoint.address.starts_with("unix://") || endpoint.address.is_empty() => {
                let hint = "write an IP address, or a host name with resolution: DNS";
                notes.add(codes::WITHOUT_EFFECT, format!("{path}.address"), "is no address that can be dialled", hint);
            }
            Err(_) => {
                let mut host = named(endpoint.address.to_ascii_lowercase(), &spec.ports, &endpoint.ports);
                host.labels = endpoint.labels.clone();
                host.locality = endpoint.locality.clone();
                host.weight = weight(endpoint);
                found.hosts.push(host);
            }
        }
    }

    /// WorkloadEntries and pods of the namespace that have the labels.
    fn selected(&self, selector: &Labels, found: &mut Found, notes: &mut Notes<'_>) {
        let fits = |labels: &Labels| selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        let entries = in_order(self.input.manifests, |manifest| match manifest {
            Manifest::WorkloadEntry(object) => Some(object.as_ref()),
            _ => None,
        });
        for (object, entry) in entries {
            if object.namespace == self.object.namespace && fits(&entry.spec.labels) {
                self.add(&object.reference.name, &entry.spec, "spec.workloadSelector", found, notes);
            }
        }
        let services = self.input.local.services.iter();
        let pods = services.filter(|(name, _)| *name.namespace() == self.object.namespace);
        for pod in pods.flat_map(|(_, service)| &service.endpoints).filter(|pod| fits(&pod.labels)) {
            if found.endpoints.iter().any(|known| known.address == pod.address) {
                continue;
            }
            let external = self.entry.spec.location == Location::MeshExternal;
            found.endpoints.push(Endpoint {
                ports: ports(&self.entry.spec.ports, &BTreeMap::new()),
                identity: pod.identity.clone().filter(|_| !external),
                ..pod.clone()
            });
        }
    }
}

/// Endpoints of another network are dialled like any other.
pub(super) fn note_network(endpoint: &WorkloadEntrySpec, path: &str, notes: &mut Notes<'_>) {
    if !endpoint.network.is_empty() {
        let hint = "export a Service of the other cluster instead; its gateways are found by themselves";
        notes.add(codes::WITHOUT_EFFECT, format!("{path}.network"), "networks are not told apart here", hint);
    }
}

/// Port of the entry → port of the endpoint: its own by name, else `targetPort`, else the same.
fn ports(ports: &[EntryPort], own: &BTreeMap<String, i64>) -> BTreeMap<u16, u16> {
    let target = |port: &EntryPort| {
        let same = if port.target_port > 0 { port.target_port } else { port.number };
        let target = own.get(&port.name).copied().unwrap_or(same);
        Some((u16::try_from(port.number).ok()?, u16::try_from(target).ok()?))
    };
    ports.iter().filter_map(target).collect()
}

/// An endpoint that is a host name.
pub(super) fn named(host: String, entry_ports: &[EntryPort], own: &BTreeMap<String, i64>) -> NamedEndpoint {
    NamedEndpoint { host, ports: ports(entry_ports, own), labels: Labels::new(), locality: String::new(), weight: 1 }
}
