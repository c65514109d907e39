//! Where a service is: endpoints of the own cluster, hosts that DNS knows, groups of other clusters.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::clusters::{self, Places};
use super::context::Context;
use super::decision::{RouteDecision, Target, Tier};
use super::locality::Candidate;
use super::lookup::Place;
use super::memo::{Key, Located};
use crate::model::{Endpoint, Group, Import, Labels, Protocol, RemoteCluster, Service, View};
use crate::names::{ClusterName, SpiffeId};
use crate::policy::{ClientTls, ClusterMode, ClusterTraffic, NamedEndpoint, Resolution};
use crate::reason::Reason;
use crate::topology::Placed;

/// Which part of a service is wanted.
pub(super) struct Wanted<'a> {
    /// Labels of a subset.
    pub(super) labels: &'a Labels,
    /// Only the endpoint that was dialled itself.
    pub(super) only: Option<IpAddr>,
    /// The labels and the policy belong to the view, so that what follows from them may be kept there.
    pub(super) kept: bool,
}

pub(super) static NO_LABELS: Labels = Labels::new();

/// The own cluster first, then the others; inside, as the policy's localities say.
pub(super) fn tiers(
    context: &Context<'_>,
    place: &Place<'_>,
    wanted: &Wanted<'_>,
    decision: &mut RouteDecision,
) -> Arc<[Tier]> {
    // The host of a wildcard, and the address that was dialled, are the request's; which cluster comes first may be drawn.
    if !wanted.kept || place.wildcard || wanted.only.is_some() || !place.service.imports.is_empty() {
        return work_out(context, place, wanted, decision).into();
    }
    let key = Key::of(place.service, wanted.labels, &decision.policy, decision.port, place.clusterset);
    let Located { tiers, reasons, across } = context.view.memo.get(key, || {
        let before = decision.reasons.len();
        let tiers = work_out(context, place, wanted, decision).into();
        Located { tiers, reasons: decision.reasons.split_off(before).into(), across: decision.across.clone() }
    });
    decision.reasons.extend(reasons.iter().cloned());
    decision.across = across;
    tiers
}

fn work_out(context: &Context<'_>, place: &Place<'_>, wanted: &Wanted<'_>, decision: &mut RouteDecision) -> Vec<Tier> {
    let service = place.service;
    let own = context.view.cluster();
    let mut local = local(service, wanted, own, decision);
    local.extend(named(context, place, wanted, decision.port));
    decision.reasons.push(match local.len() {
        0 => Reason::NoLocalEndpoint,
        endpoints => Reason::LocalFirst { endpoints },
    });
    let mut remote = Vec::new();
    let shared = place.clusterset || service.global;
    if shared && clusters::rules(service).mode == ClusterMode::LocalOnly {
        decision.reasons.push(Reason::ClusterScope);
    } else if wanted.only.is_none() && shared {
        remote = remote_groups(context.view, service, wanted.labels, decision);
    } else if let Some(address) = wanted.only.filter(|_| local.is_empty()) {
        remote = remote_pod(context.view, service, address, decision);
    } else if !service.imports.is_empty() {
        decision.reasons.push(Reason::ClusterScope);
    }
    let known = local.len().max(known(service, wanted, own, decision.port));
    clusters::tiers(context, service, Places { local, remote, known }, decision)
}

/// Endpoints of the own cluster that would do, ready or not.
fn known(service: &Service, wanted: &Wanted<'_>, own: Option<&ClusterName>, port: u16) -> usize {
    let would_do =
        |endpoint: &&Endpoint| endpoint.ports.contains_key(&port) && placed(endpoint, own).has(wanted.labels);
    service.endpoints.iter().filter(would_do).count()
}

fn placed<'a>(endpoint: &'a Endpoint, cluster: Option<&'a ClusterName>) -> Placed<'a> {
    Placed { labels: &endpoint.labels, locality: &endpoint.locality, cluster }
}

