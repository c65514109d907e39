//! How clients talk to a service: DestinationRule, with inheritance between levels already resolved.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::limit::{millis, optional_millis};
use super::{ConnectionPool, ObjectRef, RetryBudget, Visibility};
use crate::model::Labels;
use crate::names::Namespace;

/// The rules of one host: one DestinationRule, or several of one namespace merged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestinationRules {
    /// The (first) DestinationRule; MeshConfig or the Service for what counts without any.
    pub origin: ObjectRef,
    /// Who sees it.
    #[serde(default)]
    pub visible_to: Visibility,
    /// It stands in the namespace of the service, or in the root namespace: clients of other namespaces may use it.
    /// One of any other namespace is for clients of its own namespace only.
    pub of_service: bool,
    /// Only clients with these labels, of the object's own namespace (`workloadSelector`); empty = all.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub workload_selector: Labels,
    /// Without a subset.
    pub policy: PortPolicies,
    /// By name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub subsets: BTreeMap<String, Subset>,
}

impl DestinationRules {
    /// Whether this is no object's word about the host, but what MeshConfig or the Service says where there is none.
    pub fn is_default(&self) -> bool {
        self.origin.kind != "DestinationRule"
    }

    /// Whether the rules are for a client. Of those that are, one of the client's own namespace wins over one of the
    /// service's, which wins over one of the root namespace; the compiler has put the latter two in order.
    pub fn applies_to(&self, namespace: &Namespace, labels: &Labels) -> bool {
        let own = self.origin.namespace == namespace.as_str();
        let selected = self.workload_selector.is_empty()
            || (own && self.workload_selector.iter().all(|(key, value)| labels.get(key) == Some(value)));
        (own || (self.of_service && self.visible_to.includes(namespace))) && selected
    }
}

/// A named part of a service's endpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subset {
    /// Labels that its endpoints (or remote groups) have; empty = all.
    pub labels: Labels,
    /// How clients talk to it.
    pub policy: PortPolicies,
}

/// Policies of a destination or a subset.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortPolicies {
    /// For every port without one of its own.
    pub any: Arc<TrafficPolicy>,
    /// `portLevelSettings`, already merged as Istio merges them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<u16, Arc<TrafficPolicy>>,
}

impl PortPolicies {
    /// The policy of a port.
    pub fn of_port(&self, port: u16) -> &Arc<TrafficPolicy> {
        self.ports.get(&port).unwrap_or(&self.any)
    }
}

/// How clients talk to endpoints.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrafficPolicy {
    /// Which endpoint gets a request.
    #[serde(default)]
    pub balancer: Balancer,
    /// Which localities come first.
    #[serde(default)]
    pub locality: LocalityPolicy,
    /// Slow start of new endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Warmup>,
    /// Limits of connections and requests.
    #[serde(default)]
    pub pool: ConnectionPool,
    /// Ejection of endpoints that fail; `None` = none by policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier: Option<OutlierDetection>,
    /// TLS towards the endpoints.
    #[serde(default)]
    pub tls: ClientTls,
    /// Limit of concurrent retries; `None` = only `ConnectionPool::max_retries`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudget>,
    /// HAProxy's PROXY protocol towards the endpoints, 1 or 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<u8>,
    /// `tunnel`: connections go through an HTTP proxy that is told to connect there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<TunnelSettings>,
}

/// `tunnel`: each connection is a CONNECT (or POST) to the destination, which connects to this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunnelSettings {
    /// POST instead of CONNECT.
    pub post: bool,
    /// The host to be connected to.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// `loadBalancer.simple` and `consistentHash`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Balancer {
    /// Of two random choices the one with fewer requests (Istio's default).
    #[default]
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// Any.
    Random,
    /// The address that the client dialled.
    Passthrough,
    /// By a hash of the request, so that equal ones meet the same endpoint.
    ConsistentHash {
        /// What is hashed.
        key: HashKey,
        /// How endpoints are found by a hash.
        table: HashTable,
    },
}

/// What a consistent hash is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum HashKey {
    /// A header by lower-case name; without it any endpoint does.
    Header(String),
    /// A cookie; with a lifetime (0: of the session) it is made when it is missing.
    Cookie {
        /// Its name.
        name: String,
        /// Its path.
        path: Option<String>,
        /// Its lifetime; `None`: it is not made.
        #[serde(default, with = "optional_millis")]
        ttl: Option<Duration>,
        /// Further attributes of a cookie that is made, such as `SameSite` → `Strict`.
        #[serde(default)]
        attributes: Vec<(String, String)>,
    },
    /// The client's address.
    SourceIp,
    /// A query parameter.
    QueryParameter(String),
}

