//! Gateway, the VirtualServices bound to it, and Secrets, compiled.

mod bind;
mod listeners;
mod secrets;
mod servers;
mod tls;

use federation_crds::istio::Gateway;
use federation_crds::{Kind, Manifest};
use mesh::{GatewayConfig, Labels, ObjectRef, Workload};

use crate::compile::{Compiled, Input};
use crate::mesh_config::MeshConfig;
use crate::object;
use crate::security::scope::has_labels;
use crate::traffic::{self, BoundRoutes};

pub use secrets::share_secret;

/// The label by whose value Istio's own gateways are known: `ingressgateway`, `egressgateway`.
const GATEWAY_LABEL: &str = "istio";

/// Compiles them into `compiled`.
pub fn compile(input: &Input<'_>, mesh_config: &MeshConfig, compiled: &mut Compiled) {
    let gateways = input.manifests.iter().filter_map(|manifest| match manifest {
        Manifest::Gateway(gateway) => Some(gateway.as_ref()),
        _ => None,
    });
    let mut gateways: Vec<&Gateway> = gateways.collect();
    if gateways.is_empty() {
        return;
    }
    gateways.sort_by_key(|gateway| object::age(&gateway.metadata));
    let bound = traffic::virtual_services(input, mesh_config, &mut compiled.findings);
    for (key, workload) in &input.local.workloads {
        let mine = gateways.iter().filter(|gateway| selects(&gateway.spec.selector, workload));
        let mine: Vec<Own<'_>> = mine.map(|gateway| Own::new(gateway)).collect();
        if mine.is_empty() {
            continue;
        }
        let context = Context { input, key, workload, bound: &bound };
        let listeners = listeners::build(&context, &mine, compiled);
        let config = compiled.workloads.entry(key.clone()).or_default();
        config.gateway = Some(GatewayConfig { listeners });
        config.inbound.trusted_hops = mesh_config.trusted_hops;
    }
}

/// A gateway workload, and what there is for it to run.
struct Context<'a> {
    input: &'a Input<'a>,
    /// `<namespace>/<pod>`.
    key: &'a str,
    workload: &'a Workload,
    /// VirtualServices, in order of precedence.
    bound: &'a [BoundRoutes],
}

/// A Gateway that a workload runs.
struct Own<'a> {
    gateway: &'a Gateway,
    origin: ObjectRef,
}

impl<'a> Own<'a> {
    fn new(gateway: &'a Gateway) -> Self {
        Self { gateway, origin: object::reference(Kind::Gateway, &gateway.metadata) }
    }

    /// As VirtualServices name it.
    fn name(&self) -> String {
        format!("{}/{}", self.origin.namespace, self.origin.name)
    }
}

/// Whether a workload, of whatever namespace, runs the Gateways with a selector. Without a selector only what is a
/// gateway by its label does, because sidecars have labels, too.
fn selects(selector: &Labels, workload: &Workload) -> bool {
    if selector.is_empty() {
        return workload.labels.get(GATEWAY_LABEL).is_some_and(|value| value.contains("gateway"));
    }
    has_labels(workload, selector)
}

/// Whether a workload is a gateway: by its label, or because a Gateway selects it.
pub(crate) fn is_gateway(input: &Input<'_>, workload: &Workload) -> bool {
    input.manifests.iter().any(|manifest| match manifest {
        Manifest::Gateway(gateway) => selects(&gateway.spec.selector, workload),
        _ => false,
    }) || selects(&Labels::new(), workload)
}

#[cfg(test)]
mod tests;
