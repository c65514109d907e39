//! The kinds of resources, their type URLs and versions, and who may ask for them.

use std::fmt;
use std::str::FromStr;

/// The prefix of every type URL; the message name follows.
pub const TYPE_URL_PREFIX: &str = "type.isthmus.dev/isthmus.discovery.v1.";
/// Type URL of [`api::discovery::Mesh`].
pub const MESH: &str = "type.isthmus.dev/isthmus.discovery.v1.Mesh";
/// Type URL of [`api::discovery::Service`].
pub const SERVICE: &str = "type.isthmus.dev/isthmus.discovery.v1.Service";
/// Type URL of [`api::discovery::Cluster`].
pub const CLUSTER: &str = "type.isthmus.dev/isthmus.discovery.v1.Cluster";
/// Type URL of [`api::discovery::LocalGateway`].
pub const LOCAL_GATEWAY: &str = "type.isthmus.dev/isthmus.discovery.v1.LocalGateway";
/// Type URL of [`api::discovery::Workload`].
pub const WORKLOAD: &str = "type.isthmus.dev/isthmus.discovery.v1.Workload";
/// Type URL of [`api::discovery::HostEntry`].
pub const HOST_ENTRY: &str = "type.isthmus.dev/isthmus.discovery.v1.HostEntry";

/// Type URL of [`api::discovery::Entry`].
pub const ENTRY: &str = "type.isthmus.dev/isthmus.discovery.v1.Entry";
/// Type URL of [`api::discovery::Secret`].
/// Who has an address.
pub const ADDRESS: &str = "type.isthmus.dev/isthmus.discovery.v1.Address";
/// Type URL of [`api::discovery::StandIn`].
pub const STAND_IN: &str = "type.isthmus.dev/isthmus.discovery.v1.StandIn";
/// TLS material.
pub const SECRET: &str = "type.isthmus.dev/isthmus.discovery.v1.Secret";

/// The name of the one `Mesh` resource.
pub const MESH_NAME: &str = "mesh";
/// Subscribes to every resource of a type (xDS "wildcard").
pub const WILDCARD: &str = "*";

/// What a resource is. Ordered so that trust and mesh facts are sent before what builds on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The mesh and the own cluster.
    Mesh,
    /// Another member cluster.
    Cluster,
    /// An east-west gateway of the own cluster.
    LocalGateway,
    /// A workload's own facts.
    Workload,
    /// A service with its endpoints and imports.
    Service,
    /// What the DNS shim answers from.
    HostEntry,
    /// A host that configuration adds to the registry.
    Entry,
    /// TLS material of a workload's configuration.
    Secret,
    /// Who has an address; asked for by name.
    Address,
    /// A pod without a sidecar for which gateways speak.
    StandIn,
}

impl Kind {
    /// What sidecars ask for by name, on demand.
    pub const BY_NAME: [Kind; 2] = [Kind::Service, Kind::Address];

    /// Every kind, in the order in which a server sends them. Mesh comes last: whoever has it has all that was sent before,
    /// so that a first view with `mesh` set is a whole one.
    pub const ALL: [Kind; 10] = [
        Kind::Cluster,
        Kind::LocalGateway,
        Kind::Secret,
        Kind::Workload,
        Kind::StandIn,
        Kind::Service,
        Kind::Address,
        Kind::Entry,
        Kind::HostEntry,
        Kind::Mesh,
    ];

    /// The type URL on the wire.
    pub fn type_url(self) -> &'static str {
        match self {
            Kind::Mesh => MESH,
            Kind::Cluster => CLUSTER,
            Kind::LocalGateway => LOCAL_GATEWAY,
            Kind::Workload => WORKLOAD,
            Kind::Service => SERVICE,
            Kind::HostEntry => HOST_ENTRY,
            Kind::Entry => ENTRY,
            Kind::Secret => SECRET,
            Kind::Address => ADDRESS,
            Kind::StandIn => STAND_IN,
        }
    }

    /// The kind of a type URL; `None` for one that this version does not know.
    pub fn of_type_url(url: &str) -> Option<Self> {
        Kind::ALL.into_iter().find(|kind| kind.type_url() == url)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.type_url().trim_start_matches(TYPE_URL_PREFIX))
    }
}

