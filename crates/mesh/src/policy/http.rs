//! HTTP routes of a host: VirtualService `http`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ClaimMatch, ObjectRef, Origin, Pattern, StringMatch, TcpRule, TlsRule, Visibility};
use crate::host::Host;
use crate::model::Labels;
use crate::names::Namespace;
use crate::retry::RetryPolicy;

/// The gateway name that means sidecars.
pub const MESH_GATEWAY: &str = "mesh";

/// The routes of one host from one VirtualService (its delegates included).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostRoutes {
    /// The VirtualService.
    pub origin: ObjectRef,
    /// Who sees it.
    #[serde(default)]
    pub visible_to: Visibility,
    /// Gateways that it is for: [`MESH_GATEWAY`] or `<namespace>/<gateway>`.
    pub gateways: BTreeSet<String>,
    /// HTTP rules; the first that matches counts. Empty: the host is no HTTP concern of this object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub http: Vec<Arc<HttpRule>>,
    /// TLS rules (by SNI), for connections whose TLS is passed through.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tls: Vec<Arc<TlsRule>>,
    /// TCP rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tcp: Vec<Arc<TcpRule>>,
}

/// One HTTP rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpRule {
    /// Where it comes from.
    pub origin: Origin,
    /// Any of them; empty = everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<HttpMatch>,
    /// What to do.
    pub action: HttpAction,
    /// Changes of the request before it is forwarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<Rewrite>,
    /// Of the whole request, retries included; `None` = none (Istio's default).
    #[serde(default, skip_serializing_if = "Option::is_none", with = "super::limit::optional_millis")]
    pub timeout: Option<Duration>,
    /// `None` = the default policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
    /// Faults that are put in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<FaultInjection>,
    /// Copies of requests that go elsewhere, whose answers are thrown away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<Mirror>,
    /// Cross-origin rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors: Option<CorsPolicy>,
    /// Header operations of the whole rule; those of a destination come after.
    #[serde(default, skip_serializing_if = "HeaderOperations::is_empty")]
    pub headers: HeaderOperations,
}

/// Conditions of which all must hold.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpMatch {
    /// Its name, for explain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The path without its query, as Envoy matches paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<StringMatch>,
    /// `exact` and `prefix` of [`Self::uri`] ignore case.
    #[serde(default)]
    pub ignore_uri_case: bool,
    /// `http` or `https`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<StringMatch>,
    /// The method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<StringMatch>,
    /// The authority as the client wrote it, port included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<StringMatch>,
    /// By lower-case name. A match that is `Present` wants the header with any value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, StringMatch>,
    /// Headers that must not match.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub without_headers: BTreeMap<String, StringMatch>,
    /// Claims of the verified token (`@request.auth.claims…` among the headers); only gateways see any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<ClaimMatch>,
    /// Claims that must not match (among `withoutHeaders`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without_claims: Vec<ClaimMatch>,
    /// Query parameters by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub query_params: BTreeMap<String, StringMatch>,
    /// The port that was dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Labels of the client's workload.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub source_labels: Labels,
    /// Namespace of the client's workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_namespace: Option<Namespace>,
    /// Gateways that it is for; empty = those of [`HostRoutes::gateways`].
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub gateways: BTreeSet<String>,
}

/// What an HTTP rule does with a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum HttpAction {
    /// To one of these, by weight. At least one.
    Route(Vec<WeightedDestination>),
    /// An answer that sends the client elsewhere.
    Redirect(Redirect),
    /// An answer made here.
    Direct(DirectResponse),
}

/// A place to send to, and its share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightedDestination {
    /// The place.
    pub destination: Destination,
    /// Share of the sum of weights. A single destination may have 0, which means all.
    pub weight: u32,
    /// Header operations of this destination.
    #[serde(default, skip_serializing_if = "HeaderOperations::is_empty")]
    pub headers: HeaderOperations,
}

/// A service, or a subset of one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// The service's host: [`Host::Cluster`], [`Host::Clusterset`] or [`Host::External`].
    pub host: Host,
    /// A subset of a DestinationRule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subset: Option<String>,
    /// The service port; `None` = the one that the request was for, or the only one that the service has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// Header operations; names are lower case and valid.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderOperations {
    /// Of the request.
    #[serde(default)]
    pub request: HeaderEdits,
    /// Of the response.
    #[serde(default)]
    pub response: HeaderEdits,
}

