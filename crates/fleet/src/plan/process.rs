//! The processes of a plan, in the order in which they start.

use std::net::{Ipv4Addr, SocketAddr};

use wan::WanSpec;

use crate::file::PortProtocol;
use crate::ground::Ground;
use crate::kube_proxy;
use crate::network::{self, Namespace, Place};

use super::{ClusterPlan, Plan, PodPlan, at, port};

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A hub node.
    Hub,
    /// A cluster's agent.
    Agent,
    /// An east-west gateway.
    Gateway,
    /// An ingress or egress gateway.
    Edge,
    /// A DNS shim.
    Dns,
    /// The proxy beside a workload.
    Sidecar,
    /// The application of a workload.
    App,
    /// The process that holds a namespace, as a pod's pause container does.
    Pause,
    /// An emulated link between two networks.
    Wan,
    /// What leads pods without a sidecar to what is behind the addresses of services.
    KubeProxy,
}

impl Kind {
    /// The executable of components; applications have their own command or run in `hubctl`.
    pub fn binary(self) -> &'static str {
        match self {
            Self::Hub => "isthmus-hub",
            Self::Agent => "isthmus-agent",
            Self::Gateway | Self::Edge => "isthmus-gateway",
            Self::Dns => "isthmus-dns",
            Self::Sidecar => "isthmus-sidecar",
            Self::App | Self::KubeProxy => "hubctl",
            Self::Pause => "sleep",
            Self::Wan => "isthmus-wan",
        }
    }
}

/// How to see that a process serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ready {
    /// `GET /readyz` on this admin listener answers 200.
    Admin(SocketAddr),
    /// It has set its namespace up and only holds it.
    Holds,
    /// It answers on its control socket.
    Controls,
    /// It listens on all of these ports of its namespace. A connection would not tell: the sidecar accepts it in any case.
    Listens(Vec<u16>),
    /// All of these accept a TCP connection.
    Accepts(Vec<SocketAddr>),
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessPlan {
    /// `hub-1`, `east/agent`, `east/gateway-1`, `east/istio-ingressgateway`, `east/dns`, `east/web-1/sidecar`, `east/web-1/app`.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its cluster; `None` for hub nodes.
    pub cluster: Option<String>,
    /// The namespace that it runs in or, if it is a pause, holds; `None` on loopback.
    pub namespace: Option<String>,
    /// Its main listener, for tables.
    pub address: SocketAddr,
    /// How to see that it serves.
    pub ready: Ready,
}

impl Plan {
    /// Every process: those that hold namespaces first, then the hub, applications last.
    pub fn processes(&self) -> Vec<ProcessPlan> {
        let hub = self.hub.iter().map(|node| ProcessPlan {
            name: format!("hub-{}", node.id),
            kind: Kind::Hub,
            cluster: None,
            namespace: None,
            address: at(node.ip, port::HUB_API),
            ready: Ready::Admin(at(node.ip, port::ADMIN)),
        });
        let mut processes: Vec<_> = hub.chain(self.clusters.iter().flat_map(cluster)).collect();
        if self.ground == Ground::Netns {
            for process in &mut processes {
                process.namespace = Some(network::namespace_of(&process.name).to_owned());
                if let Ready::Accepts(listeners) = &process.ready {
                    process.ready = Ready::Listens(listeners.iter().map(SocketAddr::port).collect());
                }
            }
            let pauses = network::namespaces(self).into_iter().map(|namespace| pause(self, &namespace));
            processes.splice(0..0, pauses.chain(self.wan.iter().map(wan)));
            processes.extend(self.clusters.iter().filter_map(kube_proxy));
        }
        processes
    }

    /// One process by name.
    pub fn process(&self, name: &str) -> Option<ProcessPlan> {
        self.processes().into_iter().find(|process| process.name == name)
    }
}

fn pause(plan: &Plan, namespace: &Namespace) -> ProcessPlan {
    let address = match namespace.place {
        Place::Member(address) => address,
        Place::Node => network::NODE_ADDRESS,
        Place::Fabric(k) => network::fabric_address(plan, k),
    };
    ProcessPlan {
        name: namespace.pause(),
        kind: Kind::Pause,
        cluster: None,
        namespace: Some(namespace.name.clone()),
        address: at(address, 0),
        ready: Ready::Holds,
    }
}

fn wan(link: &WanSpec) -> ProcessPlan {
    ProcessPlan {
        name: network::wan_name(link),
        kind: Kind::Wan,
        cluster: None,
        // It makes devices in two namespaces from any third one of the same user namespace.
        namespace: Some(network::NODE.to_owned()),
        address: at(Ipv4Addr::UNSPECIFIED, 0),
        ready: Ready::Controls,
    }
}

/// One for each cluster that has pods without a sidecar.
fn kube_proxy(cluster: &ClusterPlan) -> Option<ProcessPlan> {
    cluster.pods.iter().any(|pod| !pod.mesh).then(|| ProcessPlan {
        name: kube_proxy::process_name(cluster),
        kind: Kind::KubeProxy,
        cluster: Some(cluster.name.to_string()),
        // It enters the pods from there.
        namespace: Some(network::NODE.to_owned()),
        address: at(Ipv4Addr::UNSPECIFIED, 0),
        ready: Ready::Controls,
    })
}

fn cluster(cluster: &ClusterPlan) -> Vec<ProcessPlan> {
    let component = |name: &str, kind, ip, main| ProcessPlan {
        name: format!("{}/{name}", cluster.name),
        kind,
        cluster: Some(cluster.name.to_string()),
        namespace: None,
        address: at(ip, main),
        ready: Ready::Admin(at(ip, port::ADMIN)),
    };
    let mut processes = vec![component("agent", Kind::Agent, cluster.agent, port::DISCOVERY)];
    let gateways = cluster.gateways.iter();
    processes.extend(gateways.map(|gateway| component(&gateway.name, Kind::Gateway, gateway.ip, port::QUIC)));
    processes.extend(cluster.edges.iter().map(|edge| {
        // Where clients dial: the first port behind its Service.
        let main = edge.ports.first().map_or(port::HBONE, |port| port.target);
        component(&edge.name, Kind::Edge, edge.ip, main)
    }));
    processes.push(component("dns", Kind::Dns, cluster.dns, cluster.dns_port));
    let meshed = cluster.pods.iter().filter(|pod| pod.mesh);
    processes
        .extend(meshed.map(|pod| component(&format!("{}/sidecar", pod.name), Kind::Sidecar, pod.ip, pod.proxy_port)));
    processes.extend(cluster.pods.iter().filter_map(|pod| app(cluster, pod)));
    processes
}

/// A pod without ports and command is only a sidecar: somewhere to send requests from.
fn app(cluster: &ClusterPlan, pod: &PodPlan) -> Option<ProcessPlan> {
    if pod.ports.is_empty() && pod.command.is_none() {
        return None;
    }
    // Whether anybody takes datagrams cannot be seen from outside.
    let accepting = pod.ports.iter().filter(|port| port.protocol != PortProtocol::Udp);
    let listeners: Vec<_> = accepting.map(|port| at(pod.ip, port.app)).collect();
    Some(ProcessPlan {
        name: format!("{}/{}/app", cluster.name, pod.name),
        kind: Kind::App,
        cluster: Some(cluster.name.to_string()),
        namespace: None,
        address: listeners.first().copied().unwrap_or(at(pod.ip, 0)),
        ready: Ready::Accepts(listeners),
    })
}
