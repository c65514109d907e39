//! Names that lead nowhere: hosts, subsets, ports, gateways and delegates of routes, hosts of DestinationRules.

use federation_crds::Manifest;
use federation_crds::istio::VirtualService;
use federation_crds::istio::virtual_service::Destination;

use super::codes;
use super::found::{Found, Said};
use super::registry::{Registry, qualified};

pub(super) fn check(registry: &Registry<'_>, found: &mut Found) {
    for manifest in registry.input.manifests {
        match manifest {
            Manifest::VirtualService(service) => Routes { registry, manifest, service }.check(found),
            Manifest::DestinationRule(rule) => destination_rule(registry, manifest, &rule.spec.host, found),
            _ => {}
        }
    }
}

/// A DestinationRule for a host that does not exist has no effect.
fn destination_rule(registry: &Registry<'_>, manifest: &Manifest, host: &str, found: &mut Found) {
    if host.contains('*') {
        return;
    }
    if let Err(missing) = registry.host(host, &manifest.key().namespace) {
        let said = Said { path: "spec.host", message: format!("there is no host {host:?}"), hint: missing.hint() };
        found.about(manifest, codes::OBJECT_WITHOUT_EFFECT, said);
    }
}

/// One VirtualService.
struct Routes<'a> {
    registry: &'a Registry<'a>,
    manifest: &'a Manifest,
    service: &'a VirtualService,
}

impl Routes<'_> {
    fn check(&self, found: &mut Found) {
        let spec = &self.service.spec;
        self.gateways(&spec.gateways, "spec.gateways", found);
        for (index, rule) in spec.http.iter().enumerate() {
            let path = format!("spec.http[{index}]");
            for (number, wanted) in rule.matches.iter().enumerate() {
                self.gateways(&wanted.gateways, &format!("{path}.match[{number}].gateways"), found);
            }
            let routes = rule.route.iter().map(|route| route.destination.as_ref()).enumerate();
            for (number, destination) in routes {
                self.destination(destination, &format!("{path}.route[{number}].destination"), found);
            }
            self.destination(rule.mirror.as_ref(), &format!("{path}.mirror"), found);
            for (number, mirror) in rule.mirrors.iter().enumerate() {
                self.destination(mirror.destination.as_ref(), &format!("{path}.mirrors[{number}].destination"), found);
            }
            if let Some(delegate) = &rule.delegate {
                self.delegate(&delegate.name, &delegate.namespace, &format!("{path}.delegate"), found);
            }
        }
        let tls = spec.tls.iter().map(|rule| &rule.route).enumerate().map(|(index, route)| ("tls", index, route));
        let tcp = spec.tcp.iter().map(|rule| &rule.route).enumerate().map(|(index, route)| ("tcp", index, route));
        for (list, index, route) in tls.chain(tcp) {
            for (number, route) in route.iter().enumerate() {
                let path = format!("spec.{list}[{index}].route[{number}].destination");
                self.destination(route.destination.as_ref(), &path, found);
            }
        }
    }

    fn namespace(&self) -> String {
        self.manifest.key().namespace
    }

    fn gateways(&self, names: &[String], path: &str, found: &mut Found) {
        for (index, name) in names.iter().enumerate().filter(|(_, name)| *name != mesh::MESH_GATEWAY) {
            let full = gateway_name(name, &self.namespace());
            if self.registry.gateways.contains_key(&full) {
                continue;
            }
            let (path, message) = (format!("{path}[{index}]"), format!("there is no Gateway {full}"));
            let hint = "apply the Gateway, or write <namespace>/<name> if it stands in another namespace";
            found.about(self.manifest, codes::REFERENCED_RESOURCE_NOT_FOUND, Said { path: &path, message, hint });
        }
    }

    fn delegate(&self, name: &str, namespace: &str, path: &str, found: &mut Found) {
        let own = self.namespace();
        let namespace = if namespace.is_empty() { own.as_str() } else { namespace };
        let exists = self.registry.input.manifests.iter().any(|manifest| {
            let key = manifest.key();
            matches!(manifest, Manifest::VirtualService(_)) && key.name == name && key.namespace == namespace
        });
        if !exists {
            let message = format!("there is no VirtualService {namespace}/{name}");
            let said = Said { path, message, hint: "apply the VirtualService that the rules are delegated to" };
            found.about(self.manifest, codes::REFERENCED_RESOURCE_NOT_FOUND, said);
        }
    }

    fn destination(&self, destination: Option<&Destination>, path: &str, found: &mut Found) {
        let Some(destination) = destination else { return };
        let (host, namespace) = (&destination.host, self.namespace());
        let known = match self.registry.host(host, &namespace) {
            Ok(known) => known,
            Err(missing) => {
                let (path, message) = (format!("{path}.host"), format!("there is no host {host:?}"));
                let said = Said { path: &path, message, hint: missing.hint() };
                return found.about(self.manifest, codes::REFERENCED_RESOURCE_NOT_FOUND, said);
            }
        };
        self.subset(destination, path, found);
        let port = destination.port.as_ref().and_then(|port| u16::try_from(port.number).ok());
        let ports: Vec<String> = known.ports.iter().map(u16::to_string).collect();
        match port {
            Some(port) if !known.ports.contains(&port) && !ports.is_empty() => {
                let (path, message) = (format!("{path}.port"), format!("{host} has no port {port}"));
                let hint = format!("its ports are {}", ports.join(", "));
                let said = Said { path: &path, message, hint: &hint };
                found.about(self.manifest, codes::REFERENCED_RESOURCE_NOT_FOUND, said);
            }
            None if known.ports.len() > 1 && !self.is_own_host(host) => {
                let message = format!("{host} has several ports and none is named");
                let hint = format!("add port.number, one of {}", ports.join(", "));
                found.about(self.manifest, codes::PORT_REQUIRED, Said { path, message, hint: &hint });
            }
            _ => {}
        }
    }

    fn subset(&self, destination: &Destination, path: &str, found: &mut Found) {
        let (host, subset) = (&destination.host, &destination.subset);
        if subset.is_empty() || self.registry.subset(host, &self.namespace(), subset).is_some() {
            return;
        }
        let (path, message) =
            (format!("{path}.subset"), format!("no DestinationRule of {host} has a subset {subset:?}"));
        let hint = "add it to spec.subsets of a DestinationRule for the host; until then such requests get 503";
        found.about(self.manifest, codes::REFERENCED_RESOURCE_NOT_FOUND, Said { path: &path, message, hint });
    }

    /// Requests for a host bring a port that the host has.
    fn is_own_host(&self, host: &str) -> bool {
        let namespace = self.namespace();
        let wanted = qualified(host, &namespace);
        self.service.spec.hosts.iter().any(|own| qualified(own, &namespace) == wanted)
    }
}

/// `<namespace>/<gateway>` of a gateway as a VirtualService in `namespace` writes it.
pub(super) fn gateway_name(name: &str, namespace: &str) -> String {
    if name.contains('/') { name.to_owned() } else { format!("{namespace}/{name}") }
}
