//! The neutral model: what a proxy knows of the mesh, as one immutable snapshot.
//!
//! Values are valid by construction: wire messages become these types at an edge (`api::wire`), or are refused there.

mod hosts;
mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::names::{ClusterName, MeshId, Namespace, ServiceName, SpiffeId, TrustDomain};
use crate::path::PathNormalization;
use crate::policy::WorkloadConfig;
use crate::stand_in::StandIn;

pub use hosts::{AddressEntry, HostEntry, HostPod, HostPort, LocalHost, Pod, PortTransport};
pub use services::*;

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

    /// What becomes of the paths of requests.
    pub fn paths(&self) -> PathNormalization {
        self.workload.as_deref().map(|workload| workload.config.paths).unwrap_or_default()
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
