//! The neutral model: what a proxy knows of the mesh, as one immutable snapshot.
//!
//! Values are valid by construction: wire messages become these types at an edge (`api::wire`), or are refused there.

mod hosts;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::names::{ClusterName, MeshId, Namespace, ServiceName, SpiffeId, TrustDomain};
use crate::policy::{ServiceConfig, WorkloadConfig};
use crate::stand_in::StandIn;

pub use hosts::{AddressEntry, HostEntry, HostPod, HostPort, LocalHost, Pod, PortTransport};

/// Labels of a workload, a group or an object.
pub type Labels = BTreeMap<String, String>;

/// Everything that decisions are made on. Readers hold an `Arc` of one view and never see half an update.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct View {
    /// The agent's revision that this view reflects; cited by every decision, log line and metric.
    pub revision: u64,
    /// Which mesh and cluster this is; `None` before the first contact.
    pub mesh: Option<Arc<MeshInfo>>,
    /// Services by name: on a sidecar those asked for, on a gateway those exported or imported.
    pub services: BTreeMap<ServiceName, Arc<Service>>,
    /// The other members that services are exchanged with.
    pub clusters: BTreeMap<ClusterName, Arc<RemoteCluster>>,
    /// East-west gateways of the own cluster, by name.
    pub gateways: BTreeMap<String, Arc<LocalGateway>>,
    /// The workload beside the proxy; only sidecars have one.
    pub workload: Option<Arc<Workload>>,
    /// What the DNS shim answers from.
    pub hosts: BTreeMap<ServiceName, Arc<HostEntry>>,
    /// Hosts that ServiceEntries and routes add to the registry; all that the proxy's namespace sees.
    pub entries: BTreeMap<ServiceName, Arc<Service>>,
    /// Who has the addresses that the workload dialled lately; only sidecars that capture transparently ask.
    pub addresses: BTreeMap<IpAddr, Arc<AddressEntry>>,
    /// Pods without a sidecar for which the own cluster's gateways speak to other clusters, by `<namespace>/<pod>`; only
    /// gateways know them. Under which identity they speak, the endpoint says.
    pub stand_ins: BTreeMap<String, Arc<StandIn>>,
    /// TLS material that the proxy's configuration names, by `<namespace>/<name>`.
    #[serde(skip)]
    pub secrets: BTreeMap<String, Arc<Secret>>,
    /// What decisions have worked out of the rest. Whoever changes a view in place must not have decided on it before; a
    /// clone is safe to change.
    #[serde(skip)]
    pub memo: crate::route::Memo,
}

/// A Secret with TLS material, PEM; empty where it has none.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret {
    /// `<namespace>/<name>`.
    pub name: String,
    /// `tls.crt`: the chain, leaf first.
    pub certificate: Vec<u8>,
    /// `tls.key`.
    pub private_key: Vec<u8>,
    /// `ca.crt`.
    pub ca: Vec<u8>,
    /// `ca.crl`.
    pub crl: Vec<u8>,
}

/// Never shows the key.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("name", &self.name).finish_non_exhaustive()
    }
}

impl View {
    /// The name of the own cluster, once known.
    pub fn cluster(&self) -> Option<&ClusterName> {
        self.mesh.as_deref().map(|mesh| &mesh.cluster)
    }

    /// Whether a service of the view has the address, or a pod behind one.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.services.values().any(|service| {
            let own = service.cluster_addresses.contains(&address) || service.clusterset_addresses.contains(&address);
            own || service.endpoints.iter().any(|endpoint| endpoint.has_address(address))
        })
    }

    /// The member that owns a trust domain. Trust domains are unique among members.
    pub fn cluster_of(&self, trust_domain: &TrustDomain) -> Option<&RemoteCluster> {
        self.clusters.values().map(Arc::as_ref).find(|cluster| cluster.trust_domain == *trust_domain)
    }
}

/// The own place in the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MeshInfo {
    /// The mesh.
    pub mesh_id: MeshId,
    /// The own cluster.
    pub cluster: ClusterName,
    /// The own trust domain.
    pub trust_domain: TrustDomain,
    /// Root certificates of the own trust domain, DER.
    #[serde(skip)]
    pub roots: Vec<Vec<u8>>,
    /// Serial of the own bundle.
    pub bundle_serial: u64,
}

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

