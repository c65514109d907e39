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

/// Decides on a question. Nothing below `clusterset.local` is ever forwarded.
pub fn resolve(hosts: &BTreeMap<ServiceName, Arc<HostEntry>>, question: &Question<'_>) -> DnsDecision {
    let Some(inside) = inside_zone(question.name) else { return DnsDecision::Forward };
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

fn answer(
    hosts: &BTreeMap<ServiceName, Arc<HostEntry>>,
    name: &str,
    namespace: &str,
    kind: QuestionKind,
) -> DnsDecision {
    let service = Namespace::new(namespace).and_then(|namespace| ServiceName::new(namespace, name));
    let host = service.ok().and_then(|service| hosts.get(&service)).filter(|host| host.clusterset);
    let Some(host) = host else { return DnsDecision::NxDomain };
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
}
