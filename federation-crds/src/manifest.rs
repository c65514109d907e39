//! One object that was read, of any of the kinds that are implemented.

use std::fmt;

use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use serde_json::Value;

use crate::cluster_traffic_policy::ClusterTrafficPolicy;
use crate::error::FieldErrors;
use crate::istio::{
    AuthorizationPolicy, DestinationRule, Gateway, PeerAuthentication, RequestAuthentication, ServiceEntry, Sidecar,
    VirtualService, WorkloadEntry,
};
use crate::mcs::{ServiceExport, ServiceImport};
use crate::rate_limit_policy::RateLimitPolicy;

/// One line per kind: its name (which is also its Rust type's), the versions that may be written after `apiVersion:` (all
/// have one schema), and what it is.
macro_rules! kinds {
    ($($kind:ident: [$($version:literal),+], $doc:literal;)+) => {
        /// The kinds that are implemented.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $(#[doc = $doc] $kind,)+
        }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$kind),+];

            /// As written after `kind:`.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => stringify!($kind),)+
                }
            }

            /// What may be written after `apiVersion:`; the first is the one that is recommended.
            pub fn api_versions(self) -> &'static [&'static str] {
                match self {
                    $(Self::$kind => &[$($version),+],)+
                }
            }
        }

        /// A validated object. Its namespace is set (`default` if the text named none).
        #[derive(Debug, Clone, PartialEq)]
        pub enum Manifest {
            $(#[doc = $doc] $kind(Box<$kind>),)+
        }

        impl Manifest {
            /// Its kind.
            pub fn kind(&self) -> Kind {
                match self {
                    $(Self::$kind(_) => Kind::$kind,)+
                }
            }

            /// Its metadata.
            pub fn metadata(&self) -> &ObjectMeta {
                match self {
                    $(Self::$kind(object) => &object.metadata,)+
                }
            }

            pub(crate) fn metadata_mut(&mut self) -> &mut ObjectMeta {
                match self {
                    $(Self::$kind(object) => &mut object.metadata,)+
                }
            }

            /// The object as one YAML document, which [`parse_manifests`](crate::parse_manifests) reads back.
            pub fn to_yaml(&self) -> Result<String, serde_saphyr::ser::Error> {
                match self {
                    $(Self::$kind(object) => serde_saphyr::to_string(object),)+
                }
            }

            /// Reads an object of a kind, if it fits the kind's schema.
            pub(crate) fn read(kind: Kind, value: &Value, errors: &mut FieldErrors) -> Option<Self> {
                match kind {
                    $(Kind::$kind => crate::parse::typed::<$kind>(value, errors).map(Self::$kind),)+
                }
            }
        }
    };
}

kinds! {
    Service: ["v1"], "A Kubernetes Service.";
    EndpointSlice: ["discovery.k8s.io/v1"], "Endpoints of a Service.";
    Secret: ["v1"], "TLS material.";
    ConfigMap: ["v1"], "MeshConfig: the ConfigMap `istio` of the root namespace.";
    ServiceExport: ["multicluster.x-k8s.io/v1beta1", "multicluster.x-k8s.io/v1alpha1"],
        "The wish to offer a Service to other clusters.";
    ServiceImport: ["multicluster.x-k8s.io/v1beta1", "multicluster.x-k8s.io/v1alpha1"],
        "A Service that other clusters offer.";
    VirtualService: ["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"],
        "The routes of hosts.";
    DestinationRule: ["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"],
        "How clients talk to a host.";
    Gateway: ["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"],
        "The listeners of an ingress or egress gateway.";
    ServiceEntry: ["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"],
        "Hosts that are added to the registry.";
    WorkloadEntry: ["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"],
        "One workload outside of Kubernetes.";
    Sidecar: ["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"],
        "What a sidecar knows and lets through.";
    PeerAuthentication: ["security.istio.io/v1", "security.istio.io/v1beta1"], "Which transport workloads accept.";
    RequestAuthentication: ["security.istio.io/v1", "security.istio.io/v1beta1"], "Which tokens are verified.";
    AuthorizationPolicy: ["security.istio.io/v1", "security.istio.io/v1beta1"], "Who may do what.";
    RateLimitPolicy: ["isthmus.dev/v1alpha1"], "Rate limits of workloads and gateways.";
    ClusterTrafficPolicy: ["isthmus.dev/v1alpha1"], "How requests are divided between clusters.";
}

impl Manifest {
    /// Its kind, namespace and name.
    pub fn key(&self) -> ManifestKey {
        let metadata = self.metadata();
        ManifestKey {
            kind: self.kind(),
            namespace: metadata.namespace.clone().unwrap_or_else(|| "default".to_owned()),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What makes an object one object: applying the same key again replaces it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ManifestKey {
    /// Its kind, whatever the version.
    pub kind: Kind,
    /// Its namespace; all implemented kinds have one.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// `Service default/web`.
impl fmt::Display for ManifestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}
