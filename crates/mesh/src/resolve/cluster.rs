//! `cluster.local`: the names of the own cluster's Services, where the shim is its only DNS.

use std::net::IpAddr;

use super::records::{Answering, Place, addresses_at, labels_of, named_ports, undashed};
use super::{DnsDecision, DnsReason, QuestionKind, entry};
use crate::model::{HostEntry, HostPod, HostPort, LocalHost};

/// The version of the schema (Kubernetes DNS-Based Service Discovery).
const SCHEMA: &str = "1.1.0";

pub(super) fn answer(asked: &Answering<'_>, inside: &str) -> DnsDecision {
    let labels: Vec<&str> = if inside.is_empty() { Vec::new() } else { inside.split('.').collect() };
    let exists = |namespace: &str| asked.any_in(namespace, |host| host.local.is_some());
    let decision = match labels.as_slice() {
        [] => asked.apex(),
        ["dns-version"] => asked.version(SCHEMA),
        // Empty non-terminals.
        ["svc"] | ["pod"] => asked.inhabited(true),
        [namespace, "svc"] | [namespace, "pod"] => asked.inhabited(exists(namespace)),
        [address, namespace, "pod"] => match undashed(address).filter(|_| exists(namespace)) {
            Some(address) => asked.addresses(&[address], DnsReason::PodAddress),
            None => asked.nothing(DnsReason::NoSuchName),
        },
        [name, namespace, "svc"] => with(asked, name, namespace, |found| service(asked, found)),
        [label, name, namespace, "svc"] => with(asked, name, namespace, |found| below(asked, found, label)),
        [port, transport, name, namespace, "svc"] if port.starts_with('_') => with(asked, name, namespace, |found| {
            srv(asked, found, &named_ports(&found.local.ports, port, transport).collect::<Vec<_>>())
        }),
        _ => asked.nothing(DnsReason::NoSuchName),
    };
    // The host of an entry may look like a Service that is not there.
    let missing = decision.reasons == [DnsReason::NoSuchName];
    let entry = missing.then(|| entry::answer(asked.view, asked.question)).flatten();
    entry.map_or(decision, |entry| DnsDecision { zone: Some(asked.zone), ..entry })
}

struct Found<'a> {
    host: &'a HostEntry,
    local: &'a LocalHost,
}

impl<'a> Found<'a> {
    /// Ready pods; those of other clusters too if the service is global.
    fn pods(&self) -> impl Iterator<Item = &'a HostPod> {
        let own = self.local.pods.iter();
        let cluster = self.local.pods.first().map(|pod| &pod.cluster);
        let others = self.host.pods.iter().filter(move |pod| Some(&pod.cluster) != cluster);
        own.chain(others.filter(|_| self.host.global && self.host.headless))
    }

    /// A Service that nobody gave an address and that is global is reached by its address in the clusterset.
    fn addresses(&self) -> (&'a [IpAddr], DnsReason) {
        if self.local.addresses.is_empty() && self.host.global && self.host.clusterset {
            return (&self.host.addresses, DnsReason::Global);
        }
        (&self.local.addresses, DnsReason::ClusterAddress)
    }
}

fn with(
    asked: &Answering<'_>,
    name: &str,
    namespace: &str,
    then: impl FnOnce(&Found<'_>) -> DnsDecision,
) -> DnsDecision {
    let found = asked.host(name, namespace).and_then(|host| Some(Found { host, local: host.local.as_ref()? }));
    match found {
        Some(found) => then(&found),
        None => asked.nothing(DnsReason::NoSuchName),
    }
}

fn service(asked: &Answering<'_>, found: &Found<'_>) -> DnsDecision {
    if let Some(external) = &found.local.external_name {
        return asked.alias(external);
    }
    if asked.question.kind == QuestionKind::Srv {
        return srv(asked, found, &found.local.ports.iter().collect::<Vec<_>>());
    }
    if !found.local.headless {
        let (addresses, reason) = found.addresses();
        return asked.addresses(addresses, reason);
    }
    let addresses: Vec<IpAddr> = found.pods().flat_map(|pod| &pod.addresses).copied().collect();
    if addresses.is_empty() {
        return asked.nothing(DnsReason::NoReadyPod);
    }
    asked.addresses(&addresses, DnsReason::Pods)
}

/// `_tcp.<svc>…`, or the pod of a headless service.
fn below(asked: &Answering<'_>, found: &Found<'_>, label: &str) -> DnsDecision {
    if found.local.ports.iter().any(|port| !port.name.is_empty() && port.transport.label() == label) {
        return asked.inhabited(true);
    }
    let addresses = if found.local.headless { addresses_at(found.pods(), label) } else { Vec::new() };
    if addresses.is_empty() {
        return asked.nothing(DnsReason::NoSuchName);
    }
    asked.addresses(&addresses, DnsReason::Pods)
}

fn srv(asked: &Answering<'_>, found: &Found<'_>, ports: &[&HostPort]) -> DnsDecision {
    let target = asked.name_of(&found.host.name);
    if ports.is_empty() && asked.question.name != target {
        return asked.nothing(DnsReason::NoSuchPort);
    }
    if asked.question.kind != QuestionKind::Srv {
        return asked.no_data(DnsReason::NoSuchRecord);
    }
    if !found.local.headless {
        let (addresses, reason) = found.addresses();
        let place =
            |port: &&HostPort| Place { port: port.number, target: target.clone(), addresses: addresses.to_vec() };
        return asked.ports(ports.iter().map(place).collect(), reason);
    }
    let mut places = Vec::new();
    for pod in found.pods() {
        for (label, addresses) in labels_of(pod) {
            for port in ports {
                let target = format!("{label}.{target}");
                places.push(Place { port: pod.number_of(port), target, addresses: addresses.clone() });
            }
        }
    }
    if places.is_empty() && !ports.is_empty() {
        return asked.nothing(DnsReason::NoReadyPod);
    }
    asked.ports(places, DnsReason::Pods)
}
