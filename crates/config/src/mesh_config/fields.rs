//! The fields of MeshConfig, one by one: those that have an effect, those that have none here, and slips.

use mesh::{PathNormalization, UnknownHosts};
use serde_json::{Map, Value};

use super::{MeshConfig, Number, ROOT_NAMESPACE, Reader, providers};

/// Fields that have an effect.
const KNOWN: &[&str] = &[
    "rootNamespace",
    "trustDomain",
    "trustDomainAliases",
    "outboundTrafficPolicy",
    "extensionProviders",
    "enableAutoMtls",
    "localityLbSetting",
    "defaultConfig",
    "pathNormalization",
];

/// Fields of Istio that concern its installation, its proxies or its telemetry, and what applies here instead.
const ELSEWHERE: &[(&[&str], &str)] = &[
    (
        &["accessLogFile", "accessLogFormat", "accessLogEncoding", "enableEnvoyAccessLogService", "defaultProviders"],
        "every proxy writes one access-log line for a request to its log (RUST_LOG); its form is fixed",
    ),
    (
        &[
            "enableTracing",
            "enablePrometheusMerge",
            "disableEnvoyListenerLog",
            "statsTags",
            "defaultHttpRetryPolicyLog",
        ],
        "metrics are at /metrics of every process's admin address",
    ),
    (
        &["protocolDetectionTimeout", "connectTimeout", "tcpKeepalive", "h2UpgradePolicy", "h2Upgrade"],
        "write it into connectionPool of a DestinationRule",
    ),
    (&["defaultHttpRetryPolicy"], "write retries into the VirtualService"),
    (
        &["defaultServiceExportTo", "defaultVirtualServiceExportTo", "defaultDestinationRuleExportTo"],
        "objects are exported to every namespace unless their exportTo says otherwise",
    ),
    (
        &[
            "ingressClass",
            "ingressService",
            "ingressControllerMode",
            "ingressSelector",
            "proxyListenPort",
            "proxyInboundListenPort",
            "proxyHttpPort",
            "configSources",
            "serviceSettings",
            "discoverySelectors",
            "dnsRefreshRate",
            "certificates",
            "caCertificates",
            "ca",
            "verifyCertificateAtClient",
            "meshMTLS",
            "tlsDefaults",
            "thriftConfig",
            "mixerCheckServer",
            "inboundTrafficPolicy",
            "hboneIdleTimeout",
            "inboundClusterStatName",
            "outboundClusterStatName",
            "serviceScopeConfigs",
            "authPolicy",
            "sdsUdsPath",
            "disablePolicyChecks",
            "disableMixerHttpReports",
            "enableClientSidePolicyCheck",
            "sidecarToTelemetrySessionAffinity",
            "reportBatchMaxEntries",
            "reportBatchMaxTime",
            "proxyMetadata",
            "networkId",
            "mode",
            "meshNetworks",
        ],
        "it concerns Istio's own installation",
    ),
];

/// Reads all of them.
pub(super) fn read(config: &mut MeshConfig, members: &Map<String, Value>, reader: &mut Reader<'_>) {
    for (name, value) in members {
        let path = format!("data.mesh.{name}");
        match name.as_str() {
            "rootNamespace" => root_namespace(config, value, &path, reader),
            "trustDomain" => trust_domain(value, &path, reader),
            "trustDomainAliases" => {
                config.trust_domain_aliases = reader.typed(&path, value).unwrap_or_default();
                config.trust_domain_aliases.sort();
                config.trust_domain_aliases.dedup();
            }
            "outboundTrafficPolicy" => outbound(config, value, &path, reader),
            "extensionProviders" => config.authorizers = providers::read(value, &path, reader),
            "enableAutoMtls" => config.auto_mtls = reader.typed(&path, value).unwrap_or(true),
            "localityLbSetting" => config.locality = reader.typed(&path, value),
            "defaultConfig" => default_config(config, value, &path, reader),
            "pathNormalization" => path_normalization(config, value, &path, reader),
            _ => other(name, &path, reader),
        }
    }
}

