//! `clusterset.local`: names that are the same in every cluster.

use std::net::IpAddr;

use super::records::{Answering, Place, addresses_at, labels_of, named_ports};
use super::{DnsDecision, DnsReason, QuestionKind};
use crate::model::{HostEntry, HostPod, HostPort};

/// The version of the schema (KEP-1645, DNS specification).
const SCHEMA: &str = "1.0.0";

pub(super) fn answer(asked: &Answering<'_>, inside: &str) -> DnsDecision {
    let labels: Vec<&str> = if inside.is_empty() { Vec::new() } else { inside.split('.').collect() };
    match labels.as_slice() {
        [] => asked.apex(),
        ["dns-version"] => asked.version(SCHEMA),
        // Empty non-terminals exist as long as something lies below them.
        ["svc"] => asked.inhabited(true),
        [namespace, "svc"] => asked.inhabited(asked.any_in(namespace, |host| host.clusterset)),
        [name, namespace, "svc"] => with(asked, name, namespace, |host| service(asked, host)),
        [label, name, namespace, "svc"] => with(asked, name, namespace, |host| below(asked, host, label)),
        [port, transport, name, namespace, "svc"] if port.starts_with('_') => {
            with(asked, name, namespace, |host| srv(asked, host, &named(host, port, transport)))
        }
        [label, cluster, name, namespace, "svc"] => {
            with(asked, name, namespace, |host| pod(asked, addresses_at(of_cluster(host, cluster), label)))
        }
        _ => asked.nothing(DnsReason::NoSuchName),
    }
}

fn with(
    asked: &Answering<'_>,
    name: &str,
    namespace: &str,
    then: impl FnOnce(&HostEntry) -> DnsDecision,
) -> DnsDecision {
    match asked.host(name, namespace) {
        Some(host) if host.clusterset => then(host),
        Some(_) => asked.nothing(DnsReason::NotExported),
        None => asked.nothing(DnsReason::NoSuchName),
    }
}

fn service(asked: &Answering<'_>, host: &HostEntry) -> DnsDecision {
    if asked.question.kind == QuestionKind::Srv {
        return srv(asked, host, &host.ports.iter().collect::<Vec<_>>());
    }
    if !host.headless {
        return asked.addresses(&host.addresses, DnsReason::ClustersetAddress);
    }
    if host.pods.is_empty() {
        return asked.nothing(DnsReason::NoReadyPod);
    }
    let addresses: Vec<IpAddr> = host.pods.iter().flat_map(|pod| &pod.addresses).copied().collect();
    asked.addresses(&addresses, DnsReason::Pods)
}

/// `<cluster>.<svc>…` has no records (KEP-1645 forbids them); it exists where names of pods lie below it. A pod's name
/// without its cluster does not exist. `_tcp.<svc>…` exists where named ports lie below it.
fn below(asked: &Answering<'_>, host: &HostEntry, label: &str) -> DnsDecision {
    let ports = host.ports.iter().any(|port| !port.name.is_empty() && port.transport.label() == label);
    asked.inhabited(ports || (host.headless && of_cluster(host, label).next().is_some()))
}

fn of_cluster<'a>(host: &'a HostEntry, cluster: &str) -> impl Iterator<Item = &'a HostPod> {
    let cluster = cluster.to_owned();
    host.pods.iter().filter(move |pod| pod.cluster.as_str() == cluster)
}

fn pod(asked: &Answering<'_>, addresses: Vec<IpAddr>) -> DnsDecision {
    if addresses.is_empty() {
        return asked.nothing(DnsReason::NoSuchName);
    }
    asked.addresses(&addresses, DnsReason::Pods)
}

fn named<'a>(host: &'a HostEntry, name: &str, transport: &str) -> Vec<&'a HostPort> {
    named_ports(&host.ports, name, transport).collect()
}

fn srv(asked: &Answering<'_>, host: &HostEntry, ports: &[&HostPort]) -> DnsDecision {
    if ports.is_empty() && asked.question.name != asked.name_of(&host.name) {
        return asked.nothing(DnsReason::NoSuchPort);
    }
    if asked.question.kind != QuestionKind::Srv {
        return asked.no_data(DnsReason::NoSuchRecord);
    }
    let target = asked.name_of(&host.name);
    if !host.headless {
        let place =
            |port: &&HostPort| Place { port: port.number, target: target.clone(), addresses: host.addresses.clone() };
        return asked.ports(ports.iter().map(place).collect(), DnsReason::ClustersetAddress);
    }
    if host.pods.is_empty() {
        return asked.nothing(DnsReason::NoReadyPod);
    }
    let mut places = Vec::new();
    for pod in &host.pods {
        for (label, addresses) in labels_of(pod) {
            let target = format!("{label}.{}.{target}", pod.cluster);
            for port in ports {
                let port = pod.number_of(port);
                places.push(Place { port, target: target.clone(), addresses: addresses.clone() });
            }
        }
    }
    asked.ports(places, DnsReason::Pods)
}