impl HeaderOperations {
    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.request.is_empty() && self.response.is_empty()
    }
}

/// Removed first, then set, then added, in Envoy's order. Setting `host` or `:authority` changes the authority.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderEdits {
    /// Replaced.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// Appended.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub add: BTreeMap<String, String>,
    /// Removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

impl HeaderEdits {
    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

/// Changes of path and authority.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    /// Replaces the matched prefix; without a match on the path the prefix is `/`, as in the route that Istio makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// Replaces the authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// Replaces what the expression matches in the path; the second is RE2's rewrite with `\1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<RegexRewrite>,
}

/// `uriRegexRewrite`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegexRewrite {
    /// What is searched for (not anchored); a [`Pattern`] because it is checked like one.
    pub pattern: Pattern,
    /// What takes its place.
    pub substitution: String,
}

/// `redirect`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// The new path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// Replaces the matched prefix instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_rewrite: Option<String>,
    /// The new authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// The new scheme.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// The new port.
    #[serde(default)]
    pub port: RedirectPort,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// Where a redirect's port comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RedirectPort {
    /// As in the request's authority, unless the scheme changes.
    #[default]
    AsRequested,
    /// This one.
    Number(u16),
    /// The scheme's own, so none is written.
    ProtocolDefault,
    /// The port that the request arrived on.
    FromRequest,
}

/// `directResponse`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: u16,
    /// At most 1 MiB.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub body: Vec<u8>,
}

/// A share of requests in parts per million, exact to Envoy's finest step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Share(u32);

impl Share {
    /// All.
    pub const ALL: Self = Self(1_000_000);

    /// Of a percentage; outside of 0 to 100 there is none.
    pub fn of_percent(percent: f64) -> Option<Self> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 1,000,000")]
        (0.0..=100.0).contains(&percent).then(|| Self((percent * 10_000.0).round() as u32))
    }

    /// Whether a draw (any number, evenly distributed) is a hit.
    pub fn hits(self, draw: u32) -> bool {
        u64::from(draw) * 1_000_000 < u64::from(self.0) << 32
    }

    /// In percent.
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }
}

/// `fault`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultInjection {
    /// Wait before forwarding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<DelayFault>,
    /// Answer instead of forwarding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<AbortFault>,
}

/// `fault.delay`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DelayFault {
    /// Whom it hits.
    pub share: Share,
    /// How long.
    #[serde(with = "super::limit::millis")]
    pub delay: Duration,
}

/// `fault.abort`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AbortFault {
    /// Whom it hits.
    pub share: Share,
    /// With what.
    pub with: AbortWith,
}

/// The answer of an injected abort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AbortWith {
    /// An HTTP status.
    Http(u16),
    /// A gRPC status code, in an HTTP 200 for gRPC clients; others get the mapped HTTP status.
    Grpc(u32),
}

/// A copy of requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// Where it goes. Its authority gets `-shadow` appended.
    pub destination: Destination,
    /// How many.
    pub share: Share,
}

/// `corsPolicy`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorsPolicy {
    /// Origins that are allowed.
    pub allow_origins: Vec<StringMatch>,
    /// `Access-Control-Allow-Methods`.
    #[serde(default)]
    pub allow_methods: Vec<String>,
    /// `Access-Control-Allow-Headers`.
    #[serde(default)]
    pub allow_headers: Vec<String>,
    /// `Access-Control-Expose-Headers`.
    #[serde(default)]
    pub expose_headers: Vec<String>,
    /// `Access-Control-Max-Age`.
    #[serde(default, with = "super::limit::optional_millis")]
    pub max_age: Option<Duration>,
    /// `Access-Control-Allow-Credentials`; `None` leaves it out.
    #[serde(default)]
    pub allow_credentials: Option<bool>,
    /// Preflights from other origins go to the application (`FORWARD`, the default); else they are answered here.
    #[serde(default)]
    pub answer_unmatched_preflights: bool,
}
