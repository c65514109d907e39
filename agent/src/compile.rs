//! From what the agent knows to what proxies are told: one pure function.

mod hosts;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use discovery::Kind;
use discovery::server::Snapshot;
use mesh::{
    AddressEntry, ClusterName, Constituent, ExportPolicy, Group, Import, LocalGateway, MeshInfo, MtlsMode, Namespace,
    Pod, Protocol, RemoteCluster, RemoteGateway, SYSTEM_NAMESPACE, Service, ServiceName, ServicePort, SpiffeId,
    StandIn, Visibility, Workload, WorkloadPort, merge_exports,
};

use crate::config::GatewayConfig;
use crate::exports::is_exported;
use crate::imports::{Accepted, Member};
use crate::listeners::ServicePortKey;
use config::{Compiled, Local, LocalService};

/// A workload that may get an SVID, from its bootstrap registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The namespace of its identity.
    pub namespace: Namespace,
    /// The account of its identity.
    pub account: String,
    /// Its labels, if no slice says them.
    pub labels: BTreeMap<String, String>,
    /// Its locality, if no slice says it.
    pub locality: String,
}

/// Everything that a snapshot is made of.
#[derive(Debug, Clone)]
pub struct Inputs<'a> {
    /// The own mesh, cluster, trust domain and roots.
    pub mesh: &'a MeshInfo,
    /// The own gateways.
    pub gateways: &'a [GatewayConfig],
    /// What the manifests say.
    pub local: &'a Local,
    /// What other clusters say and is believed.
    pub accepted: &'a Accepted,
    /// Clusterset addresses that the hub allocated.
    pub addresses: &'a BTreeMap<ServiceName, Vec<IpAddr>>,
    /// Numbers of pods of other clusters, from which their addresses are made.
    pub pods: &'a BTreeMap<String, u32>,
    /// Clusters whose lease ran out, with the time (Unix milliseconds).
    pub stale: &'a BTreeMap<ClusterName, u64>,
    /// What is left of the share of clusters that drain, in percent.
    pub shares: &'a BTreeMap<ClusterName, u32>,
    /// Ports of the gateways for unmeshed clients.
    pub listeners: &'a BTreeMap<ServicePortKey, u16>,
    /// Registered workloads by `<namespace>/<name>`.
    pub registrations: &'a BTreeMap<String, Registration>,
    /// What users configured, compiled from the manifests and [`with_registered`] workloads.
    pub configured: &'a Compiled,
}

/// What the manifests say and the workloads that only registered: their sidecars are configured like all others.
pub fn with_registered(local: &Local, registrations: &BTreeMap<String, Registration>) -> Local {
    let mut local = local.clone();
    add_registered(&mut local.workloads, registrations);
    // Gateways serve them as their sidecars would, so they are configured like all others. A pod that registered has one.
    local.stand_ins.retain(|key, _| !local.workloads.contains_key(key));
    for (key, stand_in) in &local.stand_ins {
        local.workloads.insert(key.clone(), stand_in.workload.clone());
    }
    add_exported_ports(&mut local.workloads, &local.services);
    local
}

/// The services that other clusters offer to this one.
pub fn imported(accepted: &Accepted, own: &ClusterName) -> BTreeMap<ServiceName, config::Imported> {
    let mut all: BTreeMap<ServiceName, config::Imported> = BTreeMap::new();
    for (cluster, member) in &accepted.members {
        for (name, export) in member.offered_to(own) {
            let imported = all.entry(name.clone()).or_default();
            imported.ports.extend(export.ports.iter().filter_map(|port| u16::try_from(port.number).ok()));
            let groups = export.groups.iter().filter_map(|group| Group::try_from(group).ok());
            imported.groups.extend(groups.map(|Group { key, .. }| config::ImportedGroup {
                cluster: cluster.clone(),
                labels: key.labels,
                locality: key.locality,
            }));
        }
    }
    all
}

/// What unmeshed clients may dial at the gateways: the ports of imported services whose ClusterTrafficPolicy says so.
pub fn unmeshed_ports(configured: &Compiled, accepted: &Accepted, own: &ClusterName) -> BTreeSet<ServicePortKey> {
    let rules = |name: &ServiceName| configured.services.get(name)?.clusters.as_ref();
    let imported = accepted.members.values().flat_map(|member| member.offered_to(own));
    let allowed = imported.filter(|(name, _)| rules(name).is_some_and(|rules| rules.unmeshed_clients));
    let tcp = |port: &&api::trust::Port| port.protocol != Protocol::Udp.as_str();
    let keys = allowed.flat_map(|(name, export)| {
        let ports = export.ports.iter().filter(tcp).filter_map(|port| u16::try_from(port.number).ok());
        ports.map(|port| (name.clone(), port)).collect::<Vec<_>>()
    });
    keys.collect()
}

