//! Services: their ports, their endpoints in the own cluster, and what other clusters export under the same name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Labels;
use crate::names::{ClusterName, ServiceName, SpiffeId};
use crate::policy::ServiceConfig;

/// How a port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// HTTP/1.1 (a client may speak HTTP/2, the application gets HTTP/1.1).
    Http,
    /// HTTP/2 without TLS.
    Http2,
    /// gRPC: HTTP/2 with trailers.
    Grpc,
    /// Opaque bytes.
    Tcp,
    /// Opaque bytes where the server speaks first, such as MySQL.
    TcpServerFirst,
    /// Not declared: found out from the first bytes.
    Auto,
    /// UDP datagrams. A service may have a TCP and a UDP port of one number; nothing that is said of one is about the
    /// other.
    Udp,
}

impl Protocol {
    /// Follows Istio's protocol selection: `appProtocol` wins, then the port name's prefix up to the first `-`;
    /// neither known means [`Protocol::Auto`].
    pub fn declared(port_name: Option<&str>, app_protocol: Option<&str>) -> Self {
        let from_name = || port_name.map(|name| name.split_once('-').map_or(name, |(prefix, _)| prefix));
        app_protocol.or_else(from_name).map_or(Self::Auto, Self::parse)
    }

    fn parse(value: &str) -> Self {
        match value.to_ascii_lowercase().as_str() {
            "http" | "http1" | "kubernetes.io/ws" => Self::Http,
            "http2" | "kubernetes.io/h2c" => Self::Http2,
            "grpc" | "grpc-web" => Self::Grpc,
            "tcp" | "tls" | "https" | "redis" => Self::Tcp,
            "tcp-server-first" | "mysql" | "mongo" | "postgres" | "postgresql" | "smtp" | "ssh" | "ftp" => {
                Self::TcpServerFirst
            }
            _ => Self::Auto,
        }
    }

    /// Whether requests, not connections, are routed.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }

    /// Whether datagrams, not connections, are carried.
    pub fn is_udp(self) -> bool {
        self == Self::Udp
    }

    /// The name used on the wire, in CRDs and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
            Self::TcpServerFirst => "tcp-server-first",
            Self::Auto => "auto",
            Self::Udp => "udp",
        }
    }

    /// Reads the name written by [`Protocol::as_str`].
    pub fn from_wire(value: &str) -> Option<Self> {
        [Self::Http, Self::Http2, Self::Grpc, Self::Tcp, Self::TcpServerFirst, Self::Auto, Self::Udp]
            .into_iter()
            .find(|protocol| protocol.as_str() == value)
    }
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServicePort {
    /// The port's name; empty if it has none.
    pub name: String,
    /// The number that clients dial.
    pub number: u16,
    /// How it speaks.
    pub protocol: Protocol,
}

/// A service: local endpoints and what other clusters export under the same name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Service {
    /// Namespace and name.
    pub name: ServiceName,
    /// Label `isthmus.dev/global: "true"`: short and `cluster.local` names reach other clusters too.
    pub global: bool,
    /// No cluster IP: clients address single pods.
    pub headless: bool,
    /// The stable address of the clusterset name.
    pub clusterset_addresses: Vec<IpAddr>,
    /// Service port → port on which the own cluster's gateways take connections of unmeshed clients for it; only where
    /// policy allows them.
    pub listeners: BTreeMap<u16, u16>,
    /// Addresses of the own cluster's Service.
    pub cluster_addresses: Vec<IpAddr>,
    /// The union of the ports.
    pub ports: Vec<ServicePort>,
    /// Endpoints in the own cluster.
    pub endpoints: Vec<Endpoint>,
    /// Set when the own cluster exports it.
    pub export: Option<ExportPolicy>,
    /// What other clusters export under this name.
    pub imports: BTreeMap<ClusterName, Import>,
    /// What is configured for its clients.
    pub config: Arc<ServiceConfig>,
}

impl Service {
    /// The TCP port with this number.
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.port_over(number, false)
    }

    /// The port with this number, of UDP or of TCP.
    pub fn port_over(&self, number: u16, udp: bool) -> Option<&ServicePort> {
        find_port(&self.ports, number, udp)
    }
}