fn local<'a>(
    service: &'a Service,
    wanted: &Wanted<'_>,
    own: Option<&ClusterName>,
    decision: &mut RouteDecision,
) -> Vec<Candidate<'a>> {
    let mut without_sidecar = 0_usize;
    let mut candidates = Vec::new();
    for endpoint in &service.endpoints {
        let Some(port) =
            endpoint.ports.get(&decision.port).copied().filter(|_| endpoint.ready || wanted.only.is_some())
        else {
            continue;
        };
        if !placed(endpoint, own).has(wanted.labels) || wanted.only.is_some_and(|only| !endpoint.has_address(only)) {
            continue;
        }
        let Ok(expected) = expected_of(endpoint, port, &decision.policy.tls) else {
            without_sidecar += 1;
            continue;
        };
        // In the family that the client chose.
        let address = SocketAddr::new(wanted.only.unwrap_or(endpoint.address), port);
        let target = Target::Local { endpoint: endpoint.name.clone(), address, expected, weight: endpoint.weight };
        candidates.push(Candidate { target, locality: &endpoint.locality, labels: &endpoint.labels, cluster: None });
    }
    if without_sidecar > 0 {
        let text = format!("{without_sidecar} endpoints have no sidecar, and the policy wants mTLS");
        decision.reasons.push(Reason::Note { text });
    }
    candidates
}

/// The identity to be proven, or none. An endpoint that cannot do what the policy wants is not used at all: plain text
/// in the place of mTLS would be a silent downgrade.
fn expected_of(endpoint: &Endpoint, port: u16, tls: &ClientTls) -> Result<Option<SpiffeId>, ()> {
    match tls {
        ClientTls::Auto if endpoint.plain_ports.contains(&port) => Ok(None),
        ClientTls::Auto => Ok(endpoint.identity.clone()),
        ClientTls::Disable | ClientTls::Originate(_) => Ok(None),
        ClientTls::Mutual => endpoint.identity.clone().map(Some).ok_or(()),
    }
}

/// The hosts of an entry that DNS resolves: its endpoints' names, or its own.
fn named<'a>(context: &Context<'_>, place: &Place<'a>, wanted: &Wanted<'_>, port: u16) -> Vec<Candidate<'a>> {
    let Some(entry) = place.entry() else { return Vec::new() };
    let one_address = match entry.resolution {
        Resolution::None | Resolution::Static => return Vec::new(),
        Resolution::Dns => false,
        Resolution::DnsRoundRobin => true,
    };
    if entry.hosts.is_empty() && place.service.endpoints.is_empty() && wanted.labels.is_empty() {
        let target = Target::Named { host: own_host(context, place), port, weight: 1, one_address };
        return vec![Candidate { target, locality: "", labels: &NO_LABELS, cluster: None }];
    }
    let candidate = |named: &'a NamedEndpoint| {
        let port = named.ports.get(&port).copied().unwrap_or(port);
        let target = Target::Named { host: named.host.clone(), port, weight: named.weight, one_address };
        Candidate { target, locality: &named.locality, labels: &named.labels, cluster: None }
    };
    let wanted_too = |named: &&NamedEndpoint| {
        let NamedEndpoint { labels, locality, .. } = named;
        Placed { labels, locality, cluster: context.view.cluster() }.has(wanted.labels)
    };
    entry.hosts.iter().filter(wanted_too).map(candidate).collect()
}

/// A wildcard has no address; the host that the client named may have one.
fn own_host(context: &Context<'_>, place: &Place<'_>) -> String {
    let name = place.service.name.name();
    if !place.wildcard {
        return name.to_owned();
    }
    let sni = || context.request.connection.sni.map(str::to_owned);
    context.request.http.map(|http| http.host()).or_else(sni).unwrap_or_else(|| name.to_owned())
}

fn of<'a>(group: &'a Group, cluster: &'a ClusterName) -> Placed<'a> {
    Placed { labels: &group.key.labels, locality: &group.key.locality, cluster: Some(cluster) }
}

fn remote_groups<'a>(
    view: &'a View,
    service: &'a Service,
    wanted: &Labels,
    decision: &mut RouteDecision,
) -> Vec<Candidate<'a>> {
    let mut candidates = Vec::new();
    if !service.imports.is_empty() && view.gateways.is_empty() {
        decision.reasons.push(Reason::NoGateway);
        return candidates;
    }
    for (name, import) in &service.imports {
        let cluster = match usable(view, clusters::rules(service), (name, import), decision) {
            Ok(cluster) => cluster,
            Err(why) => {
                decision.reasons.push(Reason::RemoteUnusable { cluster: name.clone(), why });
                continue;
            }
        };
        let before = candidates.len();
        candidates.extend(group_candidates(cluster, service, import, wanted, decision.protocol));
        // The counts are the other cluster's word.
        let groups = import.groups.iter().filter(|group| of(group, name).has(wanted));
        let healthy = groups.fold(0, |sum: u32, group| sum.saturating_add(group.healthy));
        decision.reasons.push(if candidates.len() > before {
            Reason::Remote { cluster: name.clone(), healthy, stale: cluster.stale_since_ms.is_some() }
        } else {
            let why = match healthy {
                0 => "no healthy endpoint",
                _ if decision.protocol.is_udp() => UNMESHED_UDP,
                _ => UNMESHED,
            };
            Reason::RemoteUnusable { cluster: name.clone(), why }
        });
    }
    candidates
}

