//! VirtualService: names resolved, delegates merged, rules compiled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use federation_crds::Manifest;
use federation_crds::istio::VirtualService;
use federation_crds::istio::virtual_service::{Destination, HttpRoute};
use mesh::{HostPattern, HostRoutes, HttpRule, MESH_GATEWAY, Namespace, Origin};

use super::delegate;
use super::http;
use super::objects::{Notes, Object, in_order, visibility};
use super::opaque;
use super::registry::Registry;
use crate::analyze::codes;
use crate::compile::Input;
use crate::finding::Finding;
use crate::mesh_config::MeshConfig;

/// A VirtualService, compiled; whether for sidecars or gateways is in [`HostRoutes::gateways`].
#[derive(Debug, Clone, PartialEq)]
pub struct BoundRoutes {
    /// The namespace of the object.
    pub namespace: Namespace,
    /// Its hosts, short names resolved.
    pub hosts: Vec<HostPattern>,
    /// Its rules.
    pub routes: Arc<HostRoutes>,
}

/// All VirtualServices that have hosts, in Istio's precedence: oldest first, then by namespace and name. Delegates are
/// merged into those that name them.
pub fn virtual_services(input: &Input<'_>, _mesh_config: &MeshConfig, findings: &mut Vec<Finding>) -> Vec<BoundRoutes> {
    compile(input, &Registry::new(input), findings)
}

/// VirtualServices without hosts, by namespace and name.
pub(super) type Delegates<'a> = BTreeMap<(String, String), (Object, &'a VirtualService)>;

pub(super) fn compile(input: &Input<'_>, registry: &Registry, findings: &mut Vec<Finding>) -> Vec<BoundRoutes> {
    let all = in_order(input.manifests, |manifest| match manifest {
        Manifest::VirtualService(object) => Some(object.as_ref()),
        _ => None,
    });
    let (roots, delegates): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, object)| !object.spec.hosts.is_empty());
    let key = |object: &Object| (object.reference.namespace.clone(), object.reference.name.clone());
    let with_hosts: BTreeSet<_> = roots.iter().map(|(object, _)| key(object)).collect();
    let delegates: Delegates<'_> = delegates.into_iter().map(|(object, it)| (key(&object), (object, it))).collect();
    let mut used = BTreeSet::new();
    let mut bound = Vec::new();
    for (object, virtual_service) in roots {
        let mut notes = Notes { object: Arc::clone(&object.reference), findings };
        let mut reading =
            Reading { registry, delegates: &delegates, with_hosts: &with_hosts, used: &mut used, notes: &mut notes };
        bound.push(reading.bound(&object, virtual_service));
    }
    for (key, (object, _)) in delegates.iter().filter(|(key, _)| !used.contains(*key)) {
        let mut notes = Notes { object: Arc::clone(&object.reference), findings };
        let message = "has no hosts, and no VirtualService delegates to it";
        let hint = format!("add spec.hosts, or delegate: {{name: {}, namespace: {}}} to a rule", key.1, key.0);
        notes.add(codes::OBJECT_WITHOUT_EFFECT, "spec.hosts", message, hint);
    }
    bound
}

struct Reading<'a, 'b> {
    registry: &'a Registry,
    delegates: &'a Delegates<'a>,
    /// VirtualServices that are no delegates.
    with_hosts: &'a BTreeSet<(String, String)>,
    /// Delegates that some rule names.
    used: &'a mut BTreeSet<(String, String)>,
    notes: &'a mut Notes<'b>,
}

impl Reading<'_, '_> {
    fn bound(&mut self, object: &Object, virtual_service: &VirtualService) -> BoundRoutes {
        let spec = &virtual_service.spec;
        let namespace = &object.namespace;
        let mut hosts = Vec::new();
        for (index, host) in spec.hosts.iter().enumerate() {
            match self.registry.full_name(host, namespace).parse() {
                Ok(host) => hosts.push(host),
                Err(error) => self.notes.not_compiled(format!("spec.hosts[{index}]"), error),
            }
        }
        let scope = opaque::Scope { registry: self.registry, object };
        let routes = HostRoutes {
            origin: object.reference.as_ref().clone(),
            visible_to: visibility(&spec.export_to, namespace),
            gateways: gateways(&spec.gateways, namespace),
            http: self.http(object, &spec.http),
            tls: opaque::tls(&spec.tls, &scope, self.notes),
            tcp: opaque::tcp(&spec.tcp, &scope, self.notes),
        };
        note_claims(&routes, self.notes);
        BoundRoutes { namespace: namespace.clone(), hosts, routes: Arc::new(routes) }
    }

    fn http(&mut self, object: &Object, routes: &[HttpRoute]) -> Vec<Arc<HttpRule>> {
        let mut rules = Vec::new();
        for (index, route) in routes.iter().enumerate() {
            let route = resolved(route, self.registry, &object.namespace);
            if let Some(target) = &route.delegate {
                rules.extend(self.delegated(object, index, &route, target));
                continue;
            }
            let origin = origin(object, index, &route.name);
            let mut scope = http::Scope { registry: self.registry, namespace: &object.namespace, notes: self.notes };
            rules.extend(http::rule(&route, origin, &mut scope).map(Arc::new));
        }
        rules
    }

