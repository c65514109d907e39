//! WorkloadEntries that a Service selects: its endpoints outside of Kubernetes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use federation_crds::Service;
use federation_crds::istio::WorkloadEntry;
use federation_crds::istio::workload_entry::WorkloadEntrySpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use mesh::{Endpoint, MtlsMode, Namespace, ServicePort, SpiffeId, StandIn, TrustDomain, Workload, WorkloadPort};

use super::names::PodNames;
use super::{Local, is_carried, service_name};

/// The label by which a workload says whether it speaks the mesh's mTLS, `istio` or `disabled`.
const TLS_MODE: &str = "security.istio.io/tlsMode";

/// Adds a WorkloadEntry to the services of its namespace whose selector fits its labels.
pub(super) fn add(local: &mut Local, services: &[&Service], entry: &WorkloadEntry, trust_domain: &TrustDomain) {
    let Ok(namespace) = Namespace::new(entry.metadata.namespace.as_deref().unwrap_or("default")) else { return };
    let own_name = entry.metadata.name.clone().unwrap_or_default();
    for service in services {
        if service.metadata.namespace.as_deref().unwrap_or("default") != namespace.as_str() || !selects(service, entry)
        {
            continue;
        }
        let name = service_name(&service.metadata.namespace, &service.metadata.name);
        let Some(known) = name.and_then(|name| local.services.get_mut(&name)) else { continue };
        let Ok(address) = entry.spec.address.parse::<IpAddr>() else {
            let text =
                format!("WorkloadEntry {own_name}: {:?} is no IP address, so no Service has it", entry.spec.address);
            return local.problems.push(text);
        };
        let names = PodNames { hostname: None, addresses: vec![address], ports: Vec::new(), ready: true };
        known.names.pods.insert(own_name.clone(), names);
        let (ports, identity) = (ports(service, &entry.spec), identity(&entry.spec, &namespace, trust_domain));
        known.endpoints.push(Endpoint {
            name: own_name.clone(),
            address,
            ports: ports.clone(),
            identity: identity.clone(),
            labels: entry.spec.labels.clone(),
            locality: entry.spec.locality.clone(),
            ready: true,
            other_addresses: Vec::new(),
            plain_ports: BTreeSet::new(),
            // Until it is known what its export says.
            stand_in: identity.is_none().then(|| named(&entry.spec, &namespace, trust_domain)).flatten(),
            weight: weight(&entry.spec),
        });
        let key = format!("{namespace}/{own_name}");
        let fresh = || workload(&entry.spec, namespace.clone(), own_name.clone());
        let workload = if identity.is_some() {
            local.workloads.entry(key).or_insert_with(fresh)
        } else {
            let stand_in = || StandIn { address, workload: fresh() };
            &mut local.stand_ins.entry(key).or_insert_with(stand_in).workload
        };
        add_ports(workload, &known.ports, &ports);
    }
}

/// The workload as its sidecar, or the gateway that speaks for it, has it.
fn workload(entry: &WorkloadEntrySpec, namespace: Namespace, name: String) -> Workload {
    Workload {
        namespace,
        name,
        service_account: account(entry).to_owned(),
        labels: entry.labels.clone(),
        ports: Vec::new(),
        mtls: MtlsMode::Permissive,
        locality: entry.locality.clone(),
        config: Default::default(),
    }
}

/// Adds the ports that serve a service.
fn add_ports(workload: &mut Workload, service: &[ServicePort], ports: &BTreeMap<u16, u16>) {
    for port in service {
        let Some(number) = ports.get(&port.number).copied() else { continue };
        let same =
            |known: &&mut WorkloadPort| known.number == number && known.protocol.is_udp() == port.protocol.is_udp();
        match workload.ports.iter_mut().find(same) {
            Some(known) => _ = known.service_ports.insert(port.number),
            None => workload.ports.push(WorkloadPort {
                number,
                name: port.name.clone(),
                protocol: port.protocol,
                service_ports: BTreeSet::from([port.number]),
                exports: BTreeMap::new(),
            }),
        }
    }
    workload.ports.sort_by_key(|port| (port.number, port.protocol.is_udp()));
}

/// The identity that the endpoint proves: that of its account, unless its label says that it speaks no mTLS.
pub(crate) fn identity(
    entry: &WorkloadEntrySpec,
    namespace: &Namespace,
    trust_domain: &TrustDomain,
) -> Option<SpiffeId> {
    let meshed = match entry.labels.get(TLS_MODE) {
        Some(mode) => mode == "istio",
        None => !entry.service_account.is_empty(),
    };
    meshed.then(|| named(entry, namespace, trust_domain)).flatten()
}

/// The identity of its account, whoever proves it.
fn named(entry: &WorkloadEntrySpec, namespace: &Namespace, trust_domain: &TrustDomain) -> Option<SpiffeId> {
    SpiffeId::new(trust_domain.clone(), namespace.clone(), account(entry)).ok()
}

fn account(entry: &WorkloadEntrySpec) -> &str {
    if entry.service_account.is_empty() { "default" } else { &entry.service_account }
}

/// Its share among the endpoints; one unless it says otherwise.
pub(crate) fn weight(entry: &WorkloadEntrySpec) -> u32 {
    u32::try_from(entry.weight).unwrap_or(1).max(1)
}

fn selects(service: &Service, entry: &WorkloadEntry) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| {
        !selector.is_empty() && selector.iter().all(|(key, value)| entry.spec.labels.get(key) == Some(value))
    })
}

/// Service port → port of the endpoint: its own by the port's name, else the target port, else the same.
fn ports(service: &Service, entry: &WorkloadEntrySpec) -> BTreeMap<u16, u16> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let pair = |port: &k8s_openapi::api::core::v1::ServicePort| {
        let by_name = |name: &str| entry.ports.get(name).and_then(|port| u16::try_from(*port).ok());
        let own = port.name.as_deref().and_then(by_name);
        let number = u16::try_from(port.port).ok()?;
        let target = match &port.target_port {
            Some(IntOrString::Int(target)) => u16::try_from(*target).ok(),
            Some(IntOrString::String(name)) => by_name(name),
            None => None,
        };
        Some((number, own.or(target).unwrap_or(number)))
    };
    ports.filter(|port| is_carried(port.protocol.as_deref())).filter_map(pair).collect()
}
