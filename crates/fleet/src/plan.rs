//! The plan of a fleet: every process, its address and its ports, computed from the fleet file and nothing else.
//!
//! Addresses in `127.<block>.0.0/16`: hub node *i* is `.0.i`; in cluster *k* (from 1) `.k.1` is the agent, `.k.2` to `.k.8`
//! the east-west gateways, `.k.9` the DNS shim, `.k.10` to `.k.19` ingress and egress gateways, and pods follow from
//! `.k.20`. On the ground `netns` the same in `10.<block>.0.0/16`, and IPv6 beside it ([`crate::network`]).

mod process;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use mesh::{ClusterName, MeshId, Namespace, TrustDomain};
use serde::{Deserialize, Serialize};
use wan::WanSpec;

use crate::file::{ClusterSpec, EdgePort, EdgeRole, EdgeSpec, Export, FleetFile, PortProtocol, PortSpec, WorkloadSpec};
use crate::ground::Ground;
use crate::network;

pub use process::{Kind, ProcessPlan, Ready};

/// Well-known listeners; see the port table in ARCHITECTURE.md.
pub mod port {
    /// Admin of every component.
    pub const ADMIN: u16 = 15020;
    /// The hub's API.
    pub const HUB_API: u16 = 7443;
    /// The hub's join listener.
    pub const HUB_JOIN: u16 = 7444;
    /// The agent's discovery.
    pub const DISCOVERY: u16 = 15010;
    /// The agent's certificate authority.
    pub const CA: u16 = 15012;
    /// HBONE of gateways and sidecars.
    pub const HBONE: u16 = 15008;
    /// QUIC of gateways.
    pub const QUIC: u16 = 15443;
    /// The sidecar's explicit proxy.
    pub const OUTBOUND: u16 = 15001;
    /// The same where connections are captured: 15001 is where captured ones arrive.
    pub const EXPLICIT: u16 = 15002;
    /// The DNS shim, where it needs no privileges.
    pub const DNS: u16 = 15053;
    /// The DNS shim in a namespace of its own: where every resolver asks.
    pub const DNS_STANDARD: u16 = 53;
    /// First port of applications behind a sidecar.
    pub const APP: u16 = 30000;
}

/// A whole fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The fleet's name.
    pub name: String,
    /// The mesh id.
    pub mesh: MeshId,
    /// What the fleet stands on.
    #[serde(default)]
    pub ground: Ground,
    /// The second octet of all addresses.
    pub block: u8,
    /// The hub's voters.
    pub hub: Vec<HubNode>,
    /// The clusters.
    pub clusters: Vec<ClusterPlan>,
    /// Emulated links between networks.
    #[serde(default)]
    pub wan: Vec<WanSpec>,
}

/// One hub node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubNode {
    /// Raft id, from 1.
    pub id: u64,
    /// Its address.
    pub ip: Ipv4Addr,
}

/// One cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterPlan {
    /// Its name.
    pub name: ClusterName,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// The agent's address.
    pub agent: Ipv4Addr,
    /// The gateways.
    pub gateways: Vec<GatewayPlan>,
    /// The ingress and egress gateways.
    #[serde(default)]
    pub edges: Vec<EdgePlan>,
    /// The DNS shim's address.
    pub dns: Ipv4Addr,
    /// Its port.
    pub dns_port: u16,
    /// Every pod of every workload.
    pub pods: Vec<PodPlan>,
    /// Every Service, by namespace and name.
    pub services: Vec<ServicePlan>,
}

/// One gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayPlan {
    /// `gateway-1`, …
    pub name: String,
    /// Its address.
    pub ip: Ipv4Addr,
}

/// One ingress or egress gateway, in the namespace [`EDGE_NAMESPACE`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgePlan {
    /// Its name; also its Service's.
    pub name: String,
    /// What it is for.
    pub role: EdgeRole,
    /// Service account.
    pub service_account: String,
    /// Labels, which Gateways select.
    pub labels: BTreeMap<String, String>,
    /// Its address.
    pub ip: Ipv4Addr,
    /// The ports of its Service and where they lead.
    pub ports: Vec<EdgePort>,
    /// Its Service's cluster IPs, one of each family; none on loopback.
    #[serde(default)]
    pub cluster_ips: Vec<IpAddr>,
}

/// Where Istio has its gateways.
pub const EDGE_NAMESPACE: &str = "istio-system";

