//! Which service or entry of the registry a host means.

use std::net::IpAddr;
use std::sync::Arc;

use super::context::Context;
use crate::host::Host;
use crate::model::{Endpoint, ImportPod, Service};
use crate::names::{ClusterName, ServiceName};
use crate::policy::EntryConfig;
use crate::resolve::dashed;

/// What a host means.
pub(super) enum Found<'a> {
    Place(Place<'a>),
    /// A name of the mesh that nobody answers to.
    Unknown,
    /// Another name of this service, which the view does not have.
    Missing(ServiceName),
    NotInMesh,
}

/// A service or an entry.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) service: &'a Service,
    /// It was asked for by a name or an address that is the same in every cluster.
    pub(super) clusterset: bool,
    /// A wildcard entry, which a service that is not in the view would go before.
    pub(super) wildcard: bool,
    /// A pod of the service was dialled itself.
    pub(super) pod: Option<DialledPod>,
    /// The Service of type ExternalName by whose name it was found.
    pub(super) alias: Option<&'a ServiceName>,
}

/// One pod that a client dialled by its own address.
#[derive(Clone, Copy)]
pub(super) struct DialledPod {
    pub(super) address: IpAddr,
    /// The service port that leads to the port that was dialled.
    pub(super) service_port: u16,
}

impl<'a> Place<'a> {
    fn of(service: &'a Service) -> Self {
        Self { service, clusterset: false, wildcard: service.name.name().starts_with('*'), pod: None, alias: None }
    }

    pub(super) fn entry(&self) -> Option<&'a EntryConfig> {
        self.service.config.entry.as_ref()
    }
}

/// Looks a host up. A Service of type ExternalName is another name, as in DNS: routes and policies are those of what it
/// names (Istio's `ENABLE_EXTERNAL_NAME_ALIAS`). A host that nothing in the mesh has is reached by the Service's own entry.
pub(super) fn find<'a>(context: &Context<'a>, host: &Host) -> Found<'a> {
    let mut found = named(context, host);
    for _ in 0..crate::ALIASES_MAX {
        let Found::Place(place) = &found else { break };
        let Some(target) = &place.service.config.alias else { break };
        let alias = Some(&place.service.name);
        found = match (named(context, target), target.service()) {
            (Found::Place(behind), _) => Found::Place(Place { alias, ..behind }),
            (_, Some(missing)) => return Found::Missing(missing.clone()),
            (_, None) => break,
        };
    }
    found
}

fn named<'a>(context: &Context<'a>, host: &Host) -> Found<'a> {
    let place = match host {
        Host::Clusterset(name) => return clusterset(context, name),
        Host::Invalid(_) => return Found::Unknown,
        Host::Pod { service, cluster: Some(cluster), pod } => {
            let place = pod_named(context, service, Some(cluster), pod);
            return place.map_or(Found::Unknown, Found::Place);
        }
        Host::Pod { service, cluster: None, pod } => {
            pod_named(context, service, None, pod).or_else(|| entry(context, &host.text()))
        }
        Host::Cluster(name) => match service(context, name) {
            Some(service) => Some(Place::of(service)),
            None => entry_named(context, name),
        },
        Host::External(host) => entry(context, host),
        Host::Address(address) => by_address(context, *address).or_else(|| by_sni(context)),
    };
    place.map_or(Found::NotInMesh, Found::Place)
}

/// A service that nobody exports has no clusterset name, even in its own cluster (KEP-1645).
fn clusterset<'a>(context: &Context<'a>, name: &ServiceName) -> Found<'a> {
    match service(context, name) {
        Some(service) if service.export.is_some() || !service.imports.is_empty() => {
            Found::Place(Place { clusterset: true, ..Place::of(service) })
        }
        _ => Found::Unknown,
    }
}

/// One pod by its name. Of `cluster.local` only pods of the own cluster have names.
fn pod_named<'a>(
    context: &Context<'a>,
    name: &ServiceName,
    cluster: Option<&ClusterName>,
    pod: &str,
) -> Option<Place<'a>> {
    let service = service(context, name)?;
    let shared = service.export.is_some() || !service.imports.is_empty();
    if cluster.is_some() && !shared {
        return None;
    }
    let other = cluster.filter(|cluster| Some(*cluster) != context.view.cluster());
    let at = |address: IpAddr| dashed(address) == pod;
    let address = match other.map(|cluster| service.imports.get(cluster)) {
        Some(import) => {
            let mut pods = import.iter().flat_map(|import| &import.pods);
            let named = |own: &&ImportPod| {
                own.hostname.as_deref().unwrap_or(&own.name) == pod || own.addresses.iter().any(|address| at(*address))
            };
            pods.find(named).and_then(|pod| pod.addresses.first().copied())
        }
        None => {
            let named = |own: &&Endpoint| own.name == pod || own.addresses().any(at);
            service.endpoints.iter().find(named).map(|endpoint| endpoint.address)
        }
    };
    let address = address?;
    let port = context.request.port;
    let endpoint = service.endpoints.iter().find(|endpoint| endpoint.has_address(address));
    let leading = endpoint.and_then(|endpoint| endpoint.ports.iter().find(|(_, own)| **own == port));
    let service_port = leading.map_or(port, |(number, _)| *number);
    let pod = Some(DialledPod { address, service_port });
    Some(Place { clusterset: cluster.is_some(), pod, ..Place::of(service) })
}

