//! A response as typed changes, and the pure function that merges them into a view.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use api::wire::WireError;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
use mesh::{
    AddressEntry, ClusterName, HostEntry, LocalGateway, MeshInfo, NameError, RemoteCluster, Secret, Service,
    ServiceName, StandIn, View, Workload,
};
use prost::Message;

use crate::types::{Kind, MESH_NAME};

/// One resource, converted. The name is the one under which a later delta replaces or removes it.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// The mesh and the own cluster.
    Mesh(Arc<MeshInfo>),
    /// Another member.
    Cluster(Arc<RemoteCluster>),
    /// A gateway of the own cluster.
    LocalGateway(Arc<LocalGateway>),
    /// The workload beside the proxy.
    Workload(Arc<Workload>),
    /// A service.
    Service(Arc<Service>),
    /// A name that DNS knows.
    HostEntry(Arc<HostEntry>),
    /// A host that configuration adds.
    Entry(Arc<Service>),
    /// TLS material.
    Secret(Arc<Secret>),
    /// Put or replace who has an address.
    Address(Arc<AddressEntry>),
    /// A pod for which gateways speak.
    StandIn(Arc<StandIn>),
}

/// The name of something that is gone, parsed for its kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Removed {
    /// The mesh itself; a server never sends it, a replaced subscription may.
    Mesh,
    /// A member left or is no longer exchanged with.
    Cluster(ClusterName),
    /// A gateway went away.
    LocalGateway(String),
    /// The workload is unknown.
    Workload,
    /// The service does not exist, for this client.
    Service(ServiceName),
    /// The name does not exist.
    HostEntry(ServiceName),
    /// The host is no longer added.
    Entry(ServiceName),
    /// The secret is gone, or is no longer for this client.
    Secret(String),
    /// Nobody has the address.
    Address(IpAddr),
    /// Gateways no longer speak for the pod, `<namespace>/<pod>`.
    StandIn(String),
}

/// What one response changes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Delta {
    /// The agent's revision after the change.
    pub revision: u64,
    /// Added or replaced.
    pub put: Vec<Item>,
    /// Gone.
    pub removed: Vec<Removed>,
}