/// Compiles a snapshot. The same inputs give the same bytes.
pub fn compile(inputs: &Inputs<'_>, revision: u64) -> Snapshot {
    let mut snapshot = Snapshot { revision, ..Snapshot::default() };
    let mesh = api::discovery::Mesh::from(inputs.mesh);
    snapshot.insert(Kind::Mesh, discovery::types::MESH_NAME.to_owned(), &mesh);
    add_gateways(&mut snapshot, inputs);
    add_clusters(&mut snapshot, inputs);
    add_workloads(&mut snapshot, inputs);
    add_configured(&mut snapshot, inputs.configured);
    let mut addresses = Addresses::default();
    let imports = imports(inputs);
    let names: BTreeSet<&ServiceName> = inputs.local.services.keys().chain(imports.keys().copied()).collect();
    for name in names {
        let empty = BTreeMap::new();
        let service = service(inputs, name, imports.get(name).unwrap_or(&empty));
        let shared = service.export.is_some() || !service.imports.is_empty();
        if shared {
            snapshot.shared.insert(name.to_string());
        }
        if let Some(host) = hosts::entry(inputs, &service) {
            snapshot.insert(Kind::HostEntry, name.to_string(), &api::discovery::HostEntry::from(&host));
        }
        addresses.note(&service);
        snapshot.insert(Kind::Service, name.to_string(), &api::discovery::Service::from(&service));
    }
    for (address, entry) in &addresses.0 {
        snapshot.insert(Kind::Address, address.to_string(), &api::discovery::Address::from(entry));
    }
    snapshot
}

/// Who has which address: what sidecars ask when a workload dials one.
#[derive(Default)]
struct Addresses(BTreeMap<IpAddr, AddressEntry>);

impl Addresses {
    fn note(&mut self, service: &Service) {
        let own = service.cluster_addresses.iter().chain(&service.clusterset_addresses);
        for address in own {
            self.of(*address).services.insert(service.name.clone());
        }
        for pod in service.imports.values().flat_map(|import| &import.pods) {
            for address in &pod.addresses {
                self.of(*address).services.insert(service.name.clone());
            }
        }
        for endpoint in &service.endpoints {
            for address in endpoint.addresses() {
                let pod = || Pod { name: endpoint.name.clone(), identity: endpoint.identity.clone() };
                let entry = self.of(address);
                entry.services.insert(service.name.clone());
                entry.pod.get_or_insert_with(pod);
            }
        }
    }

    fn of(&mut self, address: IpAddr) -> &mut AddressEntry {
        self.0.entry(address).or_insert_with(|| AddressEntry { address, services: BTreeSet::new(), pod: None })
    }
}

fn add_gateways(snapshot: &mut Snapshot, inputs: &Inputs<'_>) {
    // The constants make a valid identity of any trust domain.
    let Ok(identity) = SpiffeId::system(inputs.mesh.trust_domain.clone(), "gateway") else { return };
    for gateway in inputs.gateways {
        let local =
            LocalGateway { name: gateway.name.clone(), hbone_address: gateway.hbone, identity: identity.clone() };
        snapshot.insert(Kind::LocalGateway, gateway.name.clone(), &api::discovery::LocalGateway::from(&local));
    }
}

/// Every member whose bundle is in force, also one that only imports: its gateways must be believed too.
fn add_clusters(snapshot: &mut Snapshot, inputs: &Inputs<'_>) {
    for (name, member) in inputs.accepted.members.iter().filter(|(_, member)| member.bundle.present) {
        let gateways = member.gateways.iter().filter(|fact| fact.present).flat_map(|fact| &fact.value.gateways);
        let cluster = RemoteCluster {
            name: name.clone(),
            trust_domain: member.trust.trust_domain().clone(),
            roots: member.bundle.value.roots.clone(),
            bundle_serial: member.bundle.value.serial,
            gateways: gateways
                .map(|gateway| RemoteGateway { name: gateway.name.clone(), quic_address: gateway.quic_address.clone() })
                .collect(),
            imported: imported_from(inputs, name, member).next().is_some(),
            stale_since_ms: inputs.stale.get(name).copied(),
            share_percent: inputs.shares.get(name).copied().unwrap_or(100),
        };
        snapshot.insert(Kind::Cluster, name.to_string(), &api::discovery::Cluster::from(&cluster));
    }
}

