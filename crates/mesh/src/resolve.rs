//! `resolve()`: what the DNS shim answers (KEP-1645, DNS specification).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::host::CLUSTERSET_ZONE;
use crate::model::HostEntry;
use crate::names::{Namespace, ServiceName};

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question<'a> {
    /// Lower case, without the trailing dot.
    pub name: &'a str,
    /// What is asked for.
    pub kind: QuestionKind,
}

/// The record types that the clusterset zone can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuestionKind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Any other type: a name that exists has no such data.
    Other,
}

/// What to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsDecision {
    /// These addresses, all of the asked family.
    Answer(Vec<IpAddr>),
    /// The name exists but has no such record: NOERROR with the SOA.
    NoData,
    /// The name does not exist: NXDOMAIN with the SOA.
    NxDomain,
    /// Not ours: ask upstream.
    Forward,
}

/// Decides on a question. Nothing below `clusterset.local` is ever forwarded. Outside of it only the hosts of entries
/// that have addresses are answered.
pub fn resolve(hosts: &BTreeMap<ServiceName, Arc<HostEntry>>, question: &Question<'_>) -> DnsDecision {
    let Some(inside) = inside_zone(question.name) else { return of_entry(hosts, question) };
    let labels: Vec<&str> = if inside.is_empty() { Vec::new() } else { inside.split('.').collect() };
    match labels.as_slice() {
        // Empty non-terminals exist as long as something lies below them.
        [] | ["svc"] => DnsDecision::NoData,
        [namespace, "svc"] => {
            let inhabited = hosts.values().any(|host| host.clusterset && host.name.namespace().as_str() == *namespace);
            if inhabited { DnsDecision::NoData } else { DnsDecision::NxDomain }
        }
        [name, namespace, "svc"] => answer(hosts, name, namespace, question.kind),
        // `<cluster>.<svc>.<ns>.svc…` is forbidden by the specification.
        _ => DnsDecision::NxDomain,
    }
}

/// The part of a name below the zone: `Some("")` for the zone itself, `None` outside it.
fn inside_zone(name: &str) -> Option<&str> {
    let rest = name.strip_suffix(CLUSTERSET_ZONE)?;
    if rest.is_empty() { Some("") } else { rest.strip_suffix('.') }
}

/// The address of an entry leads to the proxy, which knows the host by it. Everything but addresses (mail, keys …) is
/// still the business of the host's own servers.
fn of_entry(hosts: &BTreeMap<ServiceName, Arc<HostEntry>>, question: &Question<'_>) -> DnsDecision {
    if question.kind == QuestionKind::Other {
        return DnsDecision::Forward;
    }
    let mut best: Option<((bool, usize), &HostEntry)> = None;
    for entry in hosts.values().filter(|entry| !entry.addresses.is_empty()) {
        let name = entry.name.name();
        let matches = match name.strip_prefix('*') {
            Some(suffix) => question.name.len() > suffix.len() && question.name.ends_with(suffix),
            // A service has no name of its own outside of the zone.
            None => name == question.name && entry.name.is_entry(),
        };
        let rank = (!name.starts_with('*'), name.len());
        if matches && best.is_none_or(|(before, _)| rank > before) {
            best = Some((rank, entry));
        }
    }
    best.map_or(DnsDecision::Forward, |(_, entry)| addresses_of(entry, question.kind))
}

fn answer(
    hosts: &BTreeMap<ServiceName, Arc<HostEntry>>,
    name: &str,
    namespace: &str,
    kind: QuestionKind,
) -> DnsDecision {
    let service = Namespace::new(namespace).and_then(|namespace| ServiceName::new(namespace, name));
    let host = service.ok().and_then(|service| hosts.get(&service)).filter(|host| host.clusterset);
    let Some(host) = host else { return DnsDecision::NxDomain };
    addresses_of(host, kind)
}