/// The pod of another cluster that has the address, reached through the gateways like its group.
fn remote_pod<'a>(
    view: &'a View,
    service: &'a Service,
    address: IpAddr,
    decision: &mut RouteDecision,
) -> Vec<Candidate<'a>> {
    let found = service.imports.iter().find_map(|(cluster, import)| {
        let pod = import.pods.iter().find(|pod| pod.addresses.contains(&address))?;
        Some((cluster, import, pod))
    });
    let Some((name, import, pod)) = found else { return Vec::new() };
    if view.gateways.is_empty() {
        decision.reasons.push(Reason::NoGateway);
        return Vec::new();
    }
    let cluster = match usable(view, clusters::rules(service), (name, import), decision) {
        Ok(cluster) => cluster,
        Err(why) => {
            decision.reasons.push(Reason::RemoteUnusable { cluster: name.clone(), why });
            return Vec::new();
        }
    };
    let account = pod.group.service_account.clone();
    let expected = SpiffeId::new(cluster.trust_domain.clone(), service.name.namespace().clone(), account);
    let Ok(expected) = expected else { return Vec::new() };
    let (cluster_name, group) = (cluster.name.clone(), pod.group.clone());
    decision.reasons.push(Reason::Note { text: format!("the pod {} of {cluster_name}", pod.name) });
    let target = Target::Remote {
        cluster: cluster_name,
        group,
        pod: Some(pod.name.clone()),
        expected: BTreeSet::from([expected]),
        unmeshed: false,
        weight: 1,
    };
    vec![Candidate { target, locality: &pod.group.locality, labels: &pod.group.labels, cluster: Some(&cluster.name) }]
}

/// Why groups with healthy endpoints cannot be used.
const UNMESHED_UDP: &str = "its pods have no sidecar, and UDP is carried to sidecars only";
/// The same for connections.
const UNMESHED: &str = "its pods have no sidecar, and its export does not let gateways speak for them";

fn usable<'a>(
    view: &'a View,
    rules: &ClusterTraffic,
    (name, import): (&ClusterName, &Import),
    decision: &RouteDecision,
) -> Result<&'a RemoteCluster, &'static str> {
    if !rules.imports_from(name) {
        return Err("the policy imports from other clusters only");
    }
    let cluster = view.clusters.get(name).ok_or("its trust bundle is not known")?;
    if cluster.gateways.is_empty() {
        return Err("it announces no gateway");
    }
    // Traffic to a port goes only to clusters that expose it (KEP-1645, port conflicts).
    import.port_over(decision.port, decision.protocol.is_udp()).ok_or("it does not offer the port")?;
    Ok(cluster)
}

fn group_candidates<'a>(
    cluster: &'a RemoteCluster,
    service: &'a Service,
    import: &'a Import,
    wanted: &Labels,
    protocol: Protocol,
) -> impl Iterator<Item = Candidate<'a>> {
    let reached = move |group: &&Group| group.meshed || group.can_prove() && !protocol.is_udp();
    let usable = import.groups.iter().filter(|group| group.healthy > 0).filter(reached);
    usable.filter(|group| of(group, &cluster.name).has(wanted)).filter_map(move |group| {
        let account = group.key.service_account.clone();
        let namespace = service.name.namespace().clone();
        let expected = SpiffeId::new(cluster.trust_domain.clone(), namespace, account).ok()?;
        let target = Target::Remote {
            cluster: cluster.name.clone(),
            group: group.key.clone(),
            pod: None,
            expected: BTreeSet::from([expected]),
            unmeshed: !group.meshed,
            weight: group.healthy,
        };
        let (locality, labels) = (group.key.locality.as_str(), &group.key.labels);
        Some(Candidate { target, locality, labels, cluster: Some(&cluster.name) })
    })
}
