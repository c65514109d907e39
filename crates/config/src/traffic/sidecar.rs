//! Sidecar: what each workload may reach, and the limits towards its application.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use federation_crds::Manifest;
use federation_crds::istio::Sidecar;
use federation_crds::istio::sidecar as crd;
use mesh::{
    AppEndpoint, EgressHost, HostPattern, InboundListener, Labels, Namespace, OutboundPolicy, Protocol, UnknownHosts,
    Workload,
};

use super::http;
use super::objects::{Notes, Object, in_order};
use super::pool::{Towards, pool};
use super::registry::Registry;
use crate::analyze::codes;
use crate::compile::{Compiled, Input};
use crate::mesh_config::MeshConfig;

/// One Sidecar, compiled.
struct Compiling<'a> {
    object: Object,
    selector: Option<&'a Labels>,
    outbound: OutboundPolicy,
    pool: Option<mesh::ConnectionPool>,
    listeners: BTreeMap<u16, InboundListener>,
}

pub(super) fn compile(input: &Input<'_>, mesh_config: &MeshConfig, registry: &Registry, compiled: &mut Compiled) {
    let all = in_order(input.manifests, |manifest| match manifest {
        Manifest::Sidecar(object) => Some(object.as_ref()),
        _ => None,
    });
    let sidecars: Vec<Compiling<'_>> = all
        .into_iter()
        .map(|(object, sidecar)| {
            let mut notes = Notes { object: Arc::clone(&object.reference), findings: &mut compiled.findings };
            compile_one(object, sidecar, mesh_config, registry, &mut notes)
        })
        .collect();
    note_unselective(&sidecars, compiled);
    let gateways = gateway_selectors(input);
    let mut selected: BTreeMap<usize, Vec<&Workload>> = BTreeMap::new();
    for (key, workload) in &input.local.workloads {
        // A Sidecar is for sidecars: a gateway that stands in its namespace is none.
        let is_gateway = gateways.iter().any(|selector| selects(selector, workload));
        let found = if is_gateway { None } else { select(&sidecars, workload, mesh_config, compiled) };
        if let Some(index) = found {
            selected.entry(index).or_default().push(workload);
        }
        let unknown = mesh_config.unknown_hosts.clone();
        let outbound =
            found.map_or(OutboundPolicy { unknown, ..Default::default() }, |index| sidecars[index].outbound.clone());
        let inbound = found.map(|index| (sidecars[index].pool.clone(), sidecars[index].listeners.clone()));
        let (pool, listeners) = inbound.unwrap_or_default();
        if outbound == OutboundPolicy::default() && pool.is_none() && listeners.is_empty() {
            continue;
        }
        let config = compiled.workloads.entry(key.clone()).or_default();
        config.outbound = outbound;
        config.inbound.pool = pool;
        config.inbound.listeners = listeners;
    }
    for (index, workloads) in selected {
        note_unknown_ports(&sidecars[index], &workloads, compiled);
    }
}

/// The Sidecar of a workload: one that selects it, else that of its namespace, else that of the root namespace; the
/// oldest of several.
fn select(
    sidecars: &[Compiling<'_>],
    workload: &Workload,
    mesh_config: &MeshConfig,
    compiled: &mut Compiled,
) -> Option<usize> {
    let beside = |it: &Compiling<'_>| it.object.namespace == workload.namespace;
    let mut selecting = sidecars
        .iter()
        .enumerate()
        .filter(|(_, it)| beside(it) && it.selector.is_some_and(|selector| selects(selector, workload)));
    if let Some((index, first)) = selecting.next() {
        for (_, younger) in selecting {
            let object = Arc::clone(&younger.object.reference);
            let mut notes = Notes { object, findings: &mut compiled.findings };
            let message = format!("{} selects workload {} already and is older", first.object.reference, workload.name);
            let hint = "let each workload be selected by one Sidecar";
            notes.add(codes::CONFLICTING_SIDECARS, "spec.workloadSelector", message, hint);
        }
        return Some(index);
    }
    let unselective = |it: &&Compiling<'_>| it.selector.is_none();
    let own = sidecars.iter().position(|it| unselective(&it) && beside(it));
    own.or_else(|| {
        sidecars.iter().position(|it| unselective(&it) && it.object.namespace.as_str() == mesh_config.root_namespace)
    })
}

fn note_unselective(sidecars: &[Compiling<'_>], compiled: &mut Compiled) {
    let mut seen: BTreeSet<&Namespace> = BTreeSet::new();
    for sidecar in sidecars.iter().filter(|sidecar| sidecar.selector.is_none()) {
        if seen.insert(&sidecar.object.namespace) {
            continue;
        }
        let mut notes = Notes { object: Arc::clone(&sidecar.object.reference), findings: &mut compiled.findings };
        let message = "another Sidecar of the namespace has no workloadSelector either and is older";
        let hint = "keep one of them, or select workloads";
        notes.add(codes::SIDECARS_WITHOUT_SELECTOR, "spec.workloadSelector", message, hint);
    }
}

fn gateway_selectors<'a>(input: &Input<'a>) -> Vec<&'a Labels> {
    let selectors = input.manifests.iter().filter_map(|manifest| match manifest {
        Manifest::Gateway(gateway) => Some(&gateway.spec.selector),
        _ => None,
    });
    selectors.filter(|selector| !selector.is_empty()).collect()
}

