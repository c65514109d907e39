//! What the cluster itself has, compiled from its manifests: services with their endpoints, workloads, exports.
//!
//! Pure. On this ground an EndpointSlice stands for its pods: annotations carry what a Pod would say (service account,
//! sidecar, labels, mTLS mode).

pub mod distribution;
pub mod names;
mod slices;
mod stand_ins;
pub(crate) mod workload_entries;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::automatic::{Range, allocate};
use federation_crds::{GLOBAL_LABEL, Manifest, Service, ServiceExport};
use k8s_openapi::api::core::v1::ServiceSpec;
use mesh::{
    ClusterName, Endpoint, Namespace, Protocol, ServiceName, ServicePort, StandIn, TrustDomain, Visibility, Workload,
};

/// Annotation of an EndpointSlice: the service account of its pods.
pub const SERVICE_ACCOUNT: &str = federation_crds::SERVICE_ACCOUNT_ANNOTATION;
/// Annotation of an EndpointSlice: `"true"` when its pods have sidecars.
pub const MESHED: &str = federation_crds::MESHED_ANNOTATION;
/// Annotation of an EndpointSlice: labels of its pods, `app=reviews,version=v1`.
pub const POD_LABELS: &str = federation_crds::POD_LABELS_ANNOTATION;
/// Annotation of an EndpointSlice: `permissive` or `strict`.
pub const MTLS: &str = federation_crds::MTLS_ANNOTATION;

/// Annotation of an EndpointSlice: `region/zone/subzone`.
pub const LOCALITY: &str = federation_crds::LOCALITY_ANNOTATION;

/// The cluster's own side of the mesh.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Local {
    /// Services by name.
    pub services: BTreeMap<ServiceName, LocalService>,
    /// Workloads that have a sidecar, by `<namespace>/<pod>`.
    pub workloads: BTreeMap<String, Workload>,
    /// ServiceExports that export nothing, with the reason of the condition `Valid` (MCS API).
    pub invalid_exports: BTreeMap<ServiceName, InvalidExport>,
    /// Pods of exported services without a sidecar, for which gateways speak to other clusters, by `<namespace>/<pod>`.
    pub stand_ins: BTreeMap<String, StandIn>,
    /// What was left out and why; shown in `/debug/source`.
    pub problems: Vec<String>,
}

/// A service of the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalService {
    /// Label `isthmus.dev/global: "true"`.
    pub global: bool,
    /// `clusterIP: None`.
    pub headless: bool,
    /// The Service's own addresses; automatic ones where nobody gave it any.
    pub addresses: Vec<IpAddr>,
    /// Its ports, by number.
    pub ports: Vec<ServicePort>,
    /// Its pods, by name.
    pub endpoints: Vec<Endpoint>,
    /// `sessionAffinity: ClientIP`: its timeout in seconds.
    pub session_affinity: Option<u32>,
    /// Who sees it (annotation `networking.istio.io/exportTo`).
    pub visible_to: Visibility,
    /// `trafficDistribution`: the nearest endpoints first, where no DestinationRule says which localities come first.
    pub nearest_first: bool,
    /// Set when the service is exported.
    pub export: Option<LocalExport>,
    /// What only DNS needs.
    pub names: names::Names,
}

/// The wish to offer a service to other clusters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalExport {
    /// Empty = every member.
    pub to_clusters: BTreeSet<ClusterName>,
    /// Unix seconds of the ServiceExport's creation, if it says so.
    pub created_at: Option<u64>,
    /// `spec.exportedLabels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.exportedAnnotations`.
    pub annotations: BTreeMap<String, String>,
    /// Whether gateways speak for its endpoints without a sidecar.
    pub unmeshed: Unmeshed,
}

/// Whether gateways speak for the endpoints of an export that have no sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Unmeshed {
    /// Other clusters do not reach them.
    #[default]
    Deny,
    /// As this service account or (`None`) as the endpoints' own.
    Allow(Option<String>),
}

