//! EndpointSlices: endpoints of services, and the workloads behind them.

use std::collections::{BTreeMap, BTreeSet};

use federation_crds::{EndpointSlice, SERVICE_NAME_LABEL};
use k8s_openapi::api::discovery::v1::EndpointPort;
use mesh::{
    Endpoint, Labels, MtlsMode, Namespace, Protocol, ServicePort, SpiffeId, StandIn, TrustDomain, Workload,
    WorkloadPort,
};

use super::{
    LOCALITY, Local, MESHED, MTLS, POD_LABELS, SERVICE_ACCOUNT, is_carried, is_udp, protocol_of, service_name,
};

/// What the annotations of a slice say about its pods.
struct Pods {
    namespace: Namespace,
    account: String,
    /// `None` without sidecars.
    identity: Option<SpiffeId>,
    /// The identity that the account has.
    named: SpiffeId,
    labels: Labels,
    mtls: MtlsMode,
    /// `None`: each endpoint says its zone.
    locality: Option<String>,
}

/// Adds the endpoints of a slice to its service and its pods to the workloads.
pub(super) fn add(local: &mut Local, slice: &EndpointSlice, trust_domain: &TrustDomain) {
    let own_name = slice.metadata.name.clone().unwrap_or_default();
    let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME_LABEL)).cloned();
    let name = service_name(&slice.metadata.namespace, &service);
    let Some(name) = name.filter(|name| local.services.contains_key(name)) else {
        let text = match service {
            Some(service) => {
                format!("EndpointSlice {own_name}: there is no Service {service:?}, as {SERVICE_NAME_LABEL} says")
            }
            None => {
                format!("EndpointSlice {own_name}: the label {SERVICE_NAME_LABEL} is missing, so it serves nothing")
            }
        };
        return local.problems.push(text);
    };
    let pods = match pods(slice, name.namespace(), trust_domain) {
        Ok(pods) => pods,
        Err(why) => return local.problems.push(format!("EndpointSlice {own_name}: {why}")),
    };
    let Some(service) = local.services.get_mut(&name) else { return };
    let slice_ports = slice.ports.clone().unwrap_or_default();
    let ports = ports(&service.ports, &slice_ports);
    if let Some(number) = torn(&service.ports, &slice_ports) {
        let text = format!(
            "EndpointSlice {own_name}: TCP port {number} and UDP port {number} lead to different ports; hint: give both the same targetPort"
        );
        local.problems.push(text);
    }
    for (index, endpoint) in slice.endpoints.iter().flatten().enumerate() {
        let Some(address) = endpoint.addresses.first().and_then(|address| address.parse().ok()) else {
            local.problems.push(format!("EndpointSlice {own_name}: endpoint {index} has no IP address"));
            continue;
        };
        let target = endpoint.target_ref.as_ref().and_then(|target| target.name.clone());
        let pod = target.unwrap_or_else(|| format!("{own_name}-{index}"));
        let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready);
        service.names.add(&pod, endpoint, &slice_ports);
        let known = service.endpoints.iter_mut().find(|known| known.name == pod);
        match known {
            // Two slices of one service may list different ports of the same pod, or its address of the other IP family.
            Some(known) => {
                known.ports.extend(ports.clone());
                known.add_address(address);
            }
            None => service.endpoints.push(Endpoint {
                name: pod.clone(),
                address,
                other_addresses: Vec::new(),
                ports: ports.clone(),
                identity: pods.identity.clone(),
                labels: pods.labels.clone(),
                locality: pods.locality.clone().or_else(|| endpoint.zone.clone()).unwrap_or_default(),
                ready: ready.unwrap_or(true),
                plain_ports: BTreeSet::new(),
                // Until it is known what its export says.
                stand_in: pods.identity.is_none().then(|| pods.named.clone()),
                weight: 1,
            }),
        }
        let key = format!("{}/{pod}", pods.namespace);
        let workload = if pods.identity.is_some() {
            local.workloads.entry(key).or_insert_with(|| pods.workload(pod))
        } else {
            let stand_in = || StandIn { address, workload: pods.workload(pod) };
            &mut local.stand_ins.entry(key).or_insert_with(stand_in).workload
        };
        add_ports(workload, &service.ports, &slice_ports);
    }
}

impl Pods {
    fn workload(&self, name: String) -> Workload {
        Workload {
            namespace: self.namespace.clone(),
            name,
            service_account: self.account.clone(),
            labels: self.labels.clone(),
            ports: Vec::new(),
            mtls: self.mtls,
            locality: self.locality.clone().unwrap_or_default(),
            config: Default::default(),
        }
    }
}