/// The table of a consistent hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum HashTable {
    /// Ketama, with at least this many points (Istio's default: 1024).
    Ring {
        /// Points.
        minimum_size: u32,
    },
    /// Maglev, with a table of this prime size (default 65537).
    Maglev {
        /// Size.
        size: u32,
    },
}

/// `localityLbSetting`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum LocalityPolicy {
    /// Localities are not looked at (`enabled: false`, or no outlier detection).
    #[default]
    Ignore,
    /// Nearest first: same subzone, zone, region, then the region that `failover` names, then the rest.
    Failover {
        /// From region → to region.
        regions: Vec<(String, String)>,
    },
    /// `failoverPriority`: the more leading labels match the client's, the better; `key` or `key=value`.
    Priority {
        /// The labels.
        labels: Vec<String>,
    },
    /// Fixed shares: by locality of the client (prefix with `*`), shares in percent of localities of endpoints.
    Distribute {
        /// First that matches.
        rules: Vec<Distribution>,
    },
}

/// One `distribute` entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distribution {
    /// Locality of the client, such as `us-west/zone1/*`.
    pub from: String,
    /// Locality of endpoints → percent; sums to 100.
    pub to: BTreeMap<String, u32>,
}

/// `warmup`: an endpoint that is new gets a share that grows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Warmup {
    /// How long it grows.
    #[serde(with = "millis")]
    pub duration: Duration,
    /// Where it begins, in percent (Istio's default: 10).
    pub minimum_percent: f64,
    /// Its curve; 1 is linear.
    pub aggression: f64,
}

/// `outlierDetection`. A count of `None` (Istio: 0) switches that detector off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutlierDetection {
    /// 5xx answers in a row (default 5). Failures of the connection count as well, unless they are split.
    pub consecutive_5xx: Option<u32>,
    /// 502, 503, 504 in a row.
    pub consecutive_gateway: Option<u32>,
    /// Failures of the connection in a row, when they are split (default 5).
    pub consecutive_local_origin: Option<u32>,
    /// Local failures are counted on their own.
    pub split_local_origin: bool,
    /// How often ejected endpoints are looked at (default 10 s).
    #[serde(with = "millis")]
    pub interval: Duration,
    /// Ejection time × the number of ejections so far (default 30 s).
    #[serde(with = "millis")]
    pub base_ejection_time: Duration,
    /// At most this share of the endpoints is ejected, in percent, at least one (default 10).
    pub max_ejection_percent: u32,
    /// Below this share of healthy endpoints, in percent, ejections are not honoured (default 0).
    pub min_health_percent: u32,
    /// Statuses that count as errors instead of 5xx; empty = 5xx.
    #[serde(default)]
    pub error_codes: Vec<u16>,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_5xx: Some(5),
            consecutive_gateway: None,
            consecutive_local_origin: Some(5),
            split_local_origin: false,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_percent: 10,
            min_health_percent: 0,
            error_codes: Vec::new(),
        }
    }
}

/// TLS of the client towards endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ClientTls {
    /// mTLS of the mesh where the endpoint has a sidecar that accepts it, else none (auto mTLS).
    #[default]
    Auto,
    /// None, not even to endpoints with sidecars.
    Disable,
    /// mTLS of the mesh, always.
    Mutual,
    /// TLS that the proxy originates (`SIMPLE`, or `MUTUAL` with a certificate of one's own).
    Originate(Box<OriginateTls>),
}

/// TLS origination.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OriginateTls {
    /// Present a certificate (`MUTUAL`).
    pub mutual: bool,
    /// Where certificates come from.
    pub material: TlsMaterial,
    /// The name in the ClientHello; `None` = the destination's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// Names of which the server's certificate must have one; empty = the SNI.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subject_alt_names: Vec<String>,
    /// Believe any certificate.
    #[serde(default)]
    pub insecure_skip_verify: bool,
}

/// Where certificates and keys come from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum TlsMaterial {
    /// Nothing of one's own; the system's roots.
    #[default]
    System,
    /// A Secret, `<namespace>/<name>` in [`crate::View::secrets`].
    Secret(String),
    /// Files on the proxy's machine, read again when they change.
    Files {
        /// PEM chain.
        certificate: Option<String>,
        /// PEM key.
        private_key: Option<String>,
        /// PEM roots; `None` = the system's.
        ca: Option<String>,
        /// PEM revocation list.
        crl: Option<String>,
    },
}