fn addresses_of(host: &HostEntry, kind: QuestionKind) -> DnsDecision {
    let wanted = |address: &&IpAddr| match kind {
        QuestionKind::A => address.is_ipv4(),
        QuestionKind::Aaaa => address.is_ipv6(),
        QuestionKind::Other => false,
    };
    let addresses: Vec<IpAddr> = host.addresses.iter().filter(wanted).copied().collect();
    if addresses.is_empty() { DnsDecision::NoData } else { DnsDecision::Answer(addresses) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::service;

    #[test]
    fn the_clusterset_zone_answers_as_the_specification_says() {
        let entry = |name: &str, clusterset| {
            let addresses = vec!["243.0.0.1".parse().unwrap()];
            let entry = HostEntry { name: service(name), addresses, ports: Vec::new(), clusterset };
            (service(name), Arc::new(entry))
        };
        let hosts = BTreeMap::from([entry("reviews", true), entry("private", false)]);
        let address = DnsDecision::Answer(vec!["243.0.0.1".parse().unwrap()]);
        let cases = [
            ("reviews.default.svc.clusterset.local", QuestionKind::A, address),
            ("reviews.default.svc.clusterset.local", QuestionKind::Aaaa, DnsDecision::NoData),
            ("reviews.default.svc.clusterset.local", QuestionKind::Other, DnsDecision::NoData),
            ("private.default.svc.clusterset.local", QuestionKind::A, DnsDecision::NxDomain),
            ("nothing.default.svc.clusterset.local", QuestionKind::A, DnsDecision::NxDomain),
            ("west.reviews.default.svc.clusterset.local", QuestionKind::A, DnsDecision::NxDomain),
            ("default.svc.clusterset.local", QuestionKind::A, DnsDecision::NoData),
            ("elsewhere.svc.clusterset.local", QuestionKind::A, DnsDecision::NxDomain),
            ("svc.clusterset.local", QuestionKind::A, DnsDecision::NoData),
            ("clusterset.local", QuestionKind::A, DnsDecision::NoData),
            ("foo.clusterset.local", QuestionKind::A, DnsDecision::NxDomain),
            ("notclusterset.local", QuestionKind::A, DnsDecision::Forward),
            ("www.example.org", QuestionKind::A, DnsDecision::Forward),
            ("reviews.default.svc.cluster.local", QuestionKind::A, DnsDecision::Forward),
        ];
        for (name, kind, expected) in cases {
            assert_eq!(resolve(&hosts, &Question { name, kind }), expected, "{name} {kind:?}");
        }
    }

    #[test]
    fn hosts_of_entries_have_their_addresses() {
        let entry = |host: &str, address: Option<&str>| {
            let name = ServiceName::entry(Namespace::new("default").unwrap(), &host.parse().unwrap());
            let addresses = address.map(|address| address.parse().unwrap()).into_iter().collect();
            (name.clone(), Arc::new(HostEntry { name, addresses, ports: Vec::new(), clusterset: false }))
        };
        let hosts = BTreeMap::from([
            entry("a.example.org", Some("240.0.0.1")),
            entry("*.example.org", Some("240.0.0.2")),
            entry("*.b.example.org", Some("240.0.0.3")),
            entry("six.example.org", Some("fd00::1")),
            entry("none.example.com", None),
        ]);
        let address = |address: &str| DnsDecision::Answer(vec![address.parse().unwrap()]);
        let cases = [
            ("a.example.org", QuestionKind::A, address("240.0.0.1")),
            ("a.example.org", QuestionKind::Aaaa, DnsDecision::NoData),
            ("a.example.org", QuestionKind::Other, DnsDecision::Forward),
            ("c.example.org", QuestionKind::A, address("240.0.0.2")),
            ("c.b.example.org", QuestionKind::A, address("240.0.0.3")),
            ("six.example.org", QuestionKind::Aaaa, address("fd00::1")),
            ("six.example.org", QuestionKind::A, DnsDecision::NoData),
            ("example.org", QuestionKind::A, DnsDecision::Forward),
            ("none.example.com", QuestionKind::A, DnsDecision::Forward),
        ];
        for (name, kind, expected) in cases {
            assert_eq!(resolve(&hosts, &Question { name, kind }), expected, "{name} {kind:?}");
        }
    }
}
