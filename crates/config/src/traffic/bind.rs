//! Which routes govern which service: VirtualServices for the mesh, bound to services, entries and hosts of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh::{
    EntryConfig, HostPattern, HostRoutes, MESH_GATEWAY, Resolution, Service, ServiceConfig, ServiceName, Visibility,
};

use super::objects::{Notes, overlap};
use super::registry::{cluster_host, cluster_service, clusterset_service, covers};
use super::virtual_service::BoundRoutes;
use crate::analyze::codes;
use crate::compile::{Compiled, Input};

/// Binds them. Exact hosts come before wildcards, longer wildcards before shorter ones, then the order of `routes`.
pub(super) fn routes(input: &Input<'_>, routes: &[BoundRoutes], compiled: &mut Compiled) {
    let mesh = Mesh::of(routes);
    mesh.note_conflicts(compiled);
    let services: BTreeSet<&ServiceName> = input.local.services.keys().chain(input.imported.keys()).collect();
    for service in services {
        let own = mesh.of_host(&cluster_host(service));
        let clusterset = mesh.of_host(&service.clusterset_host());
        if own.is_empty() && clusterset.is_empty() {
            continue;
        }
        let config = compiled.services.entry(service.clone()).or_default();
        config.routes = own;
        config.clusterset_routes = Some(clusterset).filter(|routes| !routes.is_empty());
    }
    let mut covered: BTreeSet<String> = compiled.entries.keys().map(|name| name.name().to_owned()).collect();
    for (name, entry) in &mut compiled.entries {
        Arc::make_mut(&mut entry.config).routes = mesh.of_host(name.name());
    }
    covered.retain(|host| mesh.by_host.contains_key(host.as_str()));
    for (host, bound) in &mesh.by_host {
        let known =
            |service: ServiceName| input.local.services.contains_key(&service) || input.imported.contains_key(&service);
        let service = cluster_service(host).or_else(|| clusterset_service(host));
        if covered.contains(*host) || service.is_some_and(known) {
            continue;
        }
        if let Some((name, entry)) = entry_of(host, bound, &mesh) {
            compiled.entries.insert(name, entry);
        }
    }
}

/// The routes of sidecars by host.
struct Mesh<'a> {
    by_host: BTreeMap<&'a str, Vec<&'a BoundRoutes>>,
    /// Longest first.
    wildcards: Vec<&'a HostPattern>,
}

impl<'a> Mesh<'a> {
    fn of(routes: &'a [BoundRoutes]) -> Self {
        let mut by_host: BTreeMap<&str, Vec<&BoundRoutes>> = BTreeMap::new();
        let mut wildcards = BTreeSet::new();
        for bound in routes.iter().filter(|bound| bound.routes.gateways.contains(MESH_GATEWAY)) {
            for host in &bound.hosts {
                by_host.entry(host.as_str()).or_default().push(bound);
                if host.is_wildcard() {
                    wildcards.insert(host);
                }
            }
        }
        let mut wildcards: Vec<_> = wildcards.into_iter().collect();
        wildcards.sort_by_key(|host| std::cmp::Reverse(host.specificity()));
        Self { by_host, wildcards }
    }

    fn of_host(&self, host: &str) -> Vec<Arc<HostRoutes>> {
        let exact = self.by_host.get(host).into_iter().flatten();
        let wild = self.wildcards.iter().filter(|pattern| pattern.as_str() != host && covers(pattern, host));
        let wild = wild.filter_map(|pattern| self.by_host.get(pattern.as_str())).flatten();
        exact.chain(wild).map(|bound| Arc::clone(&bound.routes)).collect()
    }

    /// Of several objects for one host only the first that a client sees counts; one with rules for requests leaves room
    /// for one with rules for connections.
    fn note_conflicts(&self, compiled: &mut Compiled) {
        for (host, bound) in &self.by_host {
            for (index, younger) in bound.iter().enumerate() {
                let seen_too = |older: &&&BoundRoutes| {
                    overlap(&older.routes.visible_to, &younger.routes.visible_to)
                        && are_about_the_same(&older.routes, &younger.routes)
                };
                let Some(older) = bound[..index].iter().find(seen_too) else { continue };
                let object = Arc::new(younger.routes.origin.clone());
                let mut notes = Notes { object, findings: &mut compiled.findings };
                let message = format!("{host:?} has routes of {} already, which is older", older.routes.origin);
                let hint = "merge the two, use delegates, or export them to different namespaces";
                notes.add(codes::CONFLICTING_MESH_HOSTS, "spec.hosts", message, hint);
            }
        }
    }
}

/// Whether both have rules for requests, or both for connections.
fn are_about_the_same(one: &HostRoutes, other: &HostRoutes) -> bool {
    let of_connections = |routes: &HostRoutes| !routes.tls.is_empty() || !routes.tcp.is_empty();
    let requests = !one.http.is_empty() && !other.http.is_empty();
    requests || (of_connections(one) && of_connections(other))
}

/// A host that nothing but routes knows: requests for it are routed, and what no rule takes goes to the address that the
/// client dialled. It stands in the namespace of the oldest object.
fn entry_of(host: &str, bound: &[&BoundRoutes], mesh: &Mesh<'_>) -> Option<(ServiceName, Service)> {
    let first = bound.first()?;
    let name = ServiceName::entry(first.namespace.clone(), &host.parse().ok()?);
    let entry = EntryConfig {
        origin: first.routes.origin.clone(),
        visible_to: bound
            .iter()
            .fold(Visibility::Namespaces(BTreeSet::new()), |all, bound| union(all, &bound.routes.visible_to)),
        resolution: Resolution::None,
        external: true,
        networks: Vec::new(),
        hosts: Vec::new(),
        subject_alt_names: Vec::new(),
    };
    let config = ServiceConfig { routes: mesh.of_host(host), entry: Some(entry), ..ServiceConfig::default() };
    Some((name.clone(), super::service_entry::service(name, config)))
}

fn union(a: Visibility, b: &Visibility) -> Visibility {
    match (a, b) {
        (Visibility::Namespaces(a), Visibility::Namespaces(b)) => Visibility::Namespaces(&a | b),
        _ => Visibility::Everywhere,
    }
}
