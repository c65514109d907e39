//! Hosts of ServiceEntries.

use std::net::IpAddr;

use super::{DNS_TTL, DnsData, DnsDecision, DnsOutcome, DnsReason, DnsRecord, Question};
use crate::model::{HostEntry, View};

/// The address of an entry leads to the proxy, which knows the host by it. Everything but addresses (mail, keys …) is
/// still the business of the host's own servers.
pub(super) fn answer(view: &View, question: &Question<'_>) -> Option<DnsDecision> {
    if !question.kind.wants_addresses() {
        return None;
    }
    let mut best: Option<((bool, usize), &HostEntry)> = None;
    for entry in view.hosts.values().filter(|entry| entry.name.is_entry() && !entry.addresses.is_empty()) {
        let name = entry.name.name();
        let matches = match name.strip_prefix('*') {
            Some(suffix) => question.name.len() > suffix.len() && question.name.ends_with(suffix),
            None => name == question.name,
        };
        let rank = (!name.starts_with('*'), name.len());
        if matches && best.is_none_or(|(before, _)| rank > before) {
            best = Some((rank, entry));
        }
    }
    best.map(|(_, entry)| addresses(question, &entry.addresses))
}

fn addresses(question: &Question<'_>, addresses: &[IpAddr]) -> DnsDecision {
    let record =
        |address: &IpAddr| DnsRecord { name: question.name.to_owned(), ttl: DNS_TTL, data: DnsData::Address(*address) };
    let records: Vec<DnsRecord> = addresses.iter().filter(|it| question.kind.wants(it)).map(record).collect();
    let (outcome, reason) = match records.is_empty() {
        true => (DnsOutcome::NoData, DnsReason::NoSuchRecord),
        false => (DnsOutcome::Records(records), DnsReason::EntryAddress),
    };
    DnsDecision { zone: None, outcome, additional: Vec::new(), reasons: vec![reason] }
}
