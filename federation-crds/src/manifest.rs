//! One object that was read, of any of the kinds that are implemented.

use std::fmt;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::mcs::{ServiceExport, ServiceImport};

/// The kinds that are implemented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1 Service`.
    Service,
    /// `discovery.k8s.io/v1 EndpointSlice`.
    EndpointSlice,
    /// `multicluster.x-k8s.io ServiceExport`, v1alpha1 or v1beta1.
    ServiceExport,
    /// `multicluster.x-k8s.io ServiceImport`, v1alpha1 or v1beta1.
    ServiceImport,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Service, Self::EndpointSlice, Self::ServiceExport, Self::ServiceImport];

    /// As written after `kind:`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::ServiceExport => "ServiceExport",
            Self::ServiceImport => "ServiceImport",
        }
    }

    /// What may be written after `apiVersion:`; all versions of a kind have one schema.
    pub fn api_versions(self) -> &'static [&'static str] {
        match self {
            Self::Service => &["v1"],
            Self::EndpointSlice => &["discovery.k8s.io/v1"],
            Self::ServiceExport | Self::ServiceImport => {
                &["multicluster.x-k8s.io/v1beta1", "multicluster.x-k8s.io/v1alpha1"]
            }
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

/// A validated object. Its namespace is set (`default` if the text named none).
#[derive(Debug, Clone, PartialEq)]
pub enum Manifest {
    /// A Service.
    Service(Box<Service>),
    /// Endpoints of a Service.
    EndpointSlice(Box<EndpointSlice>),
    /// The wish to offer a Service to other clusters.
    ServiceExport(Box<ServiceExport>),
    /// A Service that other clusters offer.
    ServiceImport(Box<ServiceImport>),
}

impl Manifest {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::ServiceExport(_) => Kind::ServiceExport,
            Self::ServiceImport(_) => Kind::ServiceImport,
        }
    }

    /// Its kind, namespace and name.
    pub fn key(&self) -> ManifestKey {
        let metadata = self.metadata();
        ManifestKey {
            kind: self.kind(),
            namespace: metadata.namespace.clone().unwrap_or_else(|| "default".to_owned()),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }

    /// Its metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Service(object) => &object.metadata,
            Self::EndpointSlice(object) => &object.metadata,
            Self::ServiceExport(object) => &object.metadata,
            Self::ServiceImport(object) => &object.metadata,
        }
    }

    pub(crate) fn metadata_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Service(object) => &mut object.metadata,
            Self::EndpointSlice(object) => &mut object.metadata,
            Self::ServiceExport(object) => &mut object.metadata,
            Self::ServiceImport(object) => &mut object.metadata,
        }
    }

    /// The object as one YAML document, which [`parse_manifests`](crate::parse_manifests) reads back.
    pub fn to_yaml(&self) -> Result<String, serde_saphyr::ser::Error> {
        match self {
            Self::Service(object) => serde_saphyr::to_string(object),
            Self::EndpointSlice(object) => serde_saphyr::to_string(object),
            Self::ServiceExport(object) => serde_saphyr::to_string(object),
            Self::ServiceImport(object) => serde_saphyr::to_string(object),
        }
    }
}
