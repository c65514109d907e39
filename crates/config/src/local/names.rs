//! What only DNS needs to know of a Service: ports of every protocol, hostnames, both families of a pod.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::ServiceSpec;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort};
use mesh::{HostPort, PortTransport};

/// The names of one Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The host that a Service of type ExternalName stands for.
    pub external_name: Option<String>,
    /// Its ports, those that the mesh does not carry too.
    pub ports: Vec<HostPort>,
    /// Its pods by name.
    pub pods: BTreeMap<String, PodNames>,
    /// `publishNotReadyAddresses`: pods have names before they are ready.
    pub not_ready_too: bool,
}

/// The names of one pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodNames {
    /// The `hostname` of its endpoint, if it is a DNS label.
    pub hostname: Option<String>,
    /// Its addresses of both families.
    pub addresses: Vec<IpAddr>,
    /// Its own ports.
    pub ports: Vec<HostPort>,
    /// Whether it is ready.
    pub ready: bool,
}

impl Names {
    /// What a Service says of itself.
    pub(super) fn of(spec: &ServiceSpec) -> Self {
        let port = |port: &k8s_openapi::api::core::v1::ServicePort| {
            host_port(port.name.as_deref(), port.port, port.protocol.as_deref())
        };
        let external = spec.type_.as_deref() == Some("ExternalName");
        Self {
            external_name: spec.external_name.clone().filter(|_| external),
            ports: spec.ports.iter().flatten().filter_map(port).collect(),
            pods: BTreeMap::new(),
            not_ready_too: spec.publish_not_ready_addresses == Some(true),
        }
    }

    /// Adds what one slice says of a pod: slices are of one family, and may list different ports.
    pub(super) fn add(&mut self, pod: &str, endpoint: &Endpoint, ports: &[EndpointPort]) {
        let names = self.pods.entry(pod.to_owned()).or_default();
        let is_label = |name: &&String| mesh::Namespace::new(name.as_str()).is_ok();
        let hostname = endpoint.hostname.as_ref().filter(is_label).cloned();
        names.hostname = names.hostname.take().or(hostname);
        names.ready |= endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
        names.addresses.extend(endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok()));
        let ports =
            ports.iter().filter_map(|port| host_port(port.name.as_deref(), port.port?, port.protocol.as_deref()));
        names.ports.extend(ports);
        names.addresses.sort();
        names.addresses.dedup();
        names.ports.sort();
        names.ports.dedup();
    }

    /// The pods that have names now.
    pub fn named(&self) -> impl Iterator<Item = (&String, &PodNames)> {
        self.pods.iter().filter(|(_, pod)| pod.ready || self.not_ready_too)
    }
}

fn host_port(name: Option<&str>, number: i32, protocol: Option<&str>) -> Option<HostPort> {
    let number = u16::try_from(number).ok().filter(|number| *number > 0)?;
    let transport = PortTransport::of_kubernetes(protocol)?;
    Some(HostPort { name: name.unwrap_or_default().to_owned(), number, transport })
}
