//! PeerAuthentication, RequestAuthentication, AuthorizationPolicy and RateLimitPolicy, compiled.

mod access;
mod conditions;
mod limits;
mod peers;
pub(crate) mod scope;
mod sources;
mod tokens;
mod warnings;

use std::sync::Arc;

use mesh::{InboundPolicy, Workload};

use crate::compile::{Compiled, Input};
use crate::mesh_config::MeshConfig;
use scope::Scope;

/// Compiles them into `compiled`.
pub fn compile(input: &Input<'_>, mesh_config: &MeshConfig, compiled: &mut Compiled) {
    let peers = peers::Peers::read(input, mesh_config, &mut compiled.findings);
    let access = access::read(input, mesh_config, &mut compiled.findings);
    let tokens = tokens::read(input, mesh_config, &mut compiled.findings);
    warnings::read(input, &mut compiled.findings);
    let limits = limits::read(input, mesh_config, &mut compiled.findings);
    for (key, workload) in &input.local.workloads {
        let (mtls, port_mtls) = peers.of(workload);
        let plain_ports = peers::plain_ports(workload, mtls.as_ref(), &port_mtls);
        if !plain_ports.is_empty() {
            compiled.plain_ports.insert(key.clone(), plain_ports);
        }
        let inbound = InboundPolicy {
            mtls,
            port_mtls,
            tokens: selected(&tokens, key, workload),
            authorization: selected(&access, key, workload),
            limits: selected(&limits.rates, key, workload),
            body_limits: selected(&limits.bodies, key, workload),
            ..InboundPolicy::default()
        };
        if inbound != InboundPolicy::default() {
            let own = &mut compiled.workloads.entry(key.clone()).or_default().inbound;
            // The other fields are of other kinds, which may have been compiled before.
            let listeners = std::mem::take(&mut own.listeners);
            *own = InboundPolicy { pool: own.pool.take(), listeners, trusted_hops: own.trusted_hops, ..inbound };
        }
    }
}

/// A part of a policy and the workloads that it is for.
struct Scoped<T> {
    scope: Arc<Scope>,
    part: Arc<T>,
}

fn selected<T>(parts: &[Scoped<T>], key: &str, workload: &Workload) -> Vec<Arc<T>> {
    let mine = parts.iter().filter(|scoped| scoped.scope.selects(key, workload));
    mine.map(|scoped| scoped.part.clone()).collect()
}

#[cfg(test)]
mod tests;