/// Registered workloads that no slice mentions: they offer no port but have a sidecar.
fn add_registered(workloads: &mut BTreeMap<String, Workload>, registrations: &BTreeMap<String, Registration>) {
    for (key, registration) in registrations {
        let Some((namespace, name)) = key.split_once('/') else { continue };
        if namespace != registration.namespace.as_str() || namespace == SYSTEM_NAMESPACE {
            continue;
        }
        let workload = workloads.entry(key.clone()).or_insert_with(|| Workload {
            namespace: registration.namespace.clone(),
            name: name.to_owned(),
            service_account: registration.account.clone(),
            labels: registration.labels.clone(),
            ports: Vec::new(),
            mtls: MtlsMode::Permissive,
            locality: registration.locality.clone(),
            config: Arc::default(),
        });
        // The registration decides who the workload is; a slice only says so.
        workload.service_account.clone_from(&registration.account);
    }
}

fn add_workloads(snapshot: &mut Snapshot, inputs: &Inputs<'_>) {
    for (key, workload) in &inputs.local.workloads {
        let config = inputs.configured.workloads.get(key).cloned().map(Arc::new);
        let workload = Workload { config: config.unwrap_or_default(), ..workload.clone() };
        if let Some(stand_in) = inputs.local.stand_ins.get(key) {
            let stand_in = StandIn { address: stand_in.address, workload };
            snapshot.insert(Kind::StandIn, key.clone(), &api::discovery::StandIn::from(&stand_in));
            continue;
        }
        let account = workload.service_account.as_str();
        let owner = SpiffeId::new(inputs.mesh.trust_domain.clone(), workload.namespace.clone(), account);
        let Ok(owner) = owner else { continue };
        snapshot.owners.insert(key.clone(), owner);
        snapshot.insert(Kind::Workload, key.clone(), &api::discovery::Workload::from(&workload));
    }
}

/// Hosts that configuration adds, and the TLS material that it names.
fn add_configured(snapshot: &mut Snapshot, configured: &Compiled) {
    for (name, service) in &configured.entries {
        let visible = service.config.entry.as_ref().map(|entry| &entry.visible_to);
        if let Some(Visibility::Namespaces(namespaces)) = visible {
            let readers = namespaces.iter().map(ToString::to_string).collect();
            snapshot.entry_readers.insert(name.to_string(), readers);
        }
        let message = api::discovery::Entry { service: Some(api::discovery::Service::from(service)) };
        snapshot.insert(Kind::Entry, name.to_string(), &message);
    }
    for (name, host) in &configured.hosts {
        snapshot.insert(Kind::HostEntry, name.to_string(), &api::discovery::HostEntry::from(host));
    }
    for (name, shared) in &configured.secrets {
        snapshot.secret_readers.insert(name.clone(), shared.readers.clone());
        snapshot.insert(Kind::Secret, name.clone(), &api::discovery::Secret::from(&*shared.secret));
    }
}

/// Tells each workload which of its ports exported services lead to: its sidecar opens no other port to other clusters.
fn add_exported_ports(workloads: &mut BTreeMap<String, Workload>, services: &BTreeMap<ServiceName, LocalService>) {
    for (name, service) in services {
        let Some(policy) = export_policy(service) else { continue };
        for endpoint in &service.endpoints {
            let key = format!("{}/{}", name.namespace(), endpoint.name);
            // A gateway must not serve an export that does not let it speak for the pod.
            if endpoint.identity.is_none() && endpoint.stand_in.is_none() {
                continue;
            }
            let Some(workload) = workloads.get_mut(&key) else { continue };
            for offered in &service.ports {
                let Some(number) = endpoint.ports.get(&offered.number) else { continue };
                let leads = |port: &&mut WorkloadPort| {
                    port.number == *number && port.protocol.is_udp() == offered.protocol.is_udp()
                };
                let Some(port) = workload.ports.iter_mut().find(leads) else { continue };
                match port.exports.get_mut(&offered.number) {
                    Some(known) => *known = known.or(&policy),
                    None => drop(port.exports.insert(offered.number, policy.clone())),
                }
            }
        }
    }
}