/// One pod: an application and, in the mesh, a sidecar on the same address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodPlan {
    /// `<workload>-<n>`.
    pub name: String,
    /// The workload that it belongs to.
    pub workload: String,
    /// Kubernetes namespace.
    pub namespace: Namespace,
    /// Service account.
    pub service_account: String,
    /// Pod labels.
    pub labels: BTreeMap<String, String>,
    /// Pod annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// `region/zone/subzone`; empty if it is nowhere in particular.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub locality: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Whether a sidecar stands beside it.
    pub mesh: bool,
    /// The port of the sidecar's explicit proxy.
    pub proxy_port: u16,
    /// Its ports.
    pub ports: Vec<PodPort>,
    /// The application; `None` is the echo server.
    pub command: Option<Vec<String>>,
}

/// One port of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodPort {
    /// Its name.
    pub name: String,
    /// The port that peers dial; the sidecar owns it.
    pub number: u16,
    /// The port on which the application listens: the same one outside the mesh.
    pub app: u16,
    /// What is spoken.
    pub protocol: PortProtocol,
}

/// One Service in front of pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePlan {
    /// Kubernetes namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: String,
    /// Its ports.
    pub ports: Vec<PortSpec>,
    /// Names of the pods behind it.
    pub pods: Vec<String>,
    /// Its cluster IPs, one of each family; none on loopback.
    #[serde(default)]
    pub cluster_ips: Vec<IpAddr>,
    /// Who may use it elsewhere.
    pub export: Export,
}

impl Plan {
    /// Plans a validated fleet into a block of addresses.
    pub fn new(file: &FleetFile, block: u8) -> Self {
        let ground = file.ground;
        let node = |id| HubNode { id, ip: address(ground, block, 0, id) };
        Self {
            name: file.name.clone(),
            mesh: file.mesh.clone(),
            ground,
            block,
            hub: (1..=file.hub_nodes).map(node).collect(),
            clusters: (1..).zip(&file.clusters).map(|(k, spec)| cluster(file, block, k, spec)).collect(),
            wan: file.wan.clone(),
        }
    }

    /// A cluster by name.
    pub fn cluster(&self, name: &str) -> Option<&ClusterPlan> {
        self.clusters.iter().find(|cluster| cluster.name.as_str() == name)
    }

    /// A pod by `<cluster>/<pod>` or, its first one, by `<cluster>/<workload>`.
    pub fn pod(&self, reference: &str) -> Option<(&ClusterPlan, &PodPlan)> {
        let (cluster, name) = reference.split_once('/')?;
        let cluster = self.cluster(cluster)?;
        let exact = cluster.pods.iter().find(|pod| pod.name == name);
        let pod = exact.or_else(|| cluster.pods.iter().find(|pod| pod.workload == name))?;
        Some((cluster, pod))
    }

    /// API addresses of all hub nodes.
    pub fn hub_api(&self) -> Vec<String> {
        self.hub.iter().map(|node| format!("{}:{}", node.ip, port::HUB_API)).collect()
    }

    /// Join addresses of all hub nodes.
    pub fn hub_join(&self) -> Vec<String> {
        self.hub.iter().map(|node| format!("{}:{}", node.ip, port::HUB_JOIN)).collect()
    }
}

impl ClusterPlan {
    /// Where the cluster's DNS shim listens.
    pub fn resolver(&self) -> SocketAddr {
        at(self.dns, self.dns_port)
    }
}

impl PodPlan {
    /// The sidecar's explicit proxy.
    pub fn proxy(&self) -> SocketAddr {
        at(self.ip, self.proxy_port)
    }

    /// The sidecar's admin listener.
    pub fn admin(&self) -> SocketAddr {
        at(self.ip, port::ADMIN)
    }

    /// What an application is told about itself, and its `PORT_<NAME>` variables.
    pub fn environment(&self, cluster: &ClusterName) -> Vec<(String, String)> {
        let version = self.labels.get("version").cloned().unwrap_or_default();
        let mut environment: Vec<(String, String)> = [
            ("HOST", self.ip.to_string()),
            ("POD", self.name.clone()),
            ("CLUSTER", cluster.to_string()),
            ("NAMESPACE", self.namespace.to_string()),
            ("SERVICE_ACCOUNT", self.service_account.clone()),
            ("VERSION", version),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        environment.extend(self.ports.first().map(|port| ("PORT".to_owned(), port.app.to_string())));
        environment.extend(self.ports.iter().map(|port| {
            let name = port.name.replace('-', "_").to_uppercase();
            (format!("PORT_{name}"), port.app.to_string())
        }));
        // The name as the fleet file spells it works too.
        environment.extend(self.ports.iter().map(|port| (format!("PORT_{}", port.name), port.app.to_string())));
        environment
    }
}

/// A socket address on one of the fleet's addresses.
pub fn at(ip: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(ip, port))
}

