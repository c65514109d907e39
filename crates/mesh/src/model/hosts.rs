//! What DNS answers from.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Serialize;

use crate::names::{ClusterName, ServiceName, SpiffeId};

/// A name that the DNS shim knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostEntry {
    /// The service, or the host of an entry.
    pub name: ServiceName,
    /// What an entry's host and a clusterset name that is not headless answer.
    pub addresses: Vec<IpAddr>,
    /// The ports of the clusterset name.
    pub ports: Vec<HostPort>,
    /// Exported or imported: has a clusterset name.
    pub clusterset: bool,
    /// The clusterset name leads to single pods.
    pub headless: bool,
    /// Ready pods behind a headless clusterset name, those of the own cluster too.
    pub pods: Vec<HostPod>,
    /// The own cluster's Service.
    pub local: Option<LocalHost>,
    /// Label `isthmus.dev/global: "true"`.
    pub global: bool,
}

impl HostEntry {
    /// The host of an entry: nothing but addresses.
    pub fn of_entry(name: ServiceName, addresses: Vec<IpAddr>) -> Self {
        let (ports, pods) = (Vec::new(), Vec::new());
        Self { name, addresses, ports, clusterset: false, headless: false, pods, local: None, global: false }
    }
}

/// What `cluster.local` says of a Service of the own cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct LocalHost {
    /// Its cluster IPs.
    pub addresses: Vec<IpAddr>,
    /// Its ports, those that the mesh does not carry too.
    pub ports: Vec<HostPort>,
    /// `clusterIP: None`.
    pub headless: bool,
    /// Set for type ExternalName.
    pub external_name: Option<String>,
    /// Ready pods of a headless Service.
    pub pods: Vec<HostPod>,
}

/// A port as DNS knows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct HostPort {
    /// Its name; empty if it has none.
    pub name: String,
    /// Its number.
    pub number: u16,
    /// What it is reached by.
    pub transport: PortTransport,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PortTransport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl PortTransport {
    const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// As it stands in a name.
    pub fn label(self) -> &'static str {
        match self {
            Self::Tcp => "_tcp",
            Self::Udp => "_udp",
            Self::Sctp => "_sctp",
        }
    }

    /// Reads the label of a name.
    pub fn of_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|transport| transport.label() == label)
    }

    /// As Kubernetes writes it; absent means TCP.
    pub fn of_kubernetes(protocol: Option<&str>) -> Option<Self> {
        let protocol = protocol.unwrap_or("TCP");
        Self::ALL.into_iter().find(|transport| transport.label()[1..].eq_ignore_ascii_case(protocol))
    }
}

/// A pod of a headless service, as DNS knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostPod {
    /// Where it runs.
    pub cluster: ClusterName,
    /// What its name begins with; `None`: its address does.
    pub hostname: Option<String>,
    /// Where it is reached: its own addresses, or those that the mesh gave a pod of another cluster.
    pub addresses: Vec<IpAddr>,
    /// Its ports, where they differ from the service's.
    pub ports: Vec<HostPort>,
}

impl HostPod {
    /// The number of the pod's port of the same name and protocol, else the service's.
    pub fn number_of(&self, port: &HostPort) -> u16 {
        let same = |own: &&HostPort| own.name == port.name && own.transport == port.transport;
        self.ports.iter().find(same).map_or(port.number, |own| own.number)
    }
}

/// Who has an address of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AddressEntry {
    /// The address.
    pub address: IpAddr,
    /// The services that have it, or of which the pod is an endpoint.
    pub services: BTreeSet<ServiceName>,
    /// The pod that has it.
    pub pod: Option<Pod>,
}

/// A pod, as its address tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// The identity that its sidecar proves; `None` when it has no sidecar.
    pub identity: Option<SpiffeId>,
}