fn selects(selector: &Labels, workload: &Workload) -> bool {
    selector.iter().all(|(key, value)| workload.labels.get(key) == Some(value))
}

fn compile_one<'a>(
    object: Object,
    sidecar: &'a Sidecar,
    mesh_config: &MeshConfig,
    registry: &Registry,
    notes: &mut Notes<'_>,
) -> Compiling<'a> {
    let spec = &sidecar.spec;
    let selector = spec.workload_selector.as_ref().map(|it| &it.labels).filter(|labels| !labels.is_empty());
    let listeners = listeners(&spec.ingress, notes);
    let hosts = (!spec.egress.is_empty()).then(|| hosts(&spec.egress, &object.namespace, notes));
    let unknown = match &spec.outbound_traffic_policy {
        None => mesh_config.unknown_hosts.clone(),
        Some(policy) => unknown_hosts(policy, &object.namespace, registry, notes),
    };
    let outbound = OutboundPolicy { origin: Some(object.reference.as_ref().clone()), hosts, unknown };
    let pool = spec
        .inbound_connection_pool
        .as_ref()
        .map(|it| pool(it, "spec.inboundConnectionPool", Towards::Application, notes));
    Compiling { object, selector, outbound, pool, listeners }
}

/// `ingress`: where the application listens behind a port, how it speaks, and limits of that port.
fn listeners(listeners: &[crd::IngressListener], notes: &mut Notes<'_>) -> BTreeMap<u16, InboundListener> {
    let mut compiled = BTreeMap::new();
    for (index, listener) in listeners.iter().enumerate() {
        let path = format!("spec.ingress[{index}]");
        note_listener(listener, &path, notes);
        let Some(port) = &listener.port else { continue };
        let Ok(number) = u16::try_from(port.number) else { continue };
        let declared = Some(port.protocol.as_str()).filter(|protocol| !protocol.is_empty());
        let pool = listener
            .connection_pool
            .as_ref()
            .map(|it| pool(it, &format!("{path}.connectionPool"), Towards::Application, notes));
        let protocol = Protocol::declared(Some(&port.name), declared);
        compiled.insert(number, InboundListener { protocol, endpoint: endpoint(&listener.default_endpoint), pool });
    }
    compiled
}

/// `127.0.0.1:<port>`, `0.0.0.0:<port>`, `:<port>` and the same of IPv6; validation has seen it.
fn endpoint(text: &str) -> Option<AppEndpoint> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    let host: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
    let loopback = host.is_some_and(|host| host.is_loopback());
    Some(if loopback { AppEndpoint::Loopback(port) } else { AppEndpoint::Instance(port) })
}