/// Why a ServiceExport is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidExport {
    /// There is no Service of its name.
    NoService,
    /// The Service is an ExternalName: nothing here serves it.
    InvalidServiceType,
    /// It names clusters that cannot be.
    Audience,
}

impl InvalidExport {
    /// The reason of the condition; those of the MCS API where it has one.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoService => "NoService",
            Self::InvalidServiceType => "InvalidServiceType",
            Self::Audience => "InvalidAudience",
        }
    }

    /// What to say to a person.
    pub fn message(self) -> &'static str {
        match self {
            Self::NoService => "there is no Service of that name",
            Self::InvalidServiceType => "a Service of type ExternalName cannot be exported",
            Self::Audience => "the annotation that names its clusters has a name that no cluster can have",
        }
    }
}

/// The timeout of an affinity that says none (Kubernetes: three hours).
const AFFINITY_SECONDS: u32 = 10_800;

/// Compiles manifests. Objects that do not fit (a slice without a service, a name that is none) are left out and noted.
pub fn build(manifests: &[Manifest], trust_domain: &TrustDomain) -> Local {
    let mut local = Local::default();
    let mut services = Vec::new();
    for manifest in manifests {
        if let Manifest::Service(object) = manifest {
            add_service(&mut local, object);
            services.push(object.as_ref());
        }
    }
    for manifest in manifests {
        match manifest {
            Manifest::EndpointSlice(slice) => slices::add(&mut local, slice, trust_domain),
            Manifest::ServiceExport(export) => add_export(&mut local, export),
            Manifest::WorkloadEntry(entry) => workload_entries::add(&mut local, &services, entry, trust_domain),
            // What other clusters offer comes from the hub; a Service was read above.
            _ => {}
        }
    }
    stand_ins::settle(&mut local, trust_domain);
    for service in local.services.values_mut() {
        service.endpoints.sort_by(|a, b| a.name.cmp(&b.name));
        service.endpoints.iter_mut().for_each(|endpoint| endpoint.other_addresses.sort());
    }
    give_addresses(&mut local.services);
    local
}

/// On Kubernetes every Service has a cluster IP. Elsewhere nobody gives them out, and a name without an address is of no
/// use to an application that is captured.
fn give_addresses(services: &mut BTreeMap<ServiceName, LocalService>) {
    let taken: BTreeSet<IpAddr> = services.values().flat_map(|service| &service.addresses).copied().collect();
    let lacks = |service: &LocalService| {
        service.addresses.is_empty() && !service.headless && service.names.external_name.is_none()
    };
    let lacking: Vec<String> =
        services.iter().filter(|(_, service)| lacks(service)).map(|(name, _)| name.to_string()).collect();
    let given = allocate(Range::Services, &lacking.iter().map(String::as_str).collect(), &taken);
    for (name, addresses) in given {
        let service = name.parse().ok().and_then(|name: ServiceName| services.get_mut(&name));
        service.into_iter().for_each(|service| service.addresses = addresses.to_vec());
    }
}

fn add_service(local: &mut Local, object: &Service) {
    let Some(name) = service_name(&object.metadata.namespace, &object.metadata.name) else {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        local.problems.push(format!("Service {name:?}: its name cannot be a service's"));
        return;
    };
    let spec = object.spec.clone().unwrap_or_default();
    let names = names::Names::of(&spec);
    let session_affinity = session_affinity(&spec);
    let addresses = spec.cluster_ips.unwrap_or_else(|| spec.cluster_ip.clone().into_iter().collect());
    let headless = spec.cluster_ip.as_deref() == Some("None") || addresses.iter().any(|address| address == "None");
    let mut ports = Vec::new();
    for port in spec.ports.unwrap_or_default() {
        match u16::try_from(port.port) {
            Ok(number) if number > 0 && is_carried(port.protocol.as_deref()) => ports.push(ServicePort {
                protocol: protocol_of(port.protocol.as_deref(), port.name.as_deref(), port.app_protocol.as_deref()),
                name: port.name.unwrap_or_default(),
                number,
            }),
            _ => {
                local.problems.push(format!("Service {name}: port {} is not carried; only TCP and UDP are", port.port))
            }
        }
    }
    ports.sort_by_key(|port| (port.number, port.protocol.is_udp()));
    let global = object.metadata.labels.as_ref().and_then(|labels| labels.get(GLOBAL_LABEL));
    let service = LocalService {
        global: global.is_some_and(|value| value == "true"),
        headless,
        addresses: addresses.iter().filter_map(|address| address.parse().ok()).collect(),
        ports,
        endpoints: Vec::new(),
        session_affinity,
        visible_to: distribution::visible_to(object, name.namespace()),
        nearest_first: distribution::wanted(object).is_some_and(|wanted| wanted.nearest_first()),
        export: None,
        names,
    };
    local.services.insert(name, service);
}

