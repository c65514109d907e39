//! What is asked of those who reach a workload: PeerAuthentication, RequestAuthentication, AuthorizationPolicy, limits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::limit::millis;
use super::{BodyLimit, ConnectionPool, Destination, InboundListener, ObjectRef, Origin, RateLimit, StringMatch};
use crate::model::MtlsMode;

/// Everything that a workload or gateway asks of its clients.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InboundPolicy {
    /// Which transport is accepted; `None` = [`crate::Workload::mtls`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<PeerPolicyRule>,
    /// By port of the workload.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub port_mtls: BTreeMap<u16, PeerPolicyRule>,
    /// Tokens that are verified. A request with an invalid token is refused; one without a token passes, without claims.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<Arc<TokenRule>>,
    /// Authorization policies; their order does not matter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authorization: Vec<Arc<AuthorizationRules>>,
    /// Rate limits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Arc<RateLimit>>,
    /// Limits of the bodies of requests; the smallest counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub body_limits: Vec<Arc<BodyLimit>>,
    /// Limits of connections to the application (`Sidecar.inboundConnectionPool`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<ConnectionPool>,
    /// What a Sidecar says about single ports of the workload (`ingress`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub listeners: BTreeMap<u16, InboundListener>,
    /// Hops in front that may be believed in `x-forwarded-for` (MeshConfig `gatewayTopology.numTrustedProxies`).
    #[serde(default)]
    pub trusted_hops: u32,
}

/// A PeerAuthentication mode and who said it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerPolicyRule {
    /// The PeerAuthentication.
    pub origin: ObjectRef,
    /// What it says.
    pub mode: MtlsMode,
}

/// One `jwtRules` entry of a RequestAuthentication.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRule {
    /// Where it comes from.
    pub origin: Origin,
    /// The `iss` that it is about.
    pub issuer: String,
    /// Any of them must be in `aud`; empty = any audience.
    #[serde(default)]
    pub audiences: Vec<String>,
    /// The keys.
    pub keys: KeySource,
    /// Headers with the prefix before the token.
    #[serde(default)]
    pub from_headers: Vec<TokenHeader>,
    /// Query parameters.
    #[serde(default)]
    pub from_params: Vec<String>,
    /// Cookies. With no location at all: `Authorization: Bearer ` and the parameter `access_token`.
    #[serde(default)]
    pub from_cookies: Vec<String>,
    /// Keep the token in the request for the application.
    #[serde(default)]
    pub forward: bool,
    /// Header that gets the payload, base64url.
    #[serde(default)]
    pub payload_to_header: Option<String>,
    /// Header ← claim (nested by `.`).
    #[serde(default)]
    pub claims_to_headers: Vec<(String, String)>,
    /// Of fetching keys (default 5 s).
    #[serde(with = "millis")]
    pub timeout: Duration,
    /// Claims besides `scope` whose text is a list separated by spaces.
    #[serde(default)]
    pub space_delimited_claims: Vec<String>,
}

/// A header that carries a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenHeader {
    /// Lower-case name.
    pub name: String,
    /// What stands before the token, such as `Bearer `.
    #[serde(default)]
    pub prefix: String,
}

/// Where keys come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeySource {
    /// A JSON Web Key Set (RFC 7517).
    Inline(String),
    /// Fetched, kept, and fetched again when it grows old or a token names an unknown key.
    Uri(String),
    /// The same, from where the issuer of this URL says (OpenID Connect Discovery 1.0 §4).
    Issuer(String),
}

/// One AuthorizationPolicy that selects the workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorizationRules {
    /// The object.
    pub origin: ObjectRef,
    /// What a match means.
    pub action: AuthorizationAction,
    /// Any of them; empty = nothing matches.
    #[serde(default)]
    pub rules: Vec<AuthorizationRule>,
    /// `istio.io/dry-run`: it is evaluated and logged, and changes nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// `action`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthorizationAction {
    /// With at least one such policy, what none of them matches is denied.
    Allow,
    /// What matches is denied.
    Deny,
    /// What matches is marked in the access log.
    Audit,
    /// What matches is put before an external service first.
    Custom(Arc<ExternalAuthorizer>),
}

/// `extensionProviders` of MeshConfig: `envoyExtAuthzHttp` and `envoyExtAuthzGrpc`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalAuthorizer {
    /// The provider's name.
    pub name: String,
    /// Its service and port.
    pub destination: Destination,
    /// Of one check (default 600 s in Istio).
    #[serde(with = "millis")]
    pub timeout: Duration,
    /// Let requests pass when it cannot be asked.
    pub fail_open: bool,
    /// Status of the answer when it cannot be asked and that does not pass.
    pub status_on_error: u16,
    /// Send up to this many bytes of the body along.
    #[serde(default)]
    pub body: Option<ExternalAuthorizerBody>,
    /// How it is spoken to.
    pub protocol: ExternalAuthorizerProtocol,
}

/// `includeRequestBodyInCheck`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalAuthorizerBody {
    /// Bytes.
    pub max_bytes: u32,
    /// Send a part when there is more; else such a request is refused with 413.
    pub allow_partial: bool,
}

