//! What hosts mean: the services and hosts that exist, and short names resolved as Istio resolves them.

use std::collections::BTreeSet;

use federation_crds::Manifest;
use mesh::{Host, HostPattern, Namespace, ServiceName};

use crate::compile::Input;

const CLUSTER_SUFFIX: &str = ".svc.cluster.local";
const CLUSTERSET_SUFFIX: &str = ".svc.clusterset.local";

/// The hosts that exist.
pub(super) struct Registry {
    /// Services of the cluster and imported ones.
    pub(super) services: BTreeSet<ServiceName>,
    /// Hosts of ServiceEntries, lower case.
    entries: BTreeSet<String>,
}

impl Registry {
    pub(super) fn new(input: &Input<'_>) -> Self {
        let services = input.local.services.keys().chain(input.imported.keys()).cloned().collect();
        let entries = input.manifests.iter().filter_map(|manifest| match manifest {
            Manifest::ServiceEntry(entry) => Some(&entry.spec.hosts),
            _ => None,
        });
        Self { services, entries: entries.flatten().map(|host| normal(host)).collect() }
    }

    /// The full name of a host that an object in `namespace` names. Without a dot it is a service beside the object; with
    /// one it stands for itself, as in Istio, unless it is `<service>.<namespace>` of a service that exists.
    pub(super) fn full_name(&self, host: &str, namespace: &Namespace) -> String {
        let host = normal(host);
        if host == "*" || host.parse::<std::net::IpAddr>().is_ok() || self.entries.contains(&host) {
            return host;
        }
        let labels: Vec<&str> = host.split('.').collect();
        match labels.as_slice() {
            [name] => format!("{name}.{namespace}{CLUSTER_SUFFIX}"),
            [name, other, "svc"] => format!("{name}.{other}{CLUSTER_SUFFIX}"),
            [name, other] if self.is_service(name, other) => format!("{name}.{other}{CLUSTER_SUFFIX}"),
            _ => host,
        }
    }

    /// What a destination is.
    pub(super) fn host(&self, host: &str, namespace: &Namespace) -> Host {
        let name = self.full_name(host, namespace);
        match (cluster_service(&name), clusterset_service(&name)) {
            // A ServiceEntry may have a name of the cluster's zone, if no Service has it.
            (Some(service), _) if self.services.contains(&service) || !self.entries.contains(&name) => {
                Host::Cluster(service)
            }
            (_, Some(service)) => Host::Clusterset(service),
            _ => Host::External(name),
        }
    }

    fn is_service(&self, name: &str, namespace: &str) -> bool {
        service(name, namespace).is_some_and(|service| self.services.contains(&service))
    }
}

/// The service whose `….svc.cluster.local` this is.
pub(super) fn cluster_service(host: &str) -> Option<ServiceName> {
    let (name, namespace) = host.strip_suffix(CLUSTER_SUFFIX)?.split_once('.')?;
    service(name, namespace)
}

/// The service whose `….svc.clusterset.local` this is.
pub(super) fn clusterset_service(host: &str) -> Option<ServiceName> {
    let (name, namespace) = host.strip_suffix(CLUSTERSET_SUFFIX)?.split_once('.')?;
    service(name, namespace)
}

/// `….svc.cluster.local` of a service.
pub(super) fn cluster_host(service: &ServiceName) -> String {
    format!("{}.{}{CLUSTER_SUFFIX}", service.name(), service.namespace())
}

/// Whether a pattern is about a host, which may itself be a wildcard: then about all that it covers.
pub(super) fn covers(pattern: &HostPattern, host: &str) -> bool {
    pattern.as_str() == host || pattern.matches(host)
}

fn service(name: &str, namespace: &str) -> Option<ServiceName> {
    ServiceName::new(Namespace::new(namespace).ok()?, name).ok()
}

fn normal(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}
