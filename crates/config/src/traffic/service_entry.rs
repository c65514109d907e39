//! ServiceEntry: hosts of the registry, their endpoints and their names in DNS.

mod endpoints;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use federation_crds::Manifest;
use federation_crds::istio::ServiceEntry;
use federation_crds::istio::service_entry as crd;
use ipnet::IpNet;
use mesh::{
    EntryConfig, HostEntry, HostPattern, Protocol, Resolution, Service, ServiceConfig, ServiceName, ServicePort,
};

use super::objects::{Notes, Object, in_order, visibility};
use super::opaque::subnet_of;
use crate::analyze::codes;
use crate::automatic::{Range, allocate};
use crate::compile::{Compiled, Input};

pub(super) fn compile(input: &Input<'_>, compiled: &mut Compiled) {
    for manifest in input.manifests {
        let Manifest::WorkloadEntry(entry) = manifest else { continue };
        let Some(object) = Object::of(manifest.kind(), &entry.metadata) else { continue };
        let mut notes = Notes { object: object.reference, findings: &mut compiled.findings };
        endpoints::note_network(&entry.spec, "spec", &mut notes);
    }
    let all = in_order(input.manifests, |manifest| match manifest {
        Manifest::ServiceEntry(object) => Some(object.as_ref()),
        _ => None,
    });
    let automatic = automatic(&all);
    for (object, entry) in &all {
        let mut notes = Notes { object: Arc::clone(&object.reference), findings: &mut compiled.findings };
        let found = endpoints::Candidates { input, object, entry }.collect(&mut notes);
        let ports = ports(entry, &mut notes);
        for (index, host) in entry.spec.hosts.iter().enumerate() {
            let host: HostPattern = match host.parse() {
                Ok(host) => host,
                Err(error) => {
                    notes.not_compiled(format!("spec.hosts[{index}]"), error);
                    continue;
                }
            };
            let service = entry_service(object, entry, &host, &ports, found.clone(), &automatic);
            match compiled.entries.get_mut(&service.name) {
                Some(first) => merge(first, service, &mut notes),
                None => {
                    compiled.entries.insert(service.name.clone(), service);
                }
            }
        }
    }
    for (name, service) in &compiled.entries {
        if service.cluster_addresses.is_empty() || name.name().starts_with('*') {
            continue;
        }
        let entry = HostEntry::of_entry(name.clone(), service.cluster_addresses.clone());
        compiled.hosts.insert(name.clone(), entry);
    }
}

/// Automatic addresses: for hosts without addresses whose endpoints the proxy finds itself, wildcards aside.
fn automatic(all: &[(Object, &ServiceEntry)]) -> BTreeMap<String, [IpAddr; 2]> {
    let given = all.iter().flat_map(|(_, entry)| &entry.spec.addresses).filter_map(|address| address.parse().ok());
    let taken: BTreeSet<IpAddr> = given.collect();
    let without = all
        .iter()
        .filter(|(_, entry)| entry.spec.addresses.is_empty() && entry.spec.resolution != crd::Resolution::None);
    let hosts: BTreeSet<HostPattern> = without
        .flat_map(|(_, entry)| &entry.spec.hosts)
        .filter_map(|host| host.parse::<HostPattern>().ok())
        .filter(|host| !host.is_wildcard() && host.as_str().parse::<IpAddr>().is_err())
        .collect();
    allocate(Range::Entries, &hosts.iter().map(HostPattern::as_str).collect(), &taken)
}

/// The ports that are carried.
fn ports(entry: &ServiceEntry, notes: &mut Notes<'_>) -> Vec<ServicePort> {
    let mut ports = Vec::new();
    for (index, port) in entry.spec.ports.iter().enumerate() {
        if port.protocol.eq_ignore_ascii_case("udp") {
            let hint = "UDP is not captured: it goes to its destination past the mesh";
            notes.add(codes::WITHOUT_EFFECT, format!("spec.ports[{index}].protocol"), "UDP is not carried", hint);
            continue;
        }
        let Ok(number) = u16::try_from(port.number) else {
            notes.not_compiled(format!("spec.ports[{index}].number"), "is no port");
            continue;
        };
        let declared = Some(port.protocol.as_str()).filter(|protocol| !protocol.is_empty());
        let protocol = Protocol::declared(Some(&port.name), declared);
        ports.push(ServicePort { name: port.name.clone(), number, protocol });
    }
    ports.sort_by_key(|port| port.number);
    ports
}