/// HTTP or gRPC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ExternalAuthorizerProtocol {
    /// `envoy.service.auth.v3.Authorization/Check`.
    Grpc,
    /// A request with the same method, path and chosen headers; 200 allows.
    Http {
        /// Put before the path.
        path_prefix: String,
        /// Headers of the client's request that go along, besides the fixed ones.
        include_request_headers: Vec<StringMatch>,
        /// Headers that are added to the check.
        add_request_headers: BTreeMap<String, String>,
        /// Headers of an allowing answer that are set on the request.
        upstream_headers: Vec<StringMatch>,
        /// Headers of a denying answer that go to the client.
        downstream_headers_on_deny: Vec<StringMatch>,
        /// Headers of an allowing answer that go to the client.
        downstream_headers_on_allow: Vec<StringMatch>,
    },
}

/// One rule: one source, one operation and all conditions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorizationRule {
    /// Where it comes from.
    pub origin: Origin,
    /// Any of them; empty = any source.
    #[serde(default)]
    pub from: Vec<SourceMatch>,
    /// Any of them; empty = any operation.
    #[serde(default)]
    pub to: Vec<OperationMatch>,
    /// All of them.
    #[serde(default)]
    pub when: Vec<Condition>,
}

/// A pair of lists: one of `any` must match (empty = no demand) and none of `not`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnyNot<T> {
    /// Any of them; empty = all.
    #[serde(default = "Vec::new")]
    pub any: Vec<T>,
    /// None of them.
    #[serde(default = "Vec::new")]
    pub not: Vec<T>,
}

impl<T> Default for AnyNot<T> {
    fn default() -> Self {
        Self { any: Vec::new(), not: Vec::new() }
    }
}

impl<T> AnyNot<T> {
    /// Whether nothing is demanded.
    pub fn is_empty(&self) -> bool {
        self.any.is_empty() && self.not.is_empty()
    }

    /// Whether a value that some elements match fits. An absent value matches no element.
    pub fn fits(&self, mut matches: impl FnMut(&T) -> bool) -> bool {
        (self.any.is_empty() || self.any.iter().any(&mut matches)) && !self.not.iter().any(matches)
    }
}

/// `source`. Principals are without `spiffe://`; the compiler has replaced `cluster.local` by the own trust domain and
/// its aliases.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceMatch {
    /// `<trust domain>/ns/<namespace>/sa/<account>` proven by mTLS.
    #[serde(default)]
    pub principals: AnyNot<StringMatch>,
    /// `<iss>/<sub>` of a verified token.
    #[serde(default)]
    pub request_principals: AnyNot<StringMatch>,
    /// Namespace of the identity.
    #[serde(default)]
    pub namespaces: AnyNot<StringMatch>,
    /// `<namespace>/<account>` of the identity.
    #[serde(default)]
    pub service_accounts: AnyNot<StringMatch>,
    /// Trust domain of the identity.
    #[serde(default)]
    pub trust_domains: AnyNot<StringMatch>,
    /// The address of the connection.
    #[serde(default)]
    pub ip_blocks: AnyNot<IpNet>,
    /// The client's address, behind trusted hops.
    #[serde(default)]
    pub remote_ip_blocks: AnyNot<IpNet>,
}

/// `operation`. On a connection that is not HTTP an ALLOW rule with HTTP fields matches never, a DENY rule as if they
/// were not there (Istio's rule, so that a denial is never weaker than it looks).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperationMatch {
    /// The authority, compared without case; with and without its port.
    #[serde(default)]
    pub hosts: AnyNot<StringMatch>,
    /// Ports of the workload.
    #[serde(default)]
    pub ports: AnyNot<u16>,
    /// Methods.
    #[serde(default)]
    pub methods: AnyNot<StringMatch>,
    /// Paths, normalised, without the query.
    #[serde(default)]
    pub paths: AnyNot<PathMatch>,
}

/// A path pattern.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathMatch {
    /// A plain value or one with a star at an end.
    Text(StringMatch),
    /// With `{*}` (one segment) or `{**}` (the rest), as segments.
    Template(Vec<TemplateSegment>),
}

/// One segment of a path template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TemplateSegment {
    /// This text.
    Literal(String),
    /// `{*}`: exactly one segment, not empty.
    One,
    /// `{**}`: any number of segments, also none.
    Many,
}

/// One `when` entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// What is looked at.
    pub key: ConditionKey,
    /// Values, compared as the key is compared.
    pub values: AnyNot<ConditionValue>,
}

/// The value of a condition, by what its key is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConditionValue {
    /// Texts.
    Text(StringMatch),
    /// Addresses.
    Block(IpNet),
    /// Ports.
    Port(u16),
}

/// The keys of Istio's authorization conditions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConditionKey {
    /// `request.headers[name]`, lower case.
    Header(String),
    /// `source.ip`.
    SourceIp,
    /// `remote.ip`.
    RemoteIp,
    /// `source.namespace`.
    SourceNamespace,
    /// `source.principal`.
    SourcePrincipal,
    /// `source.serviceAccount`.
    SourceServiceAccount,
    /// `source.trustDomain`.
    SourceTrustDomain,
    /// `request.auth.principal`.
    RequestPrincipal,
    /// `request.auth.audiences`.
    Audiences,
    /// `request.auth.presenter`.
    Presenter,
    /// `request.auth.claims[a][b]`.
    Claim(Vec<String>),
    /// `destination.ip`.
    DestinationIp,
    /// `destination.port`.
    DestinationPort,
    /// `connection.sni`.
    Sni,
}
