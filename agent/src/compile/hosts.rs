//! What DNS answers from.

use config::local::names::PodNames;
use mesh::{
    ClusterName, Group, HostEntry, HostPod, HostPort, ImportPod, LocalHost, PortTransport, Service, ServiceName,
    ServicePort,
};

use super::Inputs;
use crate::facts::pods;
use config::LocalService;

/// The names of a service; `None` if it has none.
pub(super) fn entry(inputs: &Inputs<'_>, service: &Service) -> Option<HostEntry> {
    let cluster = &inputs.mesh.cluster;
    let known = inputs.local.services.get(&service.name);
    let shared = service.export.is_some() || !service.imports.is_empty();
    let mut found = Vec::new();
    if shared && service.headless {
        found.extend(
            known.filter(|_| service.export.is_some()).map(|known| own_pods(known, cluster)).unwrap_or_default(),
        );
        found.extend(service.imports.iter().flat_map(|(cluster, import)| {
            import.pods.iter().map(|pod| HostPod {
                cluster: cluster.clone(),
                hostname: pod.hostname.clone(),
                addresses: pod.addresses.clone(),
                ports: Vec::new(),
            })
        }));
    }
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
        pods: found,
        local: known.map(|known| local(known, cluster)),
        global: service.global,
    })
}

/// The pods that another cluster exports, with the addresses that they have here.
pub(super) fn remote_pods(
    inputs: &Inputs<'_>,
    cluster: &ClusterName,
    service: &ServiceName,
    export: &api::trust::Export,
) -> Vec<ImportPod> {
    let pod = |pod: &api::trust::Pod| {
        let number = inputs.pods.get(&pods::key(cluster, service, &pod.name))?;
        let group = export.groups.get(usize::try_from(pod.group).ok()?)?;
        Some(ImportPod {
            name: pod.name.clone(),
            hostname: Some(pod.hostname.clone()).filter(|name| !name.is_empty()),
            addresses: pods::addresses(*number),
            group: Group::try_from(group).ok()?.key,
        })
    };
    export.pods.iter().filter_map(pod).collect()
}

fn local(known: &LocalService, cluster: &ClusterName) -> LocalHost {
    LocalHost {
        addresses: known.addresses.clone(),
        ports: known.names.ports.clone(),
        headless: known.headless,
        external_name: known.names.external_name.clone(),
        pods: if known.headless { own_pods(known, cluster) } else { Vec::new() },
    }
}

fn own_pods(known: &LocalService, cluster: &ClusterName) -> Vec<HostPod> {
    let pod = |(_, pod): (&String, &PodNames)| HostPod {
        cluster: cluster.clone(),
        hostname: pod.hostname.clone(),
        addresses: pod.addresses.clone(),
        ports: pod.ports.clone(),
    };
    known.names.named().map(pod).collect()
}

fn port(port: &ServicePort) -> HostPort {
    let transport = if port.protocol.is_udp() { PortTransport::Udp } else { PortTransport::Tcp };
    HostPort { name: port.name.clone(), number: port.number, transport }
}