fn add_export(local: &mut Local, export: &ServiceExport) {
    let name = service_name(&export.metadata.namespace, &export.metadata.name);
    let Some(name) = name else {
        let name = export.metadata.name.as_deref().unwrap_or_default();
        return local.problems.push(format!("ServiceExport {name:?}: its name cannot be a service's"));
    };
    let invalid = |local: &mut Local, why: InvalidExport| {
        local.problems.push(format!("ServiceExport {name}: {}", why.message()));
        local.invalid_exports.insert(name.clone(), why);
    };
    let Some(service) = local.services.get_mut(&name) else { return invalid(local, InvalidExport::NoService) };
    if service.names.external_name.is_some() {
        return invalid(local, InvalidExport::InvalidServiceType);
    }
    let named = federation_crds::export_to(export).unwrap_or_default();
    let to_clusters = named.iter().filter(|cluster| !cluster.is_empty()).map(|cluster| cluster.parse());
    match to_clusters.collect::<Result<BTreeSet<ClusterName>, _>>() {
        Ok(to_clusters) => {
            let created_at = export.metadata.creation_timestamp.as_ref();
            let created_at = created_at.and_then(|time| u64::try_from(time.0.as_second()).ok());
            let spec = export.spec.spec.clone().unwrap_or_default();
            let (labels, annotations) = (spec.exported_labels, spec.exported_annotations);
            let unmeshed = match federation_crds::unmeshed(export) {
                federation_crds::Unmeshed::Deny => Unmeshed::Deny,
                federation_crds::Unmeshed::Allow(account) => Unmeshed::Allow(account.map(str::to_owned)),
            };
            service.export = Some(LocalExport { to_clusters, created_at, labels, annotations, unmeshed });
        }
        // Exporting to everyone instead would show the service to clusters that were not named.
        Err(error) => {
            local.invalid_exports.insert(name.clone(), InvalidExport::Audience);
            local.problems.push(format!("ServiceExport {name}: not exported: {error}"));
        }
    }
}

fn session_affinity(spec: &ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let client_ip = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = client_ip.and_then(|client| client.timeout_seconds).and_then(|seconds| u32::try_from(seconds).ok());
    Some(seconds.filter(|seconds| (1..=86_400).contains(seconds)).unwrap_or(AFFINITY_SECONDS))
}

/// Whether the mesh carries what Kubernetes calls the protocol of a port.
fn is_carried(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP") || is_udp(protocol)
}

fn is_udp(protocol: Option<&str>) -> bool {
    protocol == Some("UDP")
}

/// How a port speaks: by its protocol, then as Istio selects among those of TCP.
fn protocol_of(protocol: Option<&str>, name: Option<&str>, app_protocol: Option<&str>) -> Protocol {
    if is_udp(protocol) { Protocol::Udp } else { Protocol::declared(name, app_protocol) }
}

fn service_name(namespace: &Option<String>, name: &Option<String>) -> Option<ServiceName> {
    let namespace = Namespace::new(namespace.as_deref().unwrap_or("default")).ok()?;
    ServiceName::new(namespace, name.as_deref()?).ok()
}

#[cfg(test)]
mod tests;