    /// The rules of a delegate in the place of a root's rule.
    fn delegated(
        &mut self,
        object: &Object,
        index: usize,
        root: &HttpRoute,
        target: &federation_crds::istio::virtual_service::Delegate,
    ) -> Vec<Arc<HttpRule>> {
        let path = format!("spec.http[{index}].delegate");
        let namespace = if target.namespace.is_empty() { object.namespace.as_str() } else { &target.namespace };
        let key = (namespace.to_owned(), target.name.clone());
        let Some((owner, delegate)) = self.delegates.get(&key) else {
            // One that does not exist at all is analysis' to find.
            if self.with_hosts.contains(&key) {
                let message = format!("VirtualService {}/{} has hosts, so it is no delegate", key.0, key.1);
                let hint = "remove its spec.hosts and spec.gateways, or name another";
                self.notes.add(codes::REFERENCED_RESOURCE_NOT_FOUND, path, message, hint);
            }
            return Vec::new();
        };
        self.used.insert(key);
        if !visibility(&delegate.spec.export_to, &owner.namespace).includes(&object.namespace) {
            let message = format!("{} is not exported to namespace {}", owner.reference, object.namespace);
            self.notes.add(codes::REFERENCED_RESOURCE_NOT_FOUND, path, message, "add the namespace to its exportTo");
            return Vec::new();
        }
        let mut rules = Vec::new();
        for (inner, route) in delegate.spec.http.iter().enumerate() {
            let route = resolved(route, self.registry, &owner.namespace);
            let Some(merged) = delegate::merge(root, route) else {
                let message =
                    format!("the conditions of spec.http[{inner}] of {} exclude those of this rule", owner.reference);
                let hint = "each match of a delegate must narrow a match of the rule that delegates";
                self.notes.add(codes::UNREACHABLE_RULE, path.clone(), message, hint);
                continue;
            };
            let origin = origin(owner, inner, &merged.name);
            let mut notes = Notes { object: Arc::clone(&owner.reference), findings: self.notes.findings };
            let mut scope = http::Scope { registry: self.registry, namespace: &owner.namespace, notes: &mut notes };
            rules.extend(http::rule(&merged, origin, &mut scope).map(Arc::new));
        }
        rules
    }
}

/// Names conditions on claims that sidecars will never find met (Istio supports them at gateways only).
fn note_claims(routes: &HostRoutes, notes: &mut Notes<'_>) {
    for rule in &routes.http {
        let for_mesh = |gateways: &BTreeSet<String>| gateways.contains(MESH_GATEWAY);
        let at_sidecars = rule.matches.iter().any(|condition| {
            let of_claims = !condition.claims.is_empty() || !condition.without_claims.is_empty();
            let gateways = if condition.gateways.is_empty() { &routes.gateways } else { &condition.gateways };
            of_claims && for_mesh(gateways)
        });
        if at_sidecars {
            let object = Arc::clone(&rule.origin.object);
            let mut notes = Notes { object, findings: &mut *notes.findings };
            let message =
                "sidecars do not see claims, so that there no request meets the conditions on @request.auth.claims";
            let hint = "bind the rule to gateways only, or match a header that outputClaimToHeaders of a RequestAuthentication makes";
            notes.add(codes::WITHOUT_EFFECT, format!("{}.match", rule.origin.path), message, hint);
        }
    }
}

fn origin(object: &Object, index: usize, name: &str) -> Origin {
    let name = Some(name.to_owned()).filter(|name| !name.is_empty());
    Origin { object: Arc::clone(&object.reference), path: format!("spec.http[{index}]"), name }
}

/// The rule with full names, so that rules of two namespaces can be merged.
fn resolved(route: &HttpRoute, registry: &Registry, namespace: &Namespace) -> HttpRoute {
    let mut route = route.clone();
    let resolve = |destination: &mut Destination| destination.host = registry.full_name(&destination.host, namespace);
    route.route.iter_mut().filter_map(|it| it.destination.as_mut()).for_each(resolve);
    route.mirrors.iter_mut().filter_map(|it| it.destination.as_mut()).for_each(resolve);
    route.mirror.as_mut().into_iter().for_each(resolve);
    for found in &mut route.matches {
        found.gateways = found.gateways.iter().map(|name| gateway(name, namespace)).collect();
    }
    route
}

/// Gateways with their namespaces; none means the mesh.
pub(super) fn gateways(names: &[String], namespace: &Namespace) -> BTreeSet<String> {
    if names.is_empty() {
        return BTreeSet::from([MESH_GATEWAY.to_owned()]);
    }
    names.iter().map(|name| gateway(name, namespace)).collect()
}

/// `<namespace>/<name>`: short names are beside the object; `name.namespace.svc.cluster.local` is the old way to say it.
pub(super) fn gateway(name: &str, namespace: &Namespace) -> String {
    match (name.split_once('/'), name.split_once('.')) {
        (Some((".", name)), _) => format!("{namespace}/{name}"),
        (Some(_), _) => name.to_owned(),
        (None, _) if name == MESH_GATEWAY => name.to_owned(),
        (None, Some((name, rest))) => format!("{}/{name}", rest.split('.').next().unwrap_or_default()),
        (None, None) => format!("{namespace}/{name}"),
    }
}
