//! The Multi-Cluster Services API (KEP-1645), `multicluster.x-k8s.io`. v1beta1 is the type; v1alpha1 has the same
//! schema and is read into it.

#![expect(unreachable_pub, reason = "the derive of KubeSchema copies every struct into the body of a function")]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// The annotation of a ServiceExport with the clusters that may see it, separated by commas; absent = every member.
pub const EXPORT_TO_ANNOTATION: &str = "isthmus.dev/export-to";

/// The annotation of a ServiceExport that says whether gateways speak for its pods without a sidecar: `allow` or `deny` (the
/// default).
pub const UNMESHED_ANNOTATION: &str = "isthmus.dev/unmeshed";

/// The annotation of a ServiceExport with the service account as which gateways speak for its pods without a sidecar; absent =
/// the pods' own.
pub const UNMESHED_ACCOUNT_ANNOTATION: &str = "isthmus.dev/unmeshed-service-account";

/// The clusters that an export names in [`EXPORT_TO_ANNOTATION`]; `None` = every member.
pub fn export_to(export: &ServiceExport) -> Option<Vec<String>> {
    let value = export.metadata.annotations.as_ref()?.get(EXPORT_TO_ANNOTATION)?;
    Some(value.split(',').map(|cluster| cluster.trim().to_owned()).collect())
}

/// What an export says about its pods without a sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unmeshed<'a> {
    /// Other clusters do not reach them.
    Deny,
    /// Gateways speak for them, as this service account or (`None`) as the pods' own.
    Allow(Option<&'a str>),
}

/// What an export says in [`UNMESHED_ANNOTATION`] and [`UNMESHED_ACCOUNT_ANNOTATION`].
pub fn unmeshed(export: &ServiceExport) -> Unmeshed<'_> {
    let said = |name: &str| export.metadata.annotations.as_ref()?.get(name).map(String::as_str);
    match said(UNMESHED_ANNOTATION) {
        Some("allow") => Unmeshed::Allow(said(UNMESHED_ACCOUNT_ANNOTATION)),
        _ => Unmeshed::Deny,
    }
}

/// What stands beside the metadata of a ServiceExport. `spec` is optional in the standard, and most exports have none.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[kube(
    group = "multicluster.x-k8s.io",
    version = "v1beta1",
    kind = "ServiceExport",
    namespaced,
    no_spec,
    status = "ServiceExportStatus",
    shortname = "svcex",
    shortname = "svcexport",
    derive = "PartialEq",
    doc = "ServiceExport declares that the Service with the same name and namespace as this export should be consumable from other clusters.",
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
pub struct ServiceExportFields {
    /// Labels and annotations to export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<ServiceExportSpec>,
}

/// Labels and annotations that travel with an export; those of the Service itself do not.
#[derive(KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceExportSpec {
    /// Labels of the imported service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub exported_labels: BTreeMap<String, String>,
    /// Annotations of the imported service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub exported_annotations: BTreeMap<String, String>,
}

/// What became of an export.
#[derive(KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ServiceExportStatus {
    /// `Valid`, `Ready` and `Conflict`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
}

/// A service of the cluster set: what all exports of one namespace and name amount to.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "multicluster.x-k8s.io",
    version = "v1beta1",
    kind = "ServiceImport",
    namespaced,
    status = "ServiceImportStatus",
    shortname = "svcim",
    shortname = "svcimport",
    derive = "PartialEq",
    doc = "ServiceImport describes a service imported from clusters in a ClusterSet.",
    printcolumn = r#"{"name": "Type", "type": "string", "description": "The type of this ServiceImport", "jsonPath": ".spec.type"}"#,
    printcolumn = r#"{"name": "IP", "type": "string", "description": "The VIP for this ServiceImport", "jsonPath": ".spec.ips"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
pub struct ServiceImportSpec {
    /// The ports of the service.
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub ports: Vec<ImportPort>,
    /// Whether it has an address of its own.
    #[serde(rename = "type")]
    pub type_: ImportType,
    /// The clusterset addresses; only of type ClusterSetIP, one for each family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub ips: Vec<String>,
    /// The families of the addresses, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub ip_families: Vec<IpFamily>,
    /// `ClientIP` or `None`; ignored when the type is Headless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<String>,
    /// How long an affinity lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity_config: Option<SessionAffinityConfig>,
    /// `Cluster` or `Local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_traffic_policy: Option<String>,
    /// Which endpoints to prefer, such as `PreferClose`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<String>,
}

/// A port of an import.
#[derive(KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportPort {
    /// Its name; optional if it is the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `TCP` (the default), `UDP` or `SCTP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The application protocol, such as `http` or `kubernetes.io/h2c`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
    /// Its number.
    pub port: i32,
}

/// Whether an import has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum ImportType {
    /// One address for all endpoints.
    ClusterSetIP,
    /// The name leads to the endpoints' own addresses.
    Headless,
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum IpFamily {
    /// A records.
    IPv4,
    /// AAAA records.
    IPv6,
}

/// How long an affinity lasts.
#[derive(KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SessionAffinityConfig {
    /// For affinity by client address.
    #[serde(default, rename = "clientIP", skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<ClientIpConfig>,
}

/// Affinity by client address.
#[derive(KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientIpConfig {
    /// 1 to 86400; 10800 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<i32>,
}

/// Where an import comes from and whether it works.
#[derive(KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ServiceImportStatus {
    /// The exporting clusters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["cluster".to_owned()]))]
    pub clusters: Vec<ClusterStatus>,
    /// `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
}

/// One exporting cluster.
#[derive(KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Its name.
    pub cluster: String,
}
