//! What the zones have in common: records of services, of their ports and of their pods.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::Bound;

use super::{
    DNS_TTL, DnsData, DnsDecision, DnsOutcome, DnsReason, DnsRecord, Question, QuestionKind, VERSION_TTL, Zone,
};
use crate::model::{HostEntry, HostPod, HostPort, PortTransport, View};
use crate::names::{Namespace, ServiceName};

/// A question inside a zone.
pub(super) struct Answering<'a> {
    pub(super) view: &'a View,
    pub(super) question: &'a Question<'a>,
    pub(super) zone: Zone,
}

/// A port and the name that it is found at.
pub(super) struct Place {
    pub(super) port: u16,
    pub(super) target: String,
    pub(super) addresses: Vec<IpAddr>,
}

impl<'a> Answering<'a> {
    fn decide(&self, outcome: DnsOutcome, reason: DnsReason) -> DnsDecision {
        DnsDecision { zone: Some(self.zone), outcome, additional: Vec::new(), reasons: vec![reason] }
    }

    pub(super) fn nothing(&self, reason: DnsReason) -> DnsDecision {
        self.decide(DnsOutcome::NxDomain, reason)
    }

    pub(super) fn no_data(&self, reason: DnsReason) -> DnsDecision {
        self.decide(DnsOutcome::NoData, reason)
    }

    /// The zone itself.
    pub(super) fn apex(&self) -> DnsDecision {
        match self.question.kind {
            QuestionKind::Soa => self.decide(DnsOutcome::Start, DnsReason::EmptyNonTerminal),
            _ => self.no_data(DnsReason::EmptyNonTerminal),
        }
    }

    /// A name that exists because something lies below it.
    pub(super) fn inhabited(&self, exists: bool) -> DnsDecision {
        if exists { self.no_data(DnsReason::EmptyNonTerminal) } else { self.nothing(DnsReason::NoSuchName) }
    }

    pub(super) fn version(&self, version: &str) -> DnsDecision {
        let text = |ttl| self.record(ttl, DnsData::Text(version.to_owned()));
        match self.question.kind {
            QuestionKind::Txt | QuestionKind::Any => {
                self.decide(DnsOutcome::Records(vec![text(VERSION_TTL)]), DnsReason::SchemaVersion)
            }
            _ => self.no_data(DnsReason::NoSuchRecord),
        }
    }

    /// A record of the name that was asked for.
    fn record(&self, ttl: u32, data: DnsData) -> DnsRecord {
        DnsRecord { name: self.question.name.to_owned(), ttl, data }
    }

    /// The addresses of the asked family; none of it is no data.
    pub(super) fn addresses(&self, addresses: &[IpAddr], reason: DnsReason) -> DnsDecision {
        let wanted = addresses.iter().filter(|address| self.question.kind.wants(address));
        let unique: BTreeSet<IpAddr> = wanted.copied().collect();
        if unique.is_empty() {
            return self.no_data(DnsReason::NoSuchRecord);
        }
        let records = unique.into_iter().map(|address| self.record(DNS_TTL, DnsData::Address(address)));
        self.decide(DnsOutcome::Records(records.collect()), reason)
    }

    pub(super) fn alias(&self, to: &str) -> DnsDecision {
        let to = to.trim_end_matches('.').to_ascii_lowercase();
        let aliases = vec![self.record(DNS_TTL, DnsData::Alias(to.clone()))];
        let kind = self.question.kind;
        let followed = kind.wants_addresses() || matches!(kind, QuestionKind::Srv | QuestionKind::Txt);
        let outcome = if followed { DnsOutcome::Follow { aliases, to } } else { DnsOutcome::Records(aliases) };
        match kind {
            QuestionKind::Soa | QuestionKind::Ptr | QuestionKind::Other => self.no_data(DnsReason::NoSuchRecord),
            _ => self.decide(outcome, DnsReason::ExternalName),
        }
    }

