//! WorkloadEntries that a Service selects: its endpoints outside of Kubernetes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use federation_crds::Service;
use federation_crds::istio::WorkloadEntry;
use federation_crds::istio::workload_entry::WorkloadEntrySpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use mesh::{Endpoint, Namespace, SpiffeId, TrustDomain};

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
        known.endpoints.push(Endpoint {
            name: own_name.clone(),
            address,
            ports: ports(service, &entry.spec),
            identity: identity(&entry.spec, &namespace, trust_domain),
            labels: entry.spec.labels.clone(),
            locality: entry.spec.locality.clone(),
            ready: true,
            other_addresses: Vec::new(),
            plain_ports: BTreeSet::new(),
            stand_in: None,
            weight: weight(&entry.spec),
        });
    }
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
    let account = if entry.service_account.is_empty() { "default" } else { &entry.service_account };
    meshed.then(|| SpiffeId::new(trust_domain.clone(), namespace.clone(), account).ok()).flatten()
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
