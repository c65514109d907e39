//! The names of the cluster's addresses: `in-addr.arpa` and `ip6.arpa`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::records::{Answering, labels_of};
use super::{DnsDecision, DnsReason, QuestionKind};

/// `None`: the address is none of the cluster's, so that others know its name.
pub(super) fn answer(asked: &Answering<'_>) -> Option<DnsDecision> {
    let address = address_of(asked.question.name)?;
    let mut names = BTreeSet::new();
    for host in asked.view.hosts.values() {
        let Some(local) = &host.local else { continue };
        if local.addresses.contains(&address) {
            names.insert(asked.name_of(&host.name));
        }
        // The pods of other services have names in which their address stands.
        for pod in local.pods.iter().filter(|pod| local.headless && pod.addresses.contains(&address)) {
            let labels = labels_of(pod).into_iter().filter(|(_, addresses)| addresses.contains(&address));
            names.extend(labels.map(|(label, _)| format!("{label}.{}", asked.name_of(&host.name))));
        }
    }
    if names.is_empty() {
        return None;
    }
    Some(match asked.question.kind {
        QuestionKind::Ptr | QuestionKind::Any => asked.named(names, DnsReason::ClusterAddress),
        _ => asked.no_data(DnsReason::NoSuchRecord),
    })
}

fn address_of(name: &str) -> Option<IpAddr> {
    if let Some(labels) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<u8> = labels.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
        let [d, c, b, a] = octets.as_slice() else { return None };
        return Some(Ipv4Addr::new(*a, *b, *c, *d).into());
    }
    let labels = name.strip_suffix(".ip6.arpa")?;
    if labels.len() != 63 {
        return None;
    }
    let digits: Vec<&str> = labels.split('.').collect();
    if digits.len() != 32 || digits.iter().any(|digit| digit.len() != 1) {
        return None;
    }
    let mut number = digits.iter().rev().map(|digit| u128::from_str_radix(digit, 16));
    let number = number.try_fold(0, |sum: u128, digit| Some((sum << 4) | digit.ok()?))?;
    Some(Ipv6Addr::from(number).into())
}