/// Validation bounds every count; a number beyond them saturates instead of wrapping onto another node.
fn octet(number: u64) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

/// On loopback everyone shares one stack; in namespaces the addresses are private ones.
fn address(ground: Ground, block: u8, k: u64, last: u64) -> Ipv4Addr {
    let first = match ground {
        Ground::Loopback => 127,
        Ground::Netns => 10,
    };
    Ipv4Addr::new(first, block, octet(k), octet(last))
}

fn cluster(file: &FleetFile, block: u8, k: u64, spec: &ClusterSpec) -> ClusterPlan {
    let ip = |last: u64| address(file.ground, block, k, last);
    let gateway = |n| GatewayPlan { name: format!("gateway-{n}"), ip: ip(n + 1) };
    let replicas = spec.workloads.iter().flat_map(|workload| (1..=workload.replicas).map(move |n| (workload, n)));
    let mut plan = ClusterPlan {
        name: spec.name.clone(),
        trust_domain: TrustDomain::of_cluster(&spec.name, &file.mesh),
        agent: ip(1),
        gateways: (1..=spec.gateways).map(gateway).collect(),
        edges: (10..).zip(&spec.edges).map(|(last, spec)| edge(spec, ip(last))).collect(),
        dns: ip(9),
        dns_port: match file.ground {
            Ground::Loopback => port::DNS,
            Ground::Netns => port::DNS_STANDARD,
        },
        pods: (20..).zip(replicas).map(|(last, (workload, n))| pod(file.ground, workload, n, ip(last))).collect(),
        services: services(spec),
    };
    if file.ground == Ground::Netns {
        give_cluster_ips(&mut plan, k);
    }
    plan
}

/// Cluster IPs are routed nowhere: `10.250.<k>.0/24` and `fd69:250:<k>::/64`, which are no fleet's block.
fn give_cluster_ips(plan: &mut ClusterPlan, k: u64) {
    let services = plan.services.iter_mut().map(|service| &mut service.cluster_ips);
    let all = services.chain(plan.edges.iter_mut().map(|edge| &mut edge.cluster_ips));
    for (last, cluster_ips) in (1..).zip(all) {
        let address = Ipv4Addr::new(10, SERVICES, octet(k), octet(last));
        *cluster_ips = vec![address.into(), network::ipv6(address).into()];
    }
}

/// The second octet of cluster IPs.
const SERVICES: u8 = 250;

fn edge(spec: &EdgeSpec, ip: Ipv4Addr) -> EdgePlan {
    EdgePlan {
        name: spec.name.clone(),
        role: spec.role,
        // As Istio's charts call it.
        service_account: format!("{}-service-account", spec.name),
        labels: spec.labels.clone(),
        ip,
        ports: spec.ports.clone(),
        cluster_ips: Vec::new(),
    }
}

fn pod(ground: Ground, workload: &WorkloadSpec, n: u64, ip: Ipv4Addr) -> PodPlan {
    let ports = (port::APP..).zip(&workload.ports).map(|(app, spec)| PodPort {
        name: spec.name.clone(),
        number: spec.port,
        // Where connections are captured, the application owns its ports.
        app: if workload.mesh && ground == Ground::Loopback { app } else { spec.port },
        protocol: spec.protocol,
    });
    PodPlan {
        name: format!("{}-{n}", workload.name),
        workload: workload.name.clone(),
        namespace: workload.namespace.clone(),
        service_account: workload.service_account.clone(),
        labels: workload.labels.clone(),
        annotations: workload.annotations.clone(),
        locality: workload.locality.clone(),
        ip,
        mesh: workload.mesh,
        proxy_port: if ground == Ground::Loopback { port::OUTBOUND } else { port::EXPLICIT },
        ports: ports.collect(),
        command: workload.command.clone(),
    }
}

fn services(spec: &ClusterSpec) -> Vec<ServicePlan> {
    let mut services: BTreeMap<(&Namespace, &str), ServicePlan> = BTreeMap::new();
    for workload in spec.workloads.iter().filter(|workload| !workload.ports.is_empty()) {
        let service = services.entry((&workload.namespace, &workload.service)).or_insert_with(|| ServicePlan {
            namespace: workload.namespace.clone(),
            name: workload.service.clone(),
            ports: workload.ports.clone(),
            pods: Vec::new(),
            cluster_ips: Vec::new(),
            export: workload.export.clone(),
        });
        service.pods.extend((1..=workload.replicas).map(|n| format!("{}-{n}", workload.name)));
    }
    services.into_values().collect()
}