fn other(name: &str, path: &str, reader: &mut Reader<'_>) {
    match ELSEWHERE.iter().find(|(names, _)| names.contains(&name)) {
        Some((_, hint)) => reader.without_effect(path, hint),
        None => reader.wrong(path, "unknown field", &format!("possible are {}", KNOWN.join(", "))),
    }
}

fn root_namespace(config: &mut MeshConfig, value: &Value, path: &str, reader: &mut Reader<'_>) {
    let Some(name) = reader.typed::<String>(path, value).filter(|name| !name.is_empty()) else { return };
    match mesh::Namespace::new(name.as_str()) {
        Ok(_) => config.root_namespace = name,
        Err(error) => reader.wrong(path, &error.to_string(), &format!("leave it out for {ROOT_NAMESPACE}")),
    }
}

/// `cluster.local` means the own trust domain everywhere, so only another name is a misunderstanding.
fn trust_domain(value: &Value, path: &str, reader: &mut Reader<'_>) {
    if value.as_str() != Some("cluster.local") {
        reader.without_effect(
            path,
            "the trust domain is given to a cluster when it joins the mesh; add further names to trustDomainAliases",
        );
    }
}

fn outbound(config: &mut MeshConfig, value: &Value, path: &str, reader: &mut Reader<'_>) {
    match value.get("mode").and_then(Value::as_str) {
        Some("ALLOW_ANY") | None => config.unknown_hosts = UnknownHosts::Allow,
        Some("REGISTRY_ONLY") => config.unknown_hosts = UnknownHosts::Refuse,
        Some(other) => {
            let message = format!("{other:?} is no mode");
            reader.wrong(&format!("{path}.mode"), &message, "write ALLOW_ANY or REGISTRY_ONLY");
        }
    }
    for name in value.as_object().into_iter().flat_map(Map::keys).filter(|name| *name != "mode") {
        reader.wrong(&format!("{path}.{name}"), "unknown field", "did you mean mode?");
    }
}

fn path_normalization(config: &mut MeshConfig, value: &Value, path: &str, reader: &mut Reader<'_>) {
    config.paths = match value.get("normalization") {
        None | Some(Value::Null) => PathNormalization::default(),
        Some(named) => match named.as_str() {
            Some("DEFAULT" | "BASE") => PathNormalization::Base,
            Some("NONE") => PathNormalization::None,
            Some("MERGE_SLASHES") => PathNormalization::MergeSlashes,
            Some("DECODE_AND_MERGE_SLASHES") => PathNormalization::DecodeAndMergeSlashes,
            _ => {
                let message = format!("{named} is no way to normalise paths; BASE stays");
                let hint = "possible are DEFAULT, NONE, BASE, MERGE_SLASHES, DECODE_AND_MERGE_SLASHES";
                reader.wrong(&format!("{path}.normalization"), &message, hint);
                PathNormalization::default()
            }
        },
    };
    if !value.is_object() {
        reader.wrong(path, "is not an object", "write {normalization: BASE}");
    }
    for name in value.as_object().into_iter().flat_map(Map::keys).filter(|name| *name != "normalization") {
        reader.wrong(&format!("{path}.{name}"), "unknown field", "did you mean normalization?");
    }
}

fn default_config(config: &mut MeshConfig, value: &Value, path: &str, reader: &mut Reader<'_>) {
    for (name, member) in value.as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        if name != "gatewayTopology" {
            reader.without_effect(
                &path,
                "the proxies of this mesh have configuration files of their own; see ARCHITECTURE.md",
            );
            continue;
        }
        for (name, member) in member.as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            match name.as_str() {
                "numTrustedProxies" => config.trusted_hops = reader.typed(&path, member).unwrap_or(Number(0)).0,
                _ => reader.without_effect(&path, "only numTrustedProxies is implemented"),
            }
        }
    }
}
