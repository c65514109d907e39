//! Sidecar (`networking.istio.io`): what a sidecar knows and lets through.

#![expect(
    missing_docs,
    reason = "the fields are those of https://istio.io/latest/docs/reference/config/networking/sidecar/"
)]

use super::IstioStatus;
use super::destination_rule::ConnectionPool;
use super::fields::{message, words};
use super::service_entry::{EntryPort, LabelSelector};
use super::virtual_service::Destination;

message! {
    /// The specification of a Sidecar.
    kube(kind = "Sidecar")
    struct SidecarSpec {
        workload_selector: Option<LabelSelector>,
        ingress: Vec<IngressListener>,
        egress: Vec<EgressListener>,
        inbound_connection_pool: Option<ConnectionPool>,
        outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    }

    /// A listener for what comes in.
    struct IngressListener {
        port: Option<EntryPort>,
        bind: String,
        capture_mode: CaptureMode,
        default_endpoint: String,
        tls: Option<ListenerTls>,
        connection_pool: Option<ConnectionPool>,
    }

    /// A listener for what goes out, and the hosts that it knows.
    struct EgressListener {
        port: Option<EntryPort>,
        bind: String,
        capture_mode: CaptureMode,
        hosts: Vec<String>,
    }

    /// What happens to hosts that are not known.
    struct OutboundTrafficPolicy {
        mode: OutboundMode,
        egress_proxy: Option<Destination>,
    }

    /// TLS of a listener.
    struct ListenerTls {
        https_redirect: bool,
        mode: ListenerTlsMode,
        server_certificate: String,
        private_key: String,
        ca_certificates: String,
        ca_crl: String,
        ca_cert_credential_name: String,
        credential_name: String,
        credential_names: Vec<String>,
        tls_certificates: Vec<ListenerCertificate>,
        subject_alt_names: Vec<String>,
        verify_certificate_spki: Vec<String>,
        verify_certificate_hash: Vec<String>,
        min_protocol_version: TlsProtocol,
        max_protocol_version: TlsProtocol,
        cipher_suites: Vec<String>,
        insecure_skip_verify: Option<bool>,
    }

    /// One of several certificates.
    struct ListenerCertificate {
        server_certificate: String,
        private_key: String,
        ca_certificates: String,
    }
}

words! {
    /// How traffic gets to a listener.
    enum CaptureMode { Default = "DEFAULT", Iptables = "IPTABLES", None = "NONE" }

    /// What happens to hosts that are not known.
    enum OutboundMode { RegistryOnly = "REGISTRY_ONLY", AllowAny = "ALLOW_ANY" }

    /// How TLS ends.
    enum ListenerTlsMode {
        Passthrough = "PASSTHROUGH", Simple = "SIMPLE", Mutual = "MUTUAL", AutoPassthrough = "AUTO_PASSTHROUGH",
        IstioMutual = "ISTIO_MUTUAL", OptionalMutual = "OPTIONAL_MUTUAL",
    }

    /// A version of TLS.
    enum TlsProtocol {
        Auto = "TLS_AUTO", V10 = "TLSV1_0", V11 = "TLSV1_1", V12 = "TLSV1_2", V13 = "TLSV1_3",
    }
}
