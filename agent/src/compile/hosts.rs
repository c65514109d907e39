//! What DNS answers from.

use config::local::names::PodNames;
use mesh::{ClusterName, HostEntry, HostPod, HostPort, LocalHost, PortTransport, Service, ServicePort};

use super::Inputs;
use config::LocalService;

/// The names of a service; `None` if it has none.
pub(super) fn entry(inputs: &Inputs<'_>, service: &Service) -> Option<HostEntry> {
    let cluster = &inputs.mesh.cluster;
    let known = inputs.local.services.get(&service.name);
    let shared = service.export.is_some() || !service.imports.is_empty();
    let pods = if shared && service.headless { known.map(|known| pods(known, cluster)) } else { None };
    // A shared service without an address yet has no clusterset name: an answer without addresses would be cached.
    let clusterset = shared && (service.headless || !service.clusterset_addresses.is_empty());
    if known.is_none() && !clusterset {
        return None;
    }
    Some(HostEntry {
        name: service.name.clone(),
        addresses: if service.headless { Vec::new() } else { service.clusterset_addresses.clone() },
        ports: service.ports.iter().map(port).collect(),
        clusterset,
        headless: service.headless,
        pods: pods.unwrap_or_default(),
        local: known.map(|known| local(known, cluster)),
        global: service.global,
    })
}

fn local(known: &LocalService, cluster: &ClusterName) -> LocalHost {
    LocalHost {
        addresses: known.addresses.clone(),
        ports: known.names.ports.clone(),
        headless: known.headless,
        external_name: known.names.external_name.clone(),
        pods: if known.headless { pods(known, cluster) } else { Vec::new() },
    }
}

fn pods(known: &LocalService, cluster: &ClusterName) -> Vec<HostPod> {
    let pod = |(_, pod): (&String, &PodNames)| HostPod {
        cluster: cluster.clone(),
        hostname: pod.hostname.clone(),
        addresses: pod.addresses.clone(),
        ports: pod.ports.clone(),
    };
    known.names.named().map(pod).collect()
}

fn port(port: &ServicePort) -> HostPort {
    HostPort { name: port.name.clone(), number: port.number, transport: PortTransport::Tcp }
}