fn pods(slice: &EndpointSlice, namespace: &Namespace, trust_domain: &TrustDomain) -> Result<Pods, String> {
    let empty = BTreeMap::new();
    let annotations = slice.metadata.annotations.as_ref().unwrap_or(&empty);
    let meshed = match annotations.get(MESHED).map(String::as_str) {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => return Err(format!("annotation {MESHED}: {other:?} is neither \"true\" nor \"false\"")),
    };
    let account = annotations.get(SERVICE_ACCOUNT).cloned().unwrap_or_else(|| "default".to_owned());
    let identity = SpiffeId::new(trust_domain.clone(), namespace.clone(), account.as_str())
        .map_err(|error| format!("annotation {SERVICE_ACCOUNT}: {error}"))?;
    let mtls = match annotations.get(MTLS).map(String::as_str) {
        None | Some("permissive") => MtlsMode::Permissive,
        Some("strict") => MtlsMode::Strict,
        Some(other) => return Err(format!("annotation {MTLS}: {other:?} is neither \"permissive\" nor \"strict\"")),
    };
    let locality = annotations.get(LOCALITY).cloned();
    let labels = parse_labels(annotations.get(POD_LABELS).map(String::as_str).unwrap_or_default())?;
    let (named, identity) = (identity.clone(), meshed.then_some(identity));
    Ok(Pods { namespace: namespace.clone(), account, identity, named, labels, mtls, locality })
}

fn parse_labels(text: &str) -> Result<Labels, String> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let pair = |pair: &str| match pair.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("annotation {POD_LABELS}: {pair:?} is not key=value")),
    };
    pairs.map(pair).collect()
}

/// Service port → port of the pod: ports belong together by name, as in Kubernetes. Of a TCP and a UDP port with one
/// number TCP's target counts.
fn ports(service: &[ServicePort], slice: &[EndpointPort]) -> BTreeMap<u16, u16> {
    let (udp, tcp): (Vec<_>, Vec<_>) = service.iter().partition(|port| port.protocol.is_udp());
    udp.into_iter().chain(tcp).filter_map(|port| Some((port.number, target_of(port, slice)?))).collect()
}

fn target_of(port: &ServicePort, slice: &[EndpointPort]) -> Option<u16> {
    slice.iter().find(|candidate| same_name(candidate, port)).and_then(number_of)
}

/// A number that a TCP and a UDP port share without sharing their target.
fn torn(service: &[ServicePort], slice: &[EndpointPort]) -> Option<u16> {
    let udp = service.iter().filter(|port| port.protocol.is_udp());
    let mut torn = udp.filter_map(|port| {
        let twin = service.iter().find(|other| other.number == port.number && !other.protocol.is_udp())?;
        let targets = (target_of(port, slice)?, target_of(twin, slice)?);
        (targets.0 != targets.1).then_some(port.number)
    });
    torn.next()
}

fn same_name(slice: &EndpointPort, service: &ServicePort) -> bool {
    let protocol = slice.protocol.as_deref();
    is_carried(protocol)
        && is_udp(protocol) == service.protocol.is_udp()
        && slice.name.as_deref().unwrap_or_default() == service.name
}

fn number_of(port: &EndpointPort) -> Option<u16> {
    port.port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)
}

fn add_ports(workload: &mut Workload, service: &[ServicePort], slice: &[EndpointPort]) {
    for port in slice.iter().filter(|port| is_carried(port.protocol.as_deref())) {
        let Some(number) = number_of(port) else { continue };
        let leading: Vec<&ServicePort> = service.iter().filter(|candidate| same_name(port, candidate)).collect();
        let service_ports: BTreeSet<u16> = leading.iter().map(|port| port.number).collect();
        let own = protocol_of(port.protocol.as_deref(), port.name.as_deref(), port.app_protocol.as_deref());
        let protocol = leading.first().map_or(own, |port| port.protocol);
        let same = |known: &&mut WorkloadPort| known.number == number && known.protocol.is_udp() == own.is_udp();
        match workload.ports.iter_mut().find(same) {
            Some(known) => {
                known.service_ports.extend(service_ports);
                if known.protocol == Protocol::Auto {
                    known.protocol = protocol;
                }
            }
            None => workload.ports.push(WorkloadPort {
                number,
                name: port.name.clone().unwrap_or_default(),
                protocol,
                service_ports,
                exports: BTreeMap::new(),
            }),
        }
    }
    workload.ports.sort_by_key(|port| (port.number, port.protocol.is_udp()));
}
