//! What users configured, compiled into one neutral form: the agent writes it (`config::compile`), decisions read it.
//!
//! Every rule carries its [`Origin`], so that a decision can say which field of which object made it. Values are valid
//! by construction: a regular expression that does not compile or a weight that makes no sense never gets here.
//!
//! The types derive serde because they travel as one document inside a discovery resource (ADR 3). A field that a proxy
//! does not know makes it refuse the whole resource: a rule is never half applied.
//!
//! Defaults and precedence follow Istio (<https://istio.io/latest/docs/reference/config/networking/>,
//! <https://istio.io/latest/docs/reference/config/security/>).

mod clusters;
mod destination;
mod gateway;
mod http;
mod inbound;
pub(crate) mod limit;
mod listener;
mod matching;
mod opaque;
mod pool;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::model::Labels;
use crate::names::Namespace;
use crate::path::PathNormalization;

pub use clusters::*;
pub use destination::*;
pub use gateway::*;
pub use http::*;
pub use inbound::*;
pub(crate) use limit::optional_millis;
pub use limit::{BodyLimit, Descriptor, RateLimit};
pub use listener::*;
pub use matching::*;
pub use opaque::*;
pub use pool::*;

/// An object of a user: `VirtualService default/reviews`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectRef {
    /// `VirtualService`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// The rule of an object that something came from; what logs and `hubctl explain` cite.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The object.
    pub object: Arc<ObjectRef>,
    /// The path inside it, such as `spec.http[0]`.
    pub path: String,
    /// The rule's own name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// `VirtualService default/reviews spec.http[0] (canary)`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.object, self.path)?;
        match &self.name {
            Some(name) => write!(f, " ({name})"),
            None => Ok(()),
        }
    }
}

/// The namespaces that an object is visible to (`exportTo`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Visibility {
    /// Every namespace: `"*"`, and the default.
    #[default]
    Everywhere,
    /// These only; `"."` is resolved by the compiler. Empty: none (`"~"`).
    Namespaces(BTreeSet<Namespace>),
}

impl Visibility {
    /// Whether every namespace sees the object.
    pub fn is_everywhere(&self) -> bool {
        *self == Self::Everywhere
    }

    /// Whether a client of this namespace sees the object.
    pub fn includes(&self, namespace: &Namespace) -> bool {
        match self {
            Self::Everywhere => true,
            Self::Namespaces(namespaces) => namespaces.contains(namespace),
        }
    }
}

/// What is configured for the clients of one service, beside what the service itself says.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    /// Routes of the mesh (gateway `mesh`) for the service's host, in order of precedence: the first that the client's
    /// namespace sees counts, alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Arc<HostRoutes>>,
    /// The same for the clusterset host, when an object names that host; else [`Self::routes`] govern it as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clusterset_routes: Option<Vec<Arc<HostRoutes>>>,
    /// Destination rules, in order of precedence for a client that sees them all; see [`DestinationRules::applies_to`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub destinations: Vec<Arc<DestinationRules>>,
    /// Set for what a ServiceEntry (or a VirtualService for a host without a service) added to the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<EntryConfig>,
    /// Who sees the service. Others know its addresses at most.
    #[serde(default, skip_serializing_if = "Visibility::is_everywhere")]
    pub visible_to: Visibility,
    /// Set for a Service of type ExternalName: the host that it is another name of. If nothing in the mesh has that host,
    /// `entry` says where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<Host>,
    /// How requests are divided between clusters; `None` = [`ClusterTraffic::default`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clusters: Option<Arc<ClusterTraffic>>,
    /// `sessionAffinity: ClientIP`: seconds for which a client gets the same endpoint at least. It holds where no
    /// DestinationRule says how to balance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<u32>,
}

/// What a ServiceEntry says about its host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryConfig {
    /// The object.
    pub origin: ObjectRef,
    /// Who sees it.
    #[serde(default)]
    pub visible_to: Visibility,
    /// How endpoints are found.
    pub resolution: Resolution,
    /// `MESH_EXTERNAL`: never mTLS of the mesh, counted as external.
    pub external: bool,
    /// Networks whose addresses mean this host (`addresses` that are CIDR ranges; single ones are in
    /// `Service::cluster_addresses`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<ipnet::IpNet>,
    /// Endpoints that are host names; those that are addresses are in `Service::endpoints`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<NamedEndpoint>,
    /// Names of which the server's certificate must have one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subject_alt_names: Vec<String>,
}

/// `ServiceEntry.spec.resolution`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resolution {
    /// The client has resolved the name already: dial the address that it asked for.
    None,
    /// The endpoints are in the record.
    Static,
    /// The proxy asks DNS for the endpoints' names, or for the host itself, and balances over all answers.
    Dns,
    /// As [`Self::Dns`], with a new answer for new connections and one address at a time.
    DnsRoundRobin,
}

/// An endpoint that is a host name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedEndpoint {
    /// What DNS is asked for.
    pub host: String,
    /// Service port → port of the endpoint.
    pub ports: std::collections::BTreeMap<u16, u16>,
    /// For subsets.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// `region/zone/subzone`, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub locality: String,
    /// Share among the endpoints; at least 1.
    pub weight: u32,
}

/// What is configured for one workload: who may reach it, and what it may reach. For a gateway also its listeners.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadConfig {
    /// What is asked of those who reach it.
    #[serde(default)]
    pub inbound: InboundPolicy,
    /// What it may reach (Sidecar).
    #[serde(default)]
    pub outbound: OutboundPolicy,
    /// Listeners and routes of an ingress or egress gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewayConfig>,
    /// What becomes of the paths of requests that it sends and gets (MeshConfig).
    #[serde(default, skip_serializing_if = "PathNormalization::is_default")]
    pub paths: PathNormalization,
}

/// What a workload may reach: `Sidecar.spec.egress` and `outboundTrafficPolicy`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutboundPolicy {
    /// The Sidecar that says so; `None` = the default or MeshConfig.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<ObjectRef>,
    /// Hosts that can be reached; `None` = every one that is visible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<EgressHost>>,
    /// What happens to hosts that the mesh does not know, or that [`Self::hosts`] leave out.
    #[serde(default)]
    pub unknown: UnknownHosts,
}

/// `<namespace>/<host>` of a Sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressHost {
    /// `None` = every namespace (`*`); `.` is resolved by the compiler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// The host, or a wildcard.
    pub host: HostPattern,
    /// Only this port; `None` = every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// `outboundTrafficPolicy.mode`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnknownHosts {
    /// ALLOW_ANY: dial what the client named.
    #[default]
    Allow,
    /// REGISTRY_ONLY: refuse.
    Refuse,
    /// `egressProxy`: send it to this destination.
    Through(Destination),
}