/// What a member offers and policy imports (`ClusterTrafficPolicy.spec.importFrom`).
fn imported_from<'a>(
    inputs: &'a Inputs<'_>,
    cluster: &'a ClusterName,
    member: &'a Member,
) -> impl Iterator<Item = (&'a ServiceName, &'a api::trust::Export)> {
    let rules = |name: &ServiceName| inputs.configured.services.get(name)?.clusters.as_ref();
    member
        .offered_to(&inputs.mesh.cluster)
        .filter(move |(name, _)| rules(name).is_none_or(|rules| rules.imports_from(cluster)))
}

/// What is imported, by service and cluster, with what the export says of the service as a whole.
type Imports<'a> = BTreeMap<&'a ServiceName, BTreeMap<ClusterName, Imported>>;

struct Imported {
    import: Import,
    says: Constituent,
}

fn imports<'a>(inputs: &'a Inputs<'_>) -> Imports<'a> {
    let mut imports: Imports<'a> = BTreeMap::new();
    for (cluster, member) in &inputs.accepted.members {
        let member: &Member = member;
        for (name, export) in imported_from(inputs, cluster, member) {
            // What cannot be converted was refused when it arrived.
            let Ok(says) = Constituent::try_from(export) else { continue };
            let groups = export.groups.iter().filter_map(|group| Group::try_from(group).ok()).collect();
            let import = Import {
                serial: export.serial,
                ports: says.ports.clone(),
                pods: hosts::remote_pods(inputs, cluster, name, export),
                groups,
            };
            imports.entry(name).or_default().insert(cluster.clone(), Imported { import, says });
        }
    }
    imports
}

fn service(inputs: &Inputs<'_>, name: &ServiceName, imports: &BTreeMap<ClusterName, Imported>) -> Service {
    let local = inputs.local.services.get(name);
    // KEP-1645: the oldest export decides where exports disagree; the own cluster's Service decides at home.
    let says: Vec<Constituent> = imports.values().map(|imported| imported.says.clone()).collect();
    let merged = merge_exports(&says);
    let mut ports: BTreeMap<(u16, bool), ServicePort> = BTreeMap::new();
    let imported_ports = merged.iter().flat_map(|merged| &merged.ports);
    for port in local.iter().flat_map(|local| &local.ports).chain(imported_ports) {
        ports.entry((port.number, port.protocol.is_udp())).or_insert_with(|| port.clone());
    }
    let headless = local.map(|local| local.headless);
    let shared = local.is_some_and(is_exported) || !imports.is_empty();
    let mut endpoints = local.map(|local| local.endpoints.clone()).unwrap_or_default();
    for endpoint in &mut endpoints {
        let plain = inputs.configured.plain_ports.get(&format!("{}/{}", name.namespace(), endpoint.name));
        endpoint.plain_ports = plain.cloned().unwrap_or_default();
    }
    let headless = headless.or(merged.as_ref().map(|merged| merged.headless)).unwrap_or(false);
    let mut config = inputs.configured.services.get(name).cloned().unwrap_or_default();
    config.session_affinity = match local {
        Some(local) => local.session_affinity,
        None => merged.as_ref().and_then(|merged| merged.session_affinity),
    }
    .filter(|_| !headless);
    let listeners = if imports.is_empty() { BTreeMap::new() } else { listeners(inputs, name) };
    Service {
        name: name.clone(),
        listeners,
        global: local.is_some_and(|local| local.global),
        headless,
        clusterset_addresses: inputs.addresses.get(name).filter(|_| shared).cloned().unwrap_or_default(),
        cluster_addresses: local.map(|local| local.addresses.clone()).unwrap_or_default(),
        ports: ports.into_values().collect(),
        endpoints,
        export: local.and_then(export_policy),
        imports: imports.iter().map(|(cluster, imported)| (cluster.clone(), imported.import.clone())).collect(),
        config: Arc::new(config),
    }
}

fn listeners(inputs: &Inputs<'_>, name: &ServiceName) -> BTreeMap<u16, u16> {
    let range = (name.clone(), 0)..=(name.clone(), u16::MAX);
    inputs.listeners.range(range).map(|((_, port), own)| (*port, *own)).collect()
}

fn export_policy(local: &LocalService) -> Option<ExportPolicy> {
    local.export.as_ref().map(|export| match export.to_clusters.is_empty() {
        true => ExportPolicy::Everyone,
        false => ExportPolicy::Only(export.to_clusters.clone()),
    })
}

#[cfg(test)]
mod tests;
