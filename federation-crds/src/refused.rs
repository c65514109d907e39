//! Kinds of Istio and its neighbours that are not implemented, and what to use instead. They are refused by name, so that
//! nobody believes that they have an effect.

/// Group, kinds, and the advice.
const REFUSED: &[(&str, &[&str], &str)] = &[
    (
        "",
        &["Endpoints"],
        "nothing mirrors it here; write an EndpointSlice (discovery.k8s.io/v1) with the label \
         kubernetes.io/service-name, or for hosts outside of the cluster a ServiceEntry",
    ),
    (
        "networking.istio.io",
        &["EnvoyFilter"],
        "it patches Envoy, which is not there. For rate limits use a RateLimitPolicy, for external authorization the \
         action CUSTOM of an AuthorizationPolicy with an extension provider, for headers, retries, timeouts, faults, CORS \
         and direct responses a VirtualService, for connection limits and TLS a DestinationRule, for trusted proxies \
         MeshConfig's gatewayTopology",
    ),
    (
        "extensions.istio.io",
        &["WasmPlugin", "TrafficExtension"],
        "code cannot be loaded into the proxies. Use the action CUSTOM of an AuthorizationPolicy to ask a service of \
         your own, a RateLimitPolicy for limits, a VirtualService for headers",
    ),
    (
        "telemetry.istio.io",
        &["Telemetry"],
        "metrics, access logs and traces have one fixed form; scrape /metrics of the admin address of every process",
    ),
    (
        "networking.istio.io",
        &["ProxyConfig"],
        "the proxies are configured by flags and environment; numTrustedProxies stands in MeshConfig's \
         defaultConfig.gatewayTopology",
    ),
    (
        "networking.istio.io",
        &["WorkloadGroup"],
        "workloads do not register themselves; write a WorkloadEntry for each, and select them with a ServiceEntry",
    ),
    (
        "install.istio.io",
        &["IstioOperator"],
        "it installs Istio. Put the meshConfig part into the ConfigMap istio of istio-system, key mesh",
    ),
    (
        "sailoperator.io",
        &["Istio", "IstioRevision", "IstioCNI", "ZTunnel"],
        "it installs Istio; it has no meaning here",
    ),
    (
        "gateway.networking.k8s.io",
        &["HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute"],
        "the Gateway API is not implemented; write a VirtualService (networking.istio.io/v1)",
    ),
    (
        "gateway.networking.k8s.io",
        &["Gateway", "GatewayClass", "ReferenceGrant", "BackendTLSPolicy"],
        "the Gateway API is not implemented; write a Gateway of networking.istio.io/v1, and a DestinationRule for TLS \
         towards services",
    ),
    (
        "networking.k8s.io",
        &["Ingress", "IngressClass"],
        "write a Gateway and a VirtualService (networking.istio.io/v1)",
    ),
    (
        "networking.k8s.io",
        &["NetworkPolicy"],
        "packets are the network's; for connections and requests write an AuthorizationPolicy (security.istio.io/v1)",
    ),
    (
        "config.istio.io",
        &["rule", "handler", "instance", "QuotaSpec", "QuotaSpecBinding", "HTTPAPISpec", "HTTPAPISpecBinding"],
        "Mixer is gone from Istio, too; use a RateLimitPolicy or an AuthorizationPolicy",
    ),
    (
        "rbac.istio.io",
        &["ServiceRole", "ServiceRoleBinding", "ClusterRbacConfig", "RbacConfig"],
        "it is gone from Istio, too; write an AuthorizationPolicy (security.istio.io/v1)",
    ),
    (
        "authentication.istio.io",
        &["Policy", "MeshPolicy"],
        "it is gone from Istio, too; write a PeerAuthentication and a RequestAuthentication (security.istio.io/v1)",
    ),
];

/// What to use instead of a kind that is known and refused.
pub(crate) fn advice(api_version: &str, kind: &str) -> Option<&'static str> {
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let found = REFUSED.iter().find(|(of, kinds, _)| *of == group && kinds.contains(&kind));
    found.map(|(_, _, advice)| *advice)
}