/// What a client of discovery is. It decides what the client subscribes to and what the server lets it see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The proxy beside one workload: sees its own workload, and services on demand.
    Sidecar,
    /// An ingress or egress gateway: a workload like any other, which besides gets the Secrets of the Gateways that it runs.
    Edge,
    /// An east-west gateway: sees every service that is exported or imported.
    Gateway,
    /// The DNS shim: sees host entries.
    Dns,
}

impl Role {
    /// The kinds of which the role wants every resource it may see, in the order in which it asks.
    pub fn wildcards(self) -> &'static [Kind] {
        match self {
            Role::Sidecar | Role::Edge => {
                &[Kind::Cluster, Kind::LocalGateway, Kind::Secret, Kind::Workload, Kind::Entry, Kind::Mesh]
            }
            Role::Gateway => &[Kind::Cluster, Kind::LocalGateway, Kind::StandIn, Kind::Service, Kind::Mesh],
            Role::Dns => &[Kind::HostEntry, Kind::Mesh],
        }
    }

    /// The kinds of which the role may see anything at all.
    pub fn may_see(self, kind: Kind) -> bool {
        self.wildcards().contains(&kind) || (self.is_workload() && Kind::BY_NAME.contains(&kind))
    }

    /// Whether it runs as a workload of its own, and asks for services by name.
    pub fn is_workload(self) -> bool {
        matches!(self, Role::Sidecar | Role::Edge)
    }

    /// The account that a system component of this role has; `None` for what runs as a workload.
    pub fn system_account(self) -> Option<&'static str> {
        match self {
            Role::Sidecar | Role::Edge => None,
            Role::Gateway => Some("gateway"),
            Role::Dns => Some("dns"),
        }
    }

    /// The role as it stands in a node id.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Sidecar => "sidecar",
            Role::Edge => "edge",
            Role::Gateway => "gateway",
            Role::Dns => "dns",
        }
    }
}

/// Why a text is no node id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node id {0:?} is not valid; hint: it must be <sidecar|edge|gateway|dns>~<namespace>/<workload>")]
pub struct NodeIdError(String);

/// Who a client says it is, `<role>~<namespace>/<workload>`; a claim until TLS supports it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId {
    /// The role that the client claims.
    pub role: Role,
    /// The workload, `<namespace>/<name>`, as in its bootstrap credential.
    pub workload: String,
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}~{}", self.role.as_str(), self.workload)
    }
}

impl FromStr for NodeId {
    type Err = NodeIdError;
    fn from_str(text: &str) -> Result<Self, NodeIdError> {
        let error = || NodeIdError(text.chars().take(200).collect());
        let (role, workload) = text.split_once('~').ok_or_else(error)?;
        let role = match role {
            "sidecar" => Role::Sidecar,
            "edge" => Role::Edge,
            "gateway" => Role::Gateway,
            "dns" => Role::Dns,
            _ => return Err(error()),
        };
        match workload.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self { role, workload: workload.to_owned() })
            }
            _ => Err(error()),
        }
    }
}

/// The version of a resource: a hash of its bytes, so that equal resources are equal versions on every agent and
/// after every restart. FNV-1a, 128 bits: it tells versions apart, it protects nothing.
pub fn version_of(bytes: &[u8]) -> String {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let hash = bytes.iter().fold(OFFSET, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME));
    format!("{hash:032x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_urls_and_kinds_are_one_to_one() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of_type_url(kind.type_url()), Some(kind));
        }
        assert_eq!(Kind::of_type_url("type.googleapis.com/envoy.config.cluster.v3.Cluster"), None);
        assert_eq!(Kind::LocalGateway.to_string(), "LocalGateway");
    }

    #[test]
    fn a_node_id_without_role_or_workload_is_refused() {
        let id: NodeId = "sidecar~default/web-1".parse().expect("valid");
        assert_eq!((id.role, id.workload.as_str()), (Role::Sidecar, "default/web-1"));
        assert_eq!(id.to_string(), "sidecar~default/web-1");
        for bad in ["", "sidecar", "router~a/b", "sidecar~", "sidecar~a", "dns~/x", "gateway~x/"] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn versions_are_stable_across_builds() {
        assert_eq!(version_of(b""), "6c62272e07bb014262b821756295c58d");
        assert_eq!(version_of(b"a"), "d228cb696f1a8caf78912b704e4a8964");
        assert_ne!(version_of(b"ab"), version_of(b"ba"));
    }
}
