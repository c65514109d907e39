//! Every code that a finding can have. Codes are stable: scripts filter by them. docs/analysis.md is made from this table.

use crate::finding::{Code, Severity};

/// What is known of a code apart from a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeInfo {
    /// The code.
    pub code: Code,
    /// Its name; Istio's where the code is Istio's.
    pub name: &'static str,
    /// How bad its findings are.
    pub severity: Severity,
    /// When it is found.
    pub meaning: &'static str,
}

macro_rules! codes {
    ($($name:ident = $code:literal, $words:literal, $severity:ident: $meaning:literal;)+) => {
        $(
            #[doc = $meaning]
            pub const $name: Code = Code($code);
        )+

        /// All codes, in the order of the documentation.
        pub const ALL: &[CodeInfo] = &[
            $(CodeInfo { code: $name, name: $words, severity: Severity::$severity, meaning: $meaning }),+
        ];
    };
}

codes! {
    DEPRECATED = "IST0002", "Deprecated", Warning:
        "A field is deprecated. It works as far as the support table says so; the hint names what replaces it.";
    REFERENCED_RESOURCE_NOT_FOUND = "IST0101", "ReferencedResourceNotFound", Error:
        "A host, subset, gateway, delegate, Secret, provider or service that an object names does not exist.";
    UNKNOWN_ANNOTATION = "IST0108", "UnknownAnnotation", Warning:
        "An annotation in the group of Istio or of Isthmus has no meaning here.";
    CONFLICTING_MESH_HOSTS = "IST0109", "ConflictingMeshGatewayVirtualServiceHosts", Error:
        "Several VirtualServices for sidecars have the same host; only the oldest one that a client sees counts.";
    CONFLICTING_SIDECARS = "IST0110", "ConflictingSidecarWorkloadSelectors", Error:
        "Several Sidecars select the same workload; only the oldest one counts.";
    SIDECARS_WITHOUT_SELECTOR = "IST0111", "MultipleSidecarsWithoutWorkloadSelectors", Error:
        "Several Sidecars of a namespace have no workloadSelector; only the oldest one counts.";
    PORT_REQUIRED = "IST0112", "VirtualServiceDestinationPortSelectorRequired", Error:
        "A destination names no port although its service has several, and the request's port is none of them.";
    MTLS_CONFLICT = "IST0113", "MTLSPolicyConflict", Error:
        "A DestinationRule says another TLS than the server's PeerAuthentication accepts, or mTLS to endpoints without a sidecar.";
    PORT_NAME = "IST0118", "PortNameIsNotUnderNamingConvention", Info:
        "Neither the name nor appProtocol of a port says its protocol, so it is detected from the first bytes.";
    NO_MATCHING_WORKLOADS = "IST0127", "NoMatchingWorkloadsFound", Warning:
        "A selector matches no workload of the cluster, so the object has no effect.";
    NO_SERVER_VERIFICATION = "IST0128", "NoServerCertificateVerificationDestinationLevel", Warning:
        "TLS is originated without any verification of the server's certificate.";
    NO_SERVER_VERIFICATION_PORT = "IST0129", "NoServerCertificateVerificationPortLevel", Warning:
        "The same for one port.";
    UNREACHABLE_RULE = "IST0130", "VirtualServiceUnreachableRule", Warning:
        "A rule is never used, because an earlier one takes everything that it matches.";
    INEFFECTIVE_MATCH = "IST0131", "VirtualServiceIneffectiveMatch", Info:
        "One of several matches of a rule repeats a match of an earlier rule.";
    HOST_NOT_IN_GATEWAY = "IST0132", "VirtualServiceHostNotFoundInGateway", Warning:
        "A VirtualService is bound to a Gateway none of whose servers has its host.";
    SCHEMA_WARNING = "IST0133", "SchemaWarning", Warning:
        "A field is valid but probably not meant as it is written.";
    DUPLICATE_CERTIFICATE = "IST0138", "GatewayDuplicateCertificate", Warning:
        "Servers of different Gateways on one workload share a certificate; HTTP/2 clients may reuse a connection for the wrong one.";
    CONFLICTING_GATEWAYS = "IST0145", "ConflictingGateways", Error:
        "Servers on the same port of the same workload conflict: the same hosts, or protocols that cannot share a port.";
    CLAIM_ROUTING = "IST0149", "JwtClaimBasedRoutingWithoutRequestAuthN", Error:
        "A VirtualService routes by claims of a token that no RequestAuthentication verifies.";
    INVALID_CREDENTIAL = "IST0161", "InvalidGatewayCredential", Error:
        "A Secret that is named as a credential has no certificate and key that can be used.";
    GATEWAY_PORT_NOT_ON_SERVICE = "IST0162", "GatewayPortNotDefinedOnService", Warning:
        "A server listens on a port that the gateway's Service does not have.";
    INCONSISTENT_ACROSS_CLUSTERS = "IST0165", "MultiClusterInconsistentService", Warning:
        "Clusters export a service under one name with ports or protocols that differ.";
    WITHOUT_EFFECT = "ISM0001", "FieldWithoutEffect", Warning:
        "A field is accepted and has no effect here; the hint says why.";
    OBJECT_WITHOUT_EFFECT = "ISM0002", "ObjectWithoutEffect", Warning:
        "An object is valid and has no effect, because another one takes precedence or it stands where it is not looked for.";
    IDENTITY_NEEDS_MTLS = "ISM0003", "IdentityNeedsMtls", Warning:
        "A rule asks for the client's identity on a port that accepts no mTLS, so it never matches.";
    PLAIN_TEXT_STAYS_LOCAL = "ISM0004", "PlainTextStaysLocal", Info:
        "A DestinationRule switches mTLS off for a service that other clusters export; flows between clusters have mTLS all the same.";
    DIFFERENT_ACROSS_CLUSTERS = "ISM0005", "DifferentAcrossClusters", Warning:
        "Two clusters have an object of the same kind and name with different content for a service that both use.";
    SUBSET_NOT_EVERYWHERE = "ISM0006", "SubsetMatchesNothing", Warning:
        "A subset's labels match no endpoint of the cluster, and no group that other clusters export to it.";
    MESH_CONFIG = "ISM0007", "MeshConfigUnreadable", Error:
        "A field of MeshConfig is unknown or has a value that cannot be, so its default stays in force.";
    NOT_COMPILED = "ISM0099", "NotCompiled", Error:
        "A part of an object could not be turned into configuration and has no effect; a defect of the validator, please report it.";
}

/// What is known of a code.
pub fn info(code: Code) -> Option<&'static CodeInfo> {
    ALL.iter().find(|info| info.code == code)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_unique_and_explained() {
        let unique: BTreeSet<_> = ALL.iter().map(|info| info.code).collect();
        assert_eq!(unique.len(), ALL.len());
        for info in ALL {
            assert!(info.meaning.ends_with('.'), "{}", info.code);
            assert!(info.code.0.starts_with("IST") || info.code.0.starts_with("ISM"), "{}", info.code);
        }
    }
}
