//! Gateway (`networking.istio.io`): the listeners of an ingress or egress gateway.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::IstioStatus;

/// The specification of a Gateway.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "networking.istio.io",
    version = "v1",
    kind = "Gateway",
    namespaced,
    status = "IstioStatus",
    shortname = "gw",
    derive = "PartialEq"
)]
pub struct GatewaySpec {
    /// Labels of the gateway workloads that run it, of any namespace; empty = every gateway workload.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, String>,
    /// What they serve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<Server>,
}

/// One port and the hosts that it serves.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Server {
    /// Its name, for logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The port.
    pub port: Port,
    /// An address to listen on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind: Option<String>,
    /// `host` or `namespace/host`.
    pub hosts: Vec<String>,
    /// How TLS ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ServerTlsSettings>,
    /// Has no effect in Istio either, and is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_endpoint: Option<String>,
}

/// A port of a gateway or of a sidecar's listener.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// Its number.
    #[serde(default)]
    pub number: i64,
    /// What it speaks.
    #[serde(default)]
    pub protocol: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Of a ServiceEntry's port only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<i64>,
}

/// How TLS ends.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerTlsSettings {
    /// Answer plain text with a redirect to `https`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https_redirect: Option<bool>,
    /// What happens to TLS.
    pub mode: TlsMode,
    /// A Secret of the gateway's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential_name: Option<String>,
    /// Several Secrets, for several key types.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub credential_names: Vec<String>,
    /// A Secret with the roots for client certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_cert_credential_name: Option<String>,
    /// File with the certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_certificate: Option<String>,
    /// File with the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key: Option<String>,
    /// File with the roots for client certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_certificates: Option<String>,
    /// File with the revocation list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_crl: Option<String>,
    /// Several pairs of files, for several key types.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tls_certificates: Vec<TlsCertificate>,
    /// Names of which a client certificate must have one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subject_alt_names: Vec<String>,
    /// SHA-256 of public keys of client certificates, base64.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verify_certificate_spki: Vec<String>,
    /// SHA-256 of client certificates, hex.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verify_certificate_hash: Vec<String>,
    /// The oldest version.
    pub min_protocol_version: TlsProtocol,
    /// The newest version.
    pub max_protocol_version: TlsProtocol,
    /// Suites of TLS 1.2.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cipher_suites: Vec<String>,
    /// Of clients only, and refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub insecure_skip_verify: Option<bool>,
}

/// A certificate and its key as files.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsCertificate {
    /// File with the certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_certificate: Option<String>,
    /// File with the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key: Option<String>,
    /// File with the roots for client certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_certificates: Option<String>,
}

/// What happens to TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TlsMode {
    /// Carried as it is, routed by SNI.
    #[default]
    Passthrough,
    /// Ends here.
    Simple,
    /// Ends here; clients show a certificate.
    Mutual,
    /// Carried to the service that the SNI names.
    AutoPassthrough,
    /// The mesh's own mTLS.
    IstioMutual,
    /// Ends here; clients may show a certificate.
    OptionalMutual,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum TlsProtocol {
    /// The default.
    #[default]
    #[serde(rename = "TLS_AUTO")]
    Auto,
    /// Refused.
    #[serde(rename = "TLSV1_0")]
    V10,
    /// Refused.
    #[serde(rename = "TLSV1_1")]
    V11,
    /// 1.2.
    #[serde(rename = "TLSV1_2")]
    V12,
    /// 1.3.
    #[serde(rename = "TLSV1_3")]
    V13,
}

/// The suites of TLS 1.2 that exist here, as OpenSSL and as IANA name them.
pub const CIPHER_SUITES: [(&str, &str); 6] = [
    ("ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    ("ECDHE-RSA-AES128-GCM-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    ("ECDHE-RSA-AES256-GCM-SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    ("ECDHE-RSA-CHACHA20-POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
];

/// Whether a suite exists here.
pub fn is_cipher_suite(name: &str) -> bool {
    CIPHER_SUITES.iter().any(|(openssl, iana)| name == *openssl || name == *iana)
}
