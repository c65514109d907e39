//! The fleet file: what a user writes, validated as a whole.
//!
//! A file is read as untyped YAML and walked once by hand, so that *all* mistakes are reported together, each with the path
//! of its field and a hint, instead of the first one that a derived deserialiser meets.

mod edge;
mod read;
mod validate;
mod wans;

use std::collections::BTreeMap;
use std::path::Path;

use mesh::{ClusterName, MeshId, Namespace};
use serde::{Deserialize, Serialize};
use wan::WanSpec;

use crate::ground::Ground;

pub use edge::{EDGES_MAX, EdgePort, EdgeRole, EdgeSpec};
pub use read::Problem;
pub(crate) use wans::HUB;

/// The most gateways per cluster: `.2` to `.8` of the cluster's addresses.
pub const GATEWAYS_MAX: u64 = 7;
/// The most pods per cluster: `.20` to `.250`.
pub const PODS_MAX: usize = 230;

/// A validated fleet file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetFile {
    /// What the fleet is called; names its directory when none is given.
    pub name: String,
    /// The mesh id.
    pub mesh: MeshId,
    /// What the fleet stands on, unless `fleet up --ground` says otherwise; default `loopback`.
    pub ground: Ground,
    /// Voters of the hub: 1, 3 or 5.
    pub hub_nodes: u64,
    /// The member clusters.
    pub clusters: Vec<ClusterSpec>,
    /// Emulated links, each between two clusters or a cluster and `hub`; all others are plain. Only on the ground `netns`.
    pub wan: Vec<WanSpec>,
}

/// One member cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSpec {
    /// Its name, unique in the mesh.
    pub name: ClusterName,
    /// East-west gateways, at least one.
    pub gateways: u64,
    /// Ingress and egress gateways.
    pub edges: Vec<EdgeSpec>,
    /// What runs there.
    pub workloads: Vec<WorkloadSpec>,
}

/// One workload: `replicas` identical pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadSpec {
    /// Its name, unique in the cluster; pods are `<name>-1`, `<name>-2`, …
    pub name: String,
    /// Kubernetes namespace; default `default`.
    pub namespace: Namespace,
    /// Service account, which becomes the identity; default the workload's name.
    pub service_account: String,
    /// Pod labels; default `app: <name>`.
    pub labels: BTreeMap<String, String>,
    /// Pod annotations: those of Istio that say what its sidecar captures. On the ground `netns` only.
    pub annotations: BTreeMap<String, String>,
    /// Where it runs, `region/zone/subzone` or less of it; default nowhere in particular.
    pub locality: String,
    /// How many pods; default 1.
    pub replicas: u64,
    /// Whether a sidecar stands beside each pod; default true.
    pub mesh: bool,
    /// The ports that the application serves.
    pub ports: Vec<PortSpec>,
    /// The application; default the built-in echo server. `{port}`, `{port:<name>}`, `{host}` and `{pod}` are replaced.
    pub command: Option<Vec<String>>,
    /// The Service in front; default the workload's name. Workloads may share one.
    pub service: String,
    /// Who may use the Service from other clusters.
    pub export: Export,
}

/// One port of a workload and of its Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSpec {
    /// Port name, unique in the workload.
    pub name: String,
    /// Port number that peers dial.
    pub port: u16,
    /// What is spoken there.
    pub protocol: PortProtocol,
}

/// What is spoken on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortProtocol {
    /// HTTP/1.1 (and HTTP/2 by prior knowledge).
    Http,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// gRPC.
    Grpc,
    /// Bytes; the client speaks first.
    Tcp,
    /// Bytes; the server speaks first.
    TcpServerFirst,
    /// Datagrams.
    Udp,
}

impl PortProtocol {
    /// Every protocol, in the order that messages list them.
    pub const ALL: [Self; 6] = [Self::Http, Self::Http2, Self::Grpc, Self::Tcp, Self::TcpServerFirst, Self::Udp];

    /// The name used in files, protocols and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
            Self::TcpServerFirst => "tcp-server-first",
            Self::Udp => "udp",
        }
    }

    /// What Kubernetes calls it, and what it lets be declared beside.
    pub(crate) fn declare(self, port: &mut serde_json::Value) {
        if self == Self::Udp {
            port["protocol"] = "UDP".into();
        } else {
            port["protocol"] = "TCP".into();
            port["appProtocol"] = self.as_str().into();
        }
    }

    /// The protocol of a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.as_str() == name)
    }
}

/// Who may use a Service from other clusters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Export {
    /// Nobody.
    No,
    /// Every member.
    All,
    /// These members only.
    To(Vec<ClusterName>),
}

impl Export {
    /// Whether `cluster` may use what is exported so.
    pub fn reaches(&self, cluster: &ClusterName) -> bool {
        match self {
            Self::No => false,
            Self::All => true,
            Self::To(names) => names.contains(cluster),
        }
    }
}

/// Why a fleet file is refused: everything wrong with it, not only the first mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read the fleet file {path}: {why}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        why: String,
    },
    /// It is no YAML.
    #[error("the fleet file is not valid YAML: {0}")]
    Yaml(String),
    /// Fields are wrong.
    #[error("the fleet file has {} mistake{}:{}", .0.len(), if .0.len() == 1 { "" } else { "s" }, list(.0))]
    Fields(Vec<Problem>),
}

/// What the parser says, without its advice to programmers.
fn mend(message: &str) -> String {
    let plain = "a fleet file is one document: remove `---` and what follows";
    message.replace("multiple YAML documents detected; use from_str_multiple or from_str_multiple_with_options", plain)
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

impl FleetFile {
    /// Reads and validates a file.
    pub fn load(path: &Path) -> Result<Self, FileError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| FileError::Read { path: path.display().to_string(), why: error.to_string() })?;
        Self::parse(&text)
    }

    /// Validates the text of a fleet file.
    pub fn parse(text: &str) -> Result<Self, FileError> {
        let value: serde_json::Value =
            serde_saphyr::from_str(text).map_err(|error| FileError::Yaml(mend(&error.to_string())))?;
        let mut problems = Vec::new();
        let file = validate::fleet(&value, &mut problems);
        match file {
            Some(file) if problems.is_empty() => Ok(file),
            _ => Err(FileError::Fields(problems)),
        }
    }
}
