//! What a sidecar asks for by name.

use std::net::IpAddr;

use mesh::ServiceName;

use crate::delta::{Item, Removed};
use crate::types::Kind;

/// A resource that its workload made it ask for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wanted {
    Service(ServiceName),
    /// Who has the address.
    Address(IpAddr),
}

impl Wanted {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::Address(_) => Kind::Address,
        }
    }

    /// The name of the resource.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Service(name) => name.to_string(),
            Self::Address(address) => address.to_string(),
        }
    }

    /// By the name of a resource.
    pub(crate) fn parse(kind: Kind, name: &str) -> Option<Self> {
        match kind {
            Kind::Service => name.parse().ok().map(Self::Service),
            Kind::Address => name.parse().ok().map(Self::Address),
            _ => None,
        }
    }

    /// What was put, if it is something that is asked for by name.
    pub(crate) fn of_item(item: &Item) -> Option<Self> {
        match item {
            Item::Service(service) => Some(Self::Service(service.name.clone())),
            Item::Address(entry) => Some(Self::Address(entry.address)),
            _ => None,
        }
    }

    /// What was removed, if it is something that is asked for by name.
    pub(crate) fn of_removed(removed: &Removed) -> Option<Self> {
        match removed {
            Removed::Service(name) => Some(Self::Service(name.clone())),
            Removed::Address(address) => Some(Self::Address(*address)),
            _ => None,
        }
    }

    /// Its removal.
    pub(crate) fn into_removed(self) -> Removed {
        match self {
            Self::Service(name) => Removed::Service(name),
            Self::Address(address) => Removed::Address(address),
        }
    }
}
