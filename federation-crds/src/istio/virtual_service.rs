//! VirtualService (`networking.istio.io`): the routes of hosts.

#![expect(
    missing_docs,
    reason = "the fields are those of https://istio.io/latest/docs/reference/config/networking/virtual-service/"
)]

use std::collections::BTreeMap;

use super::IstioStatus;
use super::fields::{message, words};

message! {
    /// The specification of a VirtualService.
    kube(kind = "VirtualService", shortname = "vs")
    struct VirtualServiceSpec {
        hosts: Vec<String>,
        gateways: Vec<String>,
        http: Vec<HttpRoute>,
        tls: Vec<TlsRoute>,
        tcp: Vec<TcpRoute>,
        export_to: Vec<String>,
    }

    /// One HTTP rule.
    struct HttpRoute {
        name: String,
        #[serde(rename = "match")]
        matches: Vec<HttpMatchRequest>,
        route: Vec<HttpRouteDestination>,
        redirect: Option<HttpRedirect>,
        direct_response: Option<HttpDirectResponse>,
        delegate: Option<Delegate>,
        rewrite: Option<HttpRewrite>,
        timeout: Option<String>,
        retries: Option<HttpRetry>,
        fault: Option<HttpFault>,
        mirror: Option<Destination>,
        mirrors: Vec<HttpMirror>,
        /// Deprecated: `mirrorPercentage`.
        mirror_percent: Option<i64>,
        /// Deprecated: `mirrorPercentage`.
        #[serde(rename = "mirror_percent")]
        mirror_percent_snake: Option<i64>,
        mirror_percentage: Option<Percent>,
        cors_policy: Option<CorsPolicy>,
        headers: Option<Headers>,
    }

    /// Conditions of which all must hold.
    struct HttpMatchRequest {
        name: String,
        uri: Option<StringMatch>,
        scheme: Option<StringMatch>,
        method: Option<StringMatch>,
        authority: Option<StringMatch>,
        headers: BTreeMap<String, StringMatch>,
        without_headers: BTreeMap<String, StringMatch>,
        query_params: BTreeMap<String, StringMatch>,
        port: i64,
        source_labels: BTreeMap<String, String>,
        source_namespace: String,
        gateways: Vec<String>,
        ignore_uri_case: bool,
        stat_prefix: String,
    }

    /// How a text is compared; none of the three means that it is present.
    struct StringMatch {
        exact: Option<String>,
        prefix: Option<String>,
        regex: Option<String>,
    }

    /// A place to send to, and its share.
    struct HttpRouteDestination {
        destination: Option<Destination>,
        weight: i64,
        headers: Option<Headers>,
    }

    /// A service, or a subset of one.
    struct Destination {
        host: String,
        subset: String,
        port: Option<PortSelector>,
    }

    /// A port by number.
    struct PortSelector {
        number: i64,
    }

    /// Header operations.
    struct Headers {
        request: Option<HeaderOperations>,
        response: Option<HeaderOperations>,
    }

    /// Header operations of one direction.
    struct HeaderOperations {
        set: BTreeMap<String, String>,
        add: BTreeMap<String, String>,
        remove: Vec<String>,
    }

    /// An answer that sends the client elsewhere.
    struct HttpRedirect {
        uri: String,
        prefix_rewrite: String,
        authority: String,
        port: Option<i64>,
        derive_port: Option<DerivePort>,
        scheme: String,
        redirect_code: i64,
    }

    /// An answer made by the proxy.
    struct HttpDirectResponse {
        status: i64,
        body: Option<HttpBody>,
    }

    /// The body of an answer.
    struct HttpBody {
        string: Option<String>,
        /// Base64.
        bytes: Option<String>,
    }

    /// Another VirtualService, whose rules take this one's place.
    struct Delegate {
        name: String,
        namespace: String,
    }

    /// Changes of path and authority.
    struct HttpRewrite {
        uri: String,
        authority: String,
        uri_regex_rewrite: Option<RegexRewrite>,
    }

    /// Changes of the path by a regular expression.
    struct RegexRewrite {
        #[serde(rename = "match")]
        pattern: String,
        rewrite: String,
    }

    /// Retries.
    struct HttpRetry {
        attempts: i64,
        per_try_timeout: Option<String>,
        retry_on: String,
        retry_remote_localities: Option<bool>,
        retry_ignore_previous_hosts: Option<bool>,
        backoff: Option<String>,
    }

    /// Faults that are put in.
    struct HttpFault {
        delay: Option<FaultDelay>,
        abort: Option<FaultAbort>,
    }

    /// Waiting before forwarding.
    struct FaultDelay {
        fixed_delay: Option<String>,
        exponential_delay: Option<String>,
        percentage: Option<Percent>,
        /// Deprecated: `percentage`.
        percent: Option<i64>,
    }

    /// An answer instead of forwarding.
    struct FaultAbort {
        http_status: Option<i64>,
        grpc_status: Option<String>,
        http2_error: Option<String>,
        percentage: Option<Percent>,
    }

    /// 0 to 100.
    struct Percent {
        value: f64,
    }

    /// Copies of requests.
    struct HttpMirror {
        destination: Option<Destination>,
        percentage: Option<Percent>,
    }

    /// Cross-origin rules.
    struct CorsPolicy {
        allow_origins: Vec<StringMatch>,
        /// Deprecated: `allowOrigins`.
        allow_origin: Vec<String>,
        allow_methods: Vec<String>,
        allow_headers: Vec<String>,
        expose_headers: Vec<String>,
        max_age: Option<String>,
        allow_credentials: Option<bool>,
        unmatched_preflights: UnmatchedPreflights,
    }

    /// One rule for TLS that is passed through.
    struct TlsRoute {
        #[serde(rename = "match")]
        matches: Vec<TlsMatchAttributes>,
        route: Vec<RouteDestination>,
    }

    /// Conditions of which all must hold.
    struct TlsMatchAttributes {
        sni_hosts: Vec<String>,
        destination_subnets: Vec<String>,
        port: i64,
        source_labels: BTreeMap<String, String>,
        source_namespace: String,
        gateways: Vec<String>,
    }

    /// One TCP rule.
    struct TcpRoute {
        #[serde(rename = "match")]
        matches: Vec<L4MatchAttributes>,
        route: Vec<RouteDestination>,
    }

    /// Conditions of which all must hold.
    struct L4MatchAttributes {
        destination_subnets: Vec<String>,
        port: i64,
        source_labels: BTreeMap<String, String>,
        source_namespace: String,
        source_subnet: String,
        gateways: Vec<String>,
    }

    /// A place to send to, and its share.
    struct RouteDestination {
        destination: Option<Destination>,
        weight: i64,
    }
}

words! {
    /// Where the port of a redirect comes from.
    enum DerivePort { FromProtocolDefault = "FROM_PROTOCOL_DEFAULT", FromRequestPort = "FROM_REQUEST_PORT" }

    /// What happens to preflights from origins that do not match.
    enum UnmatchedPreflights { Unspecified = "UNSPECIFIED", Forward = "FORWARD", Ignore = "IGNORE" }
}