impl Import {
    /// The port with this number, of UDP or of TCP.
    pub fn port_over(&self, number: u16, udp: bool) -> Option<&ServicePort> {
        find_port(&self.ports, number, udp)
    }
}

fn find_port(ports: &[ServicePort], number: u16, udp: bool) -> Option<&ServicePort> {
    ports.iter().find(|port| port.number == number && port.protocol.is_udp() == udp)
}

/// Who may use an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum ExportPolicy {
    /// Every member.
    Everyone,
    /// Only these.
    Only(BTreeSet<ClusterName>),
}

impl ExportPolicy {
    /// Whether a member may see and use the export.
    pub fn allows(&self, cluster: &ClusterName) -> bool {
        match self {
            Self::Everyone => true,
            Self::Only(clusters) => clusters.contains(cluster),
        }
    }

    /// What at least one of two policies allows.
    pub fn or(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Only(some), Self::Only(others)) => Self::Only(some | others),
            _ => Self::Everyone,
        }
    }
}

/// One pod behind a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// The pod.
    pub name: String,
    /// Its address; the first, if it has several.
    pub address: IpAddr,
    /// The addresses that it has beside: a pod of both IP families has one of each.
    pub other_addresses: Vec<IpAddr>,
    /// Service port → port of the pod. A TCP and a UDP port of one number lead to one number.
    pub ports: BTreeMap<u16, u16>,
    /// The identity that its sidecar proves; `None` when it has no sidecar.
    pub identity: Option<SpiffeId>,
    /// Labels that groups and subsets select on.
    pub labels: Labels,
    /// `region/zone/subzone`, or empty.
    pub locality: String,
    /// The control plane's opinion; the data plane has its own.
    pub ready: bool,
    /// The identity under which the cluster's gateways speak for it to other clusters; only where it has no sidecar and its
    /// export allows that.
    pub stand_in: Option<SpiffeId>,
    /// Ports of the pod on which its sidecar accepts no mTLS (PeerAuthentication DISABLE).
    pub plain_ports: BTreeSet<u16>,
    /// Share among the endpoints; 1 unless a WorkloadEntry or ServiceEntry says otherwise.
    pub weight: u32,
}

impl Endpoint {
    /// All its addresses, the first one first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(self.address).chain(self.other_addresses.iter().copied())
    }

    /// Adds an address. Of both families the first one is IPv4, in whatever order they come.
    pub fn add_address(&mut self, mut address: IpAddr) {
        if self.has_address(address) {
            return;
        }
        if self.address.is_ipv6() && address.is_ipv4() {
            std::mem::swap(&mut self.address, &mut address);
        }
        self.other_addresses.push(address);
    }

    /// Whether the pod is reached by this address.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.address == address || self.other_addresses.contains(&address)
    }
}

/// What one other cluster exports of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Import {
    /// Serial of the signed export.
    pub serial: u64,
    /// The ports that this cluster offers.
    pub ports: Vec<ServicePort>,
    /// Its groups, never pods.
    pub groups: Vec<Group>,
    /// The ready pods of a headless service: clients address them one by one.
    pub pods: Vec<ImportPod>,
}

/// A pod of a headless service in another cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImportPod {
    /// The pod, as tunnels name it.
    pub name: String,
    /// What its name in DNS begins with; `None`: its address does.
    pub hostname: Option<String>,
    /// Where the own cluster's workloads reach it: addresses that only the mesh knows.
    pub addresses: Vec<IpAddr>,
    /// Whom to expect there.
    pub group: GroupKey,
}

/// What tells one group of endpoints from another (design: service account, export labels, locality).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct GroupKey {
    /// The account whose identity the servers prove.
    pub service_account: String,
    /// The export labels, `app` and `version` by default.
    pub labels: Labels,
    /// `region/zone/subzone`, or empty.
    pub locality: String,
}

/// Endpoints of another cluster that are chosen as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// What they share.
    pub key: GroupKey,
    /// Whether they have sidecars; without, the destination gateway speaks for them.
    pub meshed: bool,
    /// Healthy endpoints at the last announcement.
    pub healthy: u32,
}

impl Group {
    /// Whether somebody proves an identity for its endpoints: their sidecars, or gateways, where an export that allows that
    /// names an account for endpoints without sidecars.
    pub fn can_prove(&self) -> bool {
        self.meshed || !self.key.service_account.is_empty()
    }
}