    /// SRV records, equal ones once, with the addresses of their targets.
    pub(super) fn ports(&self, places: Vec<Place>, reason: DnsReason) -> DnsDecision {
        let unique: BTreeSet<(&str, u16)> = places.iter().map(|place| (place.target.as_str(), place.port)).collect();
        if unique.is_empty() {
            return self.no_data(DnsReason::NoSuchRecord);
        }
        let weight = u16::try_from(100 / unique.len()).unwrap_or(0).max(1);
        let port = |(target, port): &(&str, u16)| {
            self.record(DNS_TTL, DnsData::Port { weight, port: *port, target: (*target).to_owned() })
        };
        let outcome = DnsOutcome::Records(unique.iter().map(port).collect());
        let found: BTreeSet<(&str, IpAddr)> = places
            .iter()
            .flat_map(|place| place.addresses.iter().map(|address| (place.target.as_str(), *address)))
            .collect();
        let address = |(target, address): (&str, IpAddr)| DnsRecord {
            name: target.to_owned(),
            ttl: DNS_TTL,
            data: DnsData::Address(address),
        };
        DnsDecision { additional: found.into_iter().map(address).collect(), ..self.decide(outcome, reason) }
    }

    pub(super) fn named(&self, names: BTreeSet<String>, reason: DnsReason) -> DnsDecision {
        let records = names.into_iter().map(|name| self.record(DNS_TTL, DnsData::Name(name)));
        self.decide(DnsOutcome::Records(records.collect()), reason)
    }

    /// `<service>.<namespace>.svc.<zone>`.
    pub(super) fn name_of(&self, service: &ServiceName) -> String {
        format!("{}.{}.svc.{}", service.name(), service.namespace(), self.zone.apex())
    }

    pub(super) fn host(&self, name: &str, namespace: &str) -> Option<&'a HostEntry> {
        let service = ServiceName::new(Namespace::new(namespace).ok()?, name).ok()?;
        self.view.hosts.get(&service).map(AsRef::as_ref)
    }

    /// Whether any service of the namespace fits.
    pub(super) fn any_in(&self, namespace: &str, fits: impl Fn(&HostEntry) -> bool) -> bool {
        // No service's name comes before "0".
        let first = Namespace::new(namespace).and_then(|namespace| ServiceName::new(namespace, "0"));
        let Ok(first) = first else { return false };
        let from = (Bound::Included(&first), Bound::Unbounded);
        let mut hosts = self.view.hosts.range::<ServiceName, _>(from).map(|(_, host)| host);
        hosts.by_ref().take_while(|host| host.name.namespace().as_str() == namespace).any(|host| fits(host))
    }
}

/// The ports with this name and protocol, both as they stand in the question.
pub(super) fn named_ports<'a>(
    ports: &'a [HostPort],
    name: &str,
    transport: &str,
) -> impl Iterator<Item = &'a HostPort> {
    let (name, transport) = (name.strip_prefix('_').map(str::to_owned), PortTransport::of_label(transport));
    ports.iter().filter(move |port| {
        !port.name.is_empty() && Some(port.transport) == transport && Some(port.name.as_str()) == name.as_deref()
    })
}

/// What stands before a pod's service in its name: the hostname, else an address with dashes, one of each pod's
/// addresses for each name.
pub(super) fn labels_of(pod: &HostPod) -> Vec<(String, Vec<IpAddr>)> {
    match &pod.hostname {
        Some(hostname) => vec![(hostname.clone(), pod.addresses.clone())],
        None => pod.addresses.iter().map(|address| (dashed(*address), vec![*address])).collect(),
    }
}

/// The addresses of the pods that a label means.
pub(super) fn addresses_at<'a>(pods: impl Iterator<Item = &'a HostPod>, label: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for pod in pods {
        if pod.hostname.as_deref() == Some(label) {
            found.extend(pod.addresses.iter().copied());
        } else if pod.hostname.is_none() {
            found.extend(pod.addresses.iter().copied().filter(|address| dashed(*address) == label));
        }
    }
    found
}

/// `10.0.0.7` is `10-0-0-7`, `fd00::7` is `fd00--7`. A label may not begin or end with a dash, so that zeros stand there.
pub(crate) fn dashed(address: IpAddr) -> String {
    let text = address.to_string().replace(['.', ':'], "-");
    let front = if text.starts_with('-') { "0" } else { "" };
    let back = if text.ends_with('-') { "0" } else { "" };
    format!("{front}{text}{back}")
}

/// Reads what [`dashed`] wrote.
pub(super) fn undashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse().ok().map(IpAddr::V4);
    v4.or_else(|| label.replace('-', ":").parse().ok().map(IpAddr::V6))
}