/// Another member cluster.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RemoteCluster {
    /// Its name.
    pub name: ClusterName,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Its root certificates, DER.
    #[serde(skip)]
    pub roots: Vec<Vec<u8>>,
    /// Serial of its bundle.
    pub bundle_serial: u64,
    /// The gateways in front of it.
    pub gateways: Vec<RemoteGateway>,
    /// Something is imported from it, so gateways connect to it.
    pub imported: bool,
    /// Unix milliseconds since when its announcements are stale (its lease ran out).
    pub stale_since_ms: Option<u64>,
    /// How much of its usual share it gets, in percent: less than 100 while it drains, 0 once it is drained.
    pub share_percent: u32,
}

/// A gateway of another cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct RemoteGateway {
    /// Its name there.
    pub name: String,
    /// `host:port` of its QUIC listener; a host name is resolved by whoever dials.
    pub quic_address: String,
}

/// An east-west gateway of the own cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LocalGateway {
    /// Its name.
    pub name: String,
    /// Its HBONE listener.
    pub hbone_address: SocketAddr,
    /// The identity it must prove.
    pub identity: SpiffeId,
}

/// Which transport is accepted (Istio's PeerAuthentication modes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MtlsMode {
    /// Both.
    #[default]
    Permissive,
    /// mTLS only.
    Strict,
    /// Plain text only.
    Disable,
}

/// The workload beside a sidecar.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Workload {
    /// Its namespace.
    pub namespace: Namespace,
    /// The pod.
    pub name: String,
    /// Its account.
    pub service_account: String,
    /// Its labels.
    pub labels: Labels,
    /// The ports that it offers.
    pub ports: Vec<WorkloadPort>,
    /// Whether plain text is accepted, where [`WorkloadConfig::inbound`] says nothing.
    pub mtls: MtlsMode,
    /// `region/zone/subzone`, or empty.
    pub locality: String,
    /// What is configured for it.
    pub config: Arc<WorkloadConfig>,
}

impl Workload {
    /// The TCP port that a peer means by `number`: a port of the workload, else a service port that leads to one.
    pub fn port(&self, number: u16) -> Option<&WorkloadPort> {
        self.port_over(number, false)
    }

    /// The same for UDP or TCP.
    pub fn port_over(&self, number: u16, udp: bool) -> Option<&WorkloadPort> {
        let mut own = self.ports_over(udp).filter(|port| port.number == number);
        own.next().or_else(|| self.ports_over(udp).find(|port| port.service_ports.contains(&number)))
    }

    /// The port that a peer of another cluster means by `number`, of UDP or of TCP: it knows service ports only, and may
    /// use those that are exported to it.
    pub fn exported_port(&self, number: u16, udp: bool, cluster: &ClusterName) -> Option<&WorkloadPort> {
        self.ports_over(udp).find(|port| port.exports.get(&number).is_some_and(|export| export.allows(cluster)))
    }

    fn ports_over(&self, udp: bool) -> impl Iterator<Item = &WorkloadPort> {
        self.ports.iter().filter(move |port| port.protocol.is_udp() == udp)
    }
}

/// A port of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorkloadPort {
    /// The number that the sidecar owns.
    pub number: u16,
    /// Its name; may be empty.
    pub name: String,
    /// How it speaks.
    pub protocol: Protocol,
    /// Service ports that lead here.
    pub service_ports: BTreeSet<u16>,
    /// Those of them that exported services have, with the clusters that may use them.
    pub exports: BTreeMap<u16, ExportPolicy>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_selected_as_istio_does() {
        let cases = [
            (Some("http-web"), None, Protocol::Http),
            (Some("grpc"), None, Protocol::Grpc),
            (Some("http"), Some("grpc"), Protocol::Grpc),
            (Some("web"), None, Protocol::Auto),
            (None, None, Protocol::Auto),
            (Some("mysql-main"), None, Protocol::TcpServerFirst),
            (None, Some("kubernetes.io/h2c"), Protocol::Http2),
        ];
        for (name, app_protocol, expected) in cases {
            assert_eq!(Protocol::declared(name, app_protocol), expected, "{name:?} {app_protocol:?}");
        }
    }
}