fn entry_service(
    object: &Object,
    entry: &ServiceEntry,
    host: &HostPattern,
    ports: &[ServicePort],
    mut found: endpoints::Found,
    automatic: &BTreeMap<String, [IpAddr; 2]>,
) -> Service {
    let spec = &entry.spec;
    let resolution = match spec.resolution {
        crd::Resolution::None => Resolution::None,
        crd::Resolution::Static => Resolution::Static,
        crd::Resolution::Dns | crd::Resolution::DynamicDns => Resolution::Dns,
        crd::Resolution::DnsRoundRobin => Resolution::DnsRoundRobin,
    };
    let by_name = matches!(resolution, Resolution::Dns | Resolution::DnsRoundRobin);
    if by_name && spec.endpoints.is_empty() && spec.workload_selector.is_none() && !host.is_wildcard() {
        found.hosts.push(endpoints::named(host.as_str().to_owned(), &spec.ports, &Default::default()));
    }
    let subnets: Vec<IpNet> = spec.addresses.iter().filter_map(|address| subnet_of(address).ok()).collect();
    let (single, networks): (Vec<IpNet>, Vec<IpNet>) =
        subnets.into_iter().partition(|subnet| subnet.prefix_len() == subnet.max_prefix_len());
    let mut addresses: Vec<IpAddr> = single.iter().map(IpNet::addr).collect();
    if spec.addresses.is_empty() && resolution != Resolution::None {
        addresses.extend(automatic.get(host.as_str()).into_iter().flatten());
    }
    let config = EntryConfig {
        origin: object.reference.as_ref().clone(),
        visible_to: visibility(&spec.export_to, &object.namespace),
        resolution,
        external: spec.location == crd::Location::MeshExternal,
        networks,
        hosts: found.hosts,
        subject_alt_names: spec.subject_alt_names.clone(),
    };
    let name = ServiceName::entry(object.namespace.clone(), host);
    let service = service(name, ServiceConfig { entry: Some(config), ..ServiceConfig::default() });
    Service { ports: ports.to_vec(), endpoints: found.endpoints, cluster_addresses: addresses, ..service }
}

/// An entry without ports and endpoints.
pub(super) fn service(name: ServiceName, config: ServiceConfig) -> Service {
    Service {
        name,
        global: false,
        headless: false,
        clusterset_addresses: Vec::new(),
        listeners: Default::default(),
        cluster_addresses: Vec::new(),
        ports: Vec::new(),
        endpoints: Vec::new(),
        export: None,
        imports: BTreeMap::new(),
        config: Arc::new(config),
    }
}

/// Two entries of one namespace and host are one: the younger adds its ports, endpoints and addresses.
fn merge(first: &mut Service, other: Service, notes: &mut Notes<'_>) {
    let config = Arc::make_mut(&mut first.config);
    let (Some(own), Some(new)) = (config.entry.as_mut(), other.config.entry.as_ref()) else { return };
    if own.resolution != new.resolution || own.external != new.external || own.visible_to != new.visible_to {
        let message = format!("{} has the host {:?} already and says otherwise", own.origin, other.name.name());
        let hint = "its resolution, location and exportTo count, because it is older; ports and endpoints are added up";
        notes.add(codes::OBJECT_WITHOUT_EFFECT, "spec.hosts", message, hint);
    }
    let known: BTreeSet<u16> = first.ports.iter().map(|port| port.number).collect();
    first.ports.extend(other.ports.into_iter().filter(|port| !known.contains(&port.number)));
    first.ports.sort_by_key(|port| port.number);
    for endpoint in other.endpoints {
        match first.endpoints.iter_mut().find(|known| known.address == endpoint.address) {
            Some(known) => endpoint.ports.into_iter().for_each(|(from, to)| _ = known.ports.entry(from).or_insert(to)),
            None => first.endpoints.push(endpoint),
        }
    }
    for host in &new.hosts {
        match own.hosts.iter_mut().find(|known| known.host == host.host) {
            Some(known) => host.ports.iter().for_each(|(from, to)| _ = known.ports.entry(*from).or_insert(*to)),
            None => own.hosts.push(host.clone()),
        }
    }
    let networks = new.networks.iter().filter(|network| !own.networks.contains(network)).copied();
    own.networks.extend(networks.collect::<Vec<_>>());
    let addresses = other.cluster_addresses.into_iter().filter(|address| !first.cluster_addresses.contains(address));
    first.cluster_addresses.extend(addresses.collect::<Vec<_>>());
}