/// Why a resource is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ResourceError {
    /// It has no body or one of another type.
    #[error("it carries {found:?} in a response of another type")]
    WrongType {
        /// The type URL inside.
        found: String,
    },
    /// Its bytes are no message.
    #[error("its bytes do not decode")]
    Decode(#[source] prost::DecodeError),
    /// Its message breaks a rule.
    #[error("it is not valid")]
    Wire(#[source] WireError),
    /// Its name is not one of its kind.
    #[error("its name is not valid")]
    Name(#[source] NameError),
    /// The envelope and the message name different things.
    #[error("its envelope says another name than its body, {body:?}")]
    NameMismatch {
        /// The name in the message.
        body: String,
    },
}

/// A refused resource: the previous version stays.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{kind} {name:?} is refused: {}", chain(.error))]
pub struct Rejected {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Why.
    pub error: ResourceError,
}

/// An error with its sources in one line: what goes into a nack.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// Merges a delta into a view: the new view has what `put` names, lacks what `removed` names and keeps the rest.
pub fn apply(view: &View, delta: Delta) -> View {
    let mut view = View { revision: delta.revision, ..view.clone() };
    for removed in delta.removed {
        match removed {
            Removed::Mesh => view.mesh = None,
            Removed::Cluster(name) => drop(view.clusters.remove(&name)),
            Removed::LocalGateway(name) => drop(view.gateways.remove(&name)),
            Removed::Workload => view.workload = None,
            Removed::Service(name) => drop(view.services.remove(&name)),
            Removed::HostEntry(name) => drop(view.hosts.remove(&name)),
            Removed::Entry(name) => drop(view.entries.remove(&name)),
            Removed::Secret(name) => drop(view.secrets.remove(&name)),
            Removed::Address(address) => drop(view.addresses.remove(&address)),
            Removed::StandIn(name) => drop(view.stand_ins.remove(&name)),
        }
    }
    for item in delta.put {
        match item {
            Item::Mesh(mesh) => view.mesh = Some(mesh),
            Item::Cluster(cluster) => drop(view.clusters.insert(cluster.name.clone(), cluster)),
            Item::LocalGateway(gateway) => drop(view.gateways.insert(gateway.name.clone(), gateway)),
            Item::Workload(workload) => view.workload = Some(workload),
            Item::Service(service) => drop(view.services.insert(service.name.clone(), service)),
            Item::HostEntry(host) => drop(view.hosts.insert(host.name.clone(), host)),
            Item::Entry(service) => drop(view.entries.insert(service.name.clone(), service)),
            Item::Secret(secret) => drop(view.secrets.insert(secret.name.clone(), secret)),
            Item::Address(entry) => drop(view.addresses.insert(entry.address, entry)),
            Item::StandIn(stand_in) => {
                let key = format!("{}/{}", stand_in.workload.namespace, stand_in.workload.name);
                view.stand_ins.insert(key, stand_in);
            }
        }
    }
    view
}

/// Converts a response of a known kind; what cannot be converted is returned beside the rest.
pub fn decode(kind: Kind, response: &DeltaDiscoveryResponse) -> (Delta, Vec<Rejected>) {
    let mut delta = Delta { revision: response.system_version_info.parse().unwrap_or_default(), ..Delta::default() };
    let mut rejected = Vec::new();
    for resource in &response.resources {
        match decode_resource(kind, resource) {
            Ok(item) => delta.put.push(item),
            Err(error) => rejected.push(Rejected { kind, name: resource.name.clone(), error }),
        }
    }
    for name in &response.removed_resources {
        match decode_removed(kind, name) {
            Ok(removed) => delta.removed.push(removed),
            Err(error) => {
                rejected.push(Rejected { kind, name: name.clone(), error: ResourceError::Name(error) });
            }
        }
    }
    (delta, rejected)
}

fn decode_resource(kind: Kind, resource: &Resource) -> Result<Item, ResourceError> {
    let any = resource.resource.as_ref().ok_or_else(|| ResourceError::WrongType { found: String::new() })?;
    if any.type_url != kind.type_url() {
        return Err(ResourceError::WrongType { found: any.type_url.clone() });
    }
    let (name, bytes) = (resource.name.as_str(), any.value.as_slice());
    match kind {
        Kind::Mesh => {
            let message: api::discovery::Mesh = message(bytes)?;
            same_name(name, MESH_NAME.to_owned())?;
            Ok(Item::Mesh(Arc::new(MeshInfo::try_from(&message).map_err(ResourceError::Wire)?)))
        }
        Kind::Cluster => {
            let message: api::discovery::Cluster = message(bytes)?;
            same_name(name, message.name.clone())?;
            Ok(Item::Cluster(Arc::new(RemoteCluster::try_from(&message).map_err(ResourceError::Wire)?)))
        }
        Kind::LocalGateway => {
            let message: api::discovery::LocalGateway = message(bytes)?;
            same_name(name, message.name.clone())?;
            Ok(Item::LocalGateway(Arc::new(LocalGateway::try_from(&message).map_err(ResourceError::Wire)?)))
        }
        Kind::Workload => {
            let message: api::discovery::Workload = message(bytes)?;
            same_name(name, format!("{}/{}", message.namespace, message.name))?;
            Ok(Item::Workload(Arc::new(Workload::try_from(&message).map_err(ResourceError::Wire)?)))
        }
        Kind::Service => {
            let message: api::discovery::Service = message(bytes)?;
            same_name(name, format!("{}/{}", message.namespace, message.name))?;
            Ok(Item::Service(Arc::new(Service::try_from(&message).map_err(ResourceError::Wire)?)))
        }
        Kind::HostEntry => {
            let message: api::discovery::HostEntry = message(bytes)?;
            same_name(name, format!("{}/{}", message.namespace, message.name))?;
            Ok(Item::HostEntry(Arc::new(HostEntry::try_from(&message).map_err(ResourceError::Wire)?)))
        }
        Kind::Entry => {
            let message: api::discovery::Entry = message(bytes)?;
            let service = message.service.unwrap_or_default();
            same_name(name, format!("{}/{}", service.namespace, service.name))?;
            Ok(Item::Entry(Arc::new(Service::try_from(&service).map_err(ResourceError::Wire)?)))
        }
        Kind::StandIn => {
            let message: api::discovery::StandIn = message(bytes)?;
            let workload = message.workload.clone().unwrap_or_default();
            same_name(name, format!("{}/{}", workload.namespace, workload.name))?;
            Ok(Item::StandIn(Arc::new(StandIn::try_from(&message).map_err(ResourceError::Wire)?)))
        }
        Kind::Secret => {
            let message: api::discovery::Secret = message(bytes)?;
            same_name(name, message.name.clone())?;
            Ok(Item::Secret(Arc::new(Secret::from(&message))))
        }
        Kind::Address => {
            let message: api::discovery::Address = message(bytes)?;
            same_name(name, message.address.clone())?;
            Ok(Item::Address(Arc::new(AddressEntry::try_from(&message).map_err(ResourceError::Wire)?)))
        }
    }
}

fn message<M: Message + Default>(bytes: &[u8]) -> Result<M, ResourceError> {
    M::decode(bytes).map_err(ResourceError::Decode)
}

fn same_name(envelope: &str, body: String) -> Result<(), ResourceError> {
    if envelope == body { Ok(()) } else { Err(ResourceError::NameMismatch { body }) }
}

pub(crate) fn decode_removed(kind: Kind, name: &str) -> Result<Removed, NameError> {
    Ok(match kind {
        Kind::Mesh => Removed::Mesh,
        Kind::Cluster => Removed::Cluster(name.parse()?),
        Kind::LocalGateway => Removed::LocalGateway(name.to_owned()),
        Kind::Workload => Removed::Workload,
        Kind::Service => Removed::Service(name.parse()?),
        Kind::HostEntry => Removed::HostEntry(name.parse()?),
        Kind::Entry => Removed::Entry(name.parse()?),
        Kind::Secret => Removed::Secret(name.to_owned()),
        Kind::StandIn => Removed::StandIn(name.to_owned()),
        // What is no address was never put.
        Kind::Address => Removed::Address(name.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))),
    })
}