/// A pod of another cluster by the address that the own cluster gave it: it is dialled at ports of the service.
fn of_remote_pod<'a>(context: &Context<'a>, address: IpAddr) -> Option<Place<'a>> {
    let has = |service: &Service| {
        service.imports.values().flat_map(|import| &import.pods).any(|pod| pod.addresses.contains(&address))
    };
    let service = services(context).find(|service| has(service))?;
    let pod = Some(DialledPod { address, service_port: context.request.port });
    Some(Place { clusterset: true, pod, ..Place::of(service) })
}

/// An entry by a host that also reads as a service's name: `httpbin.org` is service `httpbin` of namespace `org` too.
fn entry_named<'a>(context: &Context<'a>, name: &ServiceName) -> Option<Place<'a>> {
    if context.view.entries.is_empty() {
        return None;
    }
    let (short, namespace) = (name.name(), name.namespace());
    let full = || entry(context, &format!("{short}.{namespace}.svc.cluster.local"));
    let own = || context.is_in(namespace).then(|| entry(context, short)).flatten();
    entry(context, &format!("{short}.{namespace}")).or_else(full).or_else(own)
}

/// The entry that the client sees: the exact host before the longest wildcard, then the client's own namespace first.
fn entry<'a>(context: &Context<'a>, host: &str) -> Option<Place<'a>> {
    let mut best: Option<((bool, usize, bool), &Service)> = None;
    for service in context.view.entries.values() {
        let name = service.name.name();
        let matches = match name.strip_prefix('*') {
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            None => name == host,
        };
        if !matches || !is_visible(context, service) {
            continue;
        }
        let rank = (!name.starts_with('*'), name.len(), context.is_in(service.name.namespace()));
        if best.is_none_or(|(before, _)| rank > before) {
            best = Some((rank, service));
        }
    }
    best.map(|(_, service)| Place::of(service))
}

/// The service of a name, if the client sees it.
fn service<'a>(context: &Context<'a>, name: &ServiceName) -> Option<&'a Service> {
    context.view.services.get(name).map(Arc::as_ref).filter(|service| is_visible(context, service))
}

/// The services that the client sees.
fn services<'a>(context: &Context<'a>) -> impl Iterator<Item = &'a Service> {
    context.view.services.values().map(Arc::as_ref).filter(|service| is_visible(context, service))
}

fn is_visible(context: &Context<'_>, service: &Service) -> bool {
    context.sees(&service.config.visible_to)
        && service.config.entry.as_ref().is_none_or(|entry| context.sees(&entry.visible_to))
}

fn by_address<'a>(context: &Context<'a>, address: IpAddr) -> Option<Place<'a>> {
    let of_service = services(context).find_map(|service| {
        let clusterset = service.clusterset_addresses.contains(&address);
        let found = clusterset || service.cluster_addresses.contains(&address);
        found.then(|| Place { clusterset, ..Place::of(service) })
    });
    let pod = || of_pod(context, address).or_else(|| of_remote_pod(context, address));
    of_service.or_else(pod).or_else(|| entry_at(context, address))
}

/// A pod by its own address, at a port that a service leads to. Of several services a headless one counts: its clients dial
/// pods.
fn of_pod<'a>(context: &Context<'a>, address: IpAddr) -> Option<Place<'a>> {
    let place = |service: &'a Service| {
        let dialled = service.endpoints.iter().filter(|endpoint| endpoint.has_address(address));
        let mut ports = dialled.flat_map(|endpoint| &endpoint.ports);
        let (asked, udp) = (context.request.port, context.request.connection.udp);
        let leads = |(number, port): &(&u16, &u16)| **port == asked && service.port_over(**number, udp).is_some();
        let service_port = ports.find(leads).map(|(number, _)| *number)?;
        Some(Place { pod: Some(DialledPod { address, service_port }), ..Place::of(service) })
    };
    let mut places = services(context).filter_map(place);
    let first = places.next()?;
    Some(if first.service.headless { first } else { places.find(|place| place.service.headless).unwrap_or(first) })
}

/// Entries may share addresses and differ in ports; single addresses go before networks, small ones before large ones.
fn entry_at<'a>(context: &Context<'a>, address: IpAddr) -> Option<Place<'a>> {
    let mut best: Option<((bool, u16, bool), &Service)> = None;
    for service in context.view.entries.values() {
        let prefix = || {
            let networks = service.config.entry.iter().flat_map(|entry| &entry.networks);
            networks.filter(|network| network.contains(&address)).map(|network| u16::from(network.prefix_len())).max()
        };
        let exact = service.cluster_addresses.contains(&address).then_some(u16::MAX);
        let Some(closeness) = exact.or_else(prefix).filter(|_| is_visible(context, service)) else { continue };
        let offered = service.port(context.request.port).is_some();
        let rank = (offered, closeness, context.is_in(service.name.namespace()));
        if best.is_none_or(|(before, _)| rank > before) {
            best = Some((rank, service));
        }
    }
    best.map(|(_, service)| Place::of(service))
}

/// An address that nobody claims, dialled by TLS: the name in the ClientHello says who is meant.
fn by_sni<'a>(context: &Context<'a>) -> Option<Place<'a>> {
    let opaque = context.request.http.is_none();
    context.request.connection.sni.filter(|_| opaque).and_then(|sni| entry(context, &sni.to_ascii_lowercase()))
}