fn note_listener(listener: &crd::IngressListener, path: &str, notes: &mut Notes<'_>) {
    let mut note = |field: &str, hint: &str| {
        notes.add(codes::WITHOUT_EFFECT, format!("{path}.{field}"), "has no effect here", hint);
    };
    if !listener.bind.is_empty() {
        note("bind", "remove the field: the sidecar takes what is sent to the workload's own address");
    }
    if listener.capture_mode == crd::CaptureMode::None {
        note("captureMode", "remove the field: what is sent to the workload's ports is always captured");
    }
    if listener.default_endpoint.starts_with("unix:") {
        note(
            "defaultEndpoint",
            "let the application listen on 127.0.0.1 and name the port: sockets of files are not dialled",
        );
    }
    if listener.tls.is_some() {
        note("tls", "use a Gateway for clients outside of the mesh, or PeerAuthentication for those inside");
    }
}

/// Names listeners of ports that no Service leads to: nobody sends anything there.
fn note_unknown_ports(sidecar: &Compiling<'_>, workloads: &[&Workload], compiled: &mut Compiled) {
    let known: BTreeSet<u16> = workloads.iter().flat_map(|workload| &workload.ports).map(|port| port.number).collect();
    for number in sidecar.listeners.keys().filter(|number| !known.contains(*number)) {
        let object = Arc::clone(&sidecar.object.reference);
        let mut notes = Notes { object, findings: &mut compiled.findings };
        let message =
            format!("no Service leads to port {number} of the selected workloads, so that nothing arrives there");
        let hint = "let the targetPort of a Service be this port";
        notes.add(codes::WITHOUT_EFFECT, "spec.ingress", message, hint);
    }
}

fn hosts(listeners: &[crd::EgressListener], namespace: &Namespace, notes: &mut Notes<'_>) -> Vec<EgressHost> {
    let mut hosts = Vec::new();
    for (index, listener) in listeners.iter().enumerate() {
        let path = format!("spec.egress[{index}]");
        if !listener.bind.is_empty() {
            let hint = "remove the field: outgoing traffic is captured whatever its address";
            notes.add(codes::WITHOUT_EFFECT, format!("{path}.bind"), "has no effect here", hint);
        }
        if listener.capture_mode == crd::CaptureMode::None {
            let hint = "remove the field: outgoing traffic is always captured";
            notes.add(codes::WITHOUT_EFFECT, format!("{path}.captureMode"), "NONE has no effect here", hint);
        }
        if listener.port.as_ref().is_some_and(|port| !port.protocol.is_empty()) {
            let hint = "each host's own port says its protocol";
            notes.add(codes::WITHOUT_EFFECT, format!("{path}.port.protocol"), "has no effect here", hint);
        }
        let number = listener.port.as_ref().and_then(|port| u16::try_from(port.number).ok());
        for (inner, text) in listener.hosts.iter().enumerate() {
            match egress_host(text, namespace, number.filter(|port| *port > 0)) {
                Ok(host) => hosts.extend(host),
                Err(why) => notes.not_compiled(format!("{path}.hosts[{inner}]"), why),
            }
        }
    }
    hosts
}

/// `<namespace>/<host>`; of the namespace `~` there is none.
fn egress_host(text: &str, own: &Namespace, port: Option<u16>) -> Result<Option<EgressHost>, String> {
    let (namespace, host) = text.split_once('/').ok_or_else(|| format!("{text:?} is not <namespace>/<host>"))?;
    let namespace = match namespace {
        "~" => return Ok(None),
        "*" => None,
        "." => Some(own.clone()),
        other => Some(Namespace::new(other).map_err(|error| error.to_string())?),
    };
    let host: HostPattern = host.parse().map_err(|error: mesh::HostPatternError| error.to_string())?;
    Ok(Some(EgressHost { namespace, host, port }))
}

fn unknown_hosts(
    policy: &crd::OutboundTrafficPolicy,
    namespace: &Namespace,
    registry: &Registry,
    notes: &mut Notes<'_>,
) -> UnknownHosts {
    if policy.mode == crd::OutboundMode::RegistryOnly {
        return UnknownHosts::Refuse;
    }
    let Some(proxy) = &policy.egress_proxy else { return UnknownHosts::Allow };
    let mut scope = http::Scope { registry, namespace, notes };
    let found = http::destination(proxy, "spec.outboundTrafficPolicy.egressProxy", &mut scope);
    found.map_or(UnknownHosts::Refuse, UnknownHosts::Through)
}
