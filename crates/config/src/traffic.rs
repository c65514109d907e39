//! VirtualService, DestinationRule, ServiceEntry, WorkloadEntry and Sidecar, compiled.
//!
//! Every kind is read in Istio's order (oldest first, then by namespace and name), so that the order of the manifests
//! cannot matter. Names are resolved against the registry: services of the cluster, imported ones, hosts of entries.

mod balancer;
mod bind;
mod clusters;
mod delegate;
mod destination_rule;
mod http;
mod http_match;
mod objects;
mod opaque;
mod pool;
mod registry;
mod retries;
mod service_entry;
pub(crate) mod services;
mod sidecar;
mod traffic_policy;
mod virtual_service;

use crate::compile::{Compiled, Input};
use crate::mesh_config::MeshConfig;
use registry::Registry;

pub use virtual_service::{BoundRoutes, virtual_services};

/// Compiles them into `compiled`.
pub fn compile(input: &Input<'_>, mesh_config: &MeshConfig, compiled: &mut Compiled) {
    let registry = Registry::new(input);
    service_entry::compile(input, compiled);
    let routes = virtual_service::compile(input, &registry, &mut compiled.findings);
    bind::routes(input, &routes, compiled);
    destination_rule::compile(input, mesh_config, &registry, compiled);
    sidecar::compile(input, mesh_config, &registry, compiled);
    clusters::compile(input, mesh_config, compiled);
    services::compile(input, compiled);
}

#[cfg(test)]
mod tests;
