//! `resolve()`: what the DNS shim answers (KEP-1645, DNS specification; Kubernetes DNS-Based Service Discovery 1.1.0).
//!
//! Names are compared in lower case and written without the trailing dot. Where the specifications leave a choice, or
//! CoreDNS does otherwise, docs/dns.md says what is done here and why.

mod cluster;
mod clusterset;
mod entry;
mod records;
mod reverse;

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use crate::host::{CLUSTER_ZONE, CLUSTERSET_ZONE};
use crate::model::View;
use records::Answering;

pub(crate) use records::dashed;

/// Seconds for which an answer of our zones, positive or negative, may be kept: so long does a failover wait for clients
/// that cache.
pub const DNS_TTL: u32 = 5;
/// Seconds for which the version of the schema may be kept.
const VERSION_TTL: u32 = 28_800;
/// How many names a name may stand for, one after the other (Services of type ExternalName): in DNS, for proxies and in analysis.
pub const ALIASES_MAX: usize = 8;

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question<'a> {
    /// Lower case, without the trailing dot.
    pub name: &'a str,
    /// What is asked for.
    pub kind: QuestionKind,
}

/// The record types that our zones can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuestionKind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Ports, and where they are.
    Srv,
    /// The version of the schema.
    Txt,
    /// The alias itself.
    Cname,
    /// The name of an address.
    Ptr,
    /// The start of the zone.
    Soa,
    /// Whatever there is: addresses (RFC 8482 leaves the choice).
    Any,
    /// Any other type: a name that exists has no such data.
    Other,
}

impl QuestionKind {
    /// Reads a type as zone files write it, in upper case; `None` for those that no record of ours has.
    pub fn from_text(text: &str) -> Option<Self> {
        Some(match text {
            "A" => Self::A,
            "AAAA" => Self::Aaaa,
            "SRV" => Self::Srv,
            "TXT" => Self::Txt,
            "CNAME" => Self::Cname,
            "PTR" => Self::Ptr,
            "SOA" => Self::Soa,
            "ANY" => Self::Any,
            _ => return None,
        })
    }

    fn wants(self, address: &IpAddr) -> bool {
        match self {
            Self::A => address.is_ipv4(),
            Self::Aaaa => address.is_ipv6(),
            Self::Any => true,
            _ => false,
        }
    }

    fn wants_addresses(self) -> bool {
        matches!(self, Self::A | Self::Aaaa | Self::Any)
    }
}

/// Which zones the shim has authority over, beside `clusterset.local`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Zones {
    /// `cluster.local` and the reverse names of the cluster's addresses: the shim is the cluster's only DNS.
    pub cluster: bool,
}

/// A zone of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Zone {
    /// `clusterset.local`.
    Clusterset,
    /// `cluster.local`.
    Cluster,
}

impl Zone {
    /// The zone's own name.
    pub fn apex(self) -> &'static str {
        match self {
            Self::Clusterset => CLUSTERSET_ZONE,
            Self::Cluster => CLUSTER_ZONE,
        }
    }

    /// The part of a name below the zone: `Some("")` for the zone itself, `None` outside of it.
    fn inside(self, name: &str) -> Option<&str> {
        let rest = name.strip_suffix(self.apex())?;
        if rest.is_empty() { Some("") } else { rest.strip_suffix('.') }
    }
}

/// What to answer, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DnsDecision {
    /// The zone of ours that the name is in; its SOA goes with a negative answer.
    pub zone: Option<Zone>,
    /// The answer.
    pub outcome: DnsOutcome,
    /// Addresses of the names that the answer leads to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub additional: Vec<DnsRecord>,
    /// Why.
    pub reasons: Vec<DnsReason>,
}

/// What to answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DnsOutcome {
    /// These records, aliases before what they lead to.
    Records(Vec<DnsRecord>),
    /// These aliases, which lead out of our zones to `to`: ask upstream for it.
    Follow {
        /// The aliases.
        aliases: Vec<DnsRecord>,
        /// Where the last one leads.
        to: String,
    },
    /// The start of the zone.
    Start,
    /// The name exists but has no such record: NOERROR with the SOA.
    NoData,
    /// The name does not exist: NXDOMAIN with the SOA.
    NxDomain,
    /// Not ours: ask upstream.
    Forward,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DnsRecord {
    /// Its owner.
    pub name: String,
    /// Seconds for which it may be kept.
    pub ttl: u32,
    /// What it says.
    pub data: DnsData,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DnsData {
    /// A or AAAA.
    Address(IpAddr),
    /// SRV, of priority 0.
    Port {
        /// Its share among equals.
        weight: u16,
        /// The number.
        port: u16,
        /// Where it is.
        target: String,
    },
    /// CNAME.
    Alias(String),
    /// PTR.
    Name(String),
    /// TXT.
    Text(String),
}

/// Why DNS answers as it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DnsReason {
    /// The name is outside of our zones.
    NotOurs,
    /// A ServiceEntry gives the host an address.
    EntryAddress,
    /// The stable address of an exported or imported service.
    ClustersetAddress,
    /// The address of the own cluster's Service.
    ClusterAddress,
    /// The ready pods of a headless service.
    Pods,
    /// The service is global, so that its local name leads to other clusters too.
    Global,
    /// The Service names a host elsewhere.
    ExternalName,
    /// The name of a pod is its address.
    PodAddress,
    /// The version of the schema.
    SchemaVersion,
    /// Nothing has this name, but names below it exist.
    EmptyNonTerminal,
    /// It exists, but not in this family or of this type.
    NoSuchRecord,
    /// Nothing in our zones has this name.
    NoSuchName,
    /// The Service exists in this cluster, but nobody exports it.
    NotExported,
    /// The service is headless and has no ready pod.
    NoReadyPod,
    /// The service has no port of this name and protocol.
    NoSuchPort,
    /// Aliases lead in a circle, or too far.
    AliasLoop,
}

impl fmt::Display for DnsReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotOurs => "the name is outside of our zones",
            Self::EntryAddress => "a ServiceEntry gives the host an address",
            Self::ClustersetAddress => "the stable address of an exported service",
            Self::ClusterAddress => "the address of the cluster's own Service",
            Self::Pods => "the ready pods of a headless service",
            Self::Global => "the service is global: its local name leads to other clusters too",
            Self::ExternalName => "the Service names a host elsewhere",
            Self::PodAddress => "the name of a pod is its address",
            Self::SchemaVersion => "the version of the schema",
            Self::EmptyNonTerminal => "only names below it exist",
            Self::NoSuchRecord => "the name has no record of this type",
            Self::NoSuchName => "nothing has this name",
            Self::NotExported => "the Service is not exported",
            Self::NoReadyPod => "the service is headless and has no ready pod",
            Self::NoSuchPort => "the service has no port of this name and protocol",
            Self::AliasLoop => "aliases lead in a circle",
        })
    }
}

/// Decides on a question. Nothing inside our zones is ever forwarded. Outside of them only the hosts of entries that
/// have addresses are answered, and, where the shim is the cluster's only DNS, the names of the cluster's addresses.
pub fn resolve(view: &View, zones: Zones, question: &Question<'_>) -> DnsDecision {
    let mut aliases = Vec::new();
    let mut reasons = Vec::new();
    let mut zone = None;
    let mut name = question.name.to_owned();
    loop {
        let asked = Question { name: &name, kind: question.kind };
        let mut decision = one(view, zones, &asked);
        zone = zone.or(decision.zone);
        reasons.append(&mut decision.reasons);
        let target = match decision.outcome {
            DnsOutcome::Follow { aliases: found, to } => {
                aliases.extend(found);
                to
            }
            DnsOutcome::Forward if !aliases.is_empty() => {
                let outcome = DnsOutcome::Follow { aliases, to: name };
                return DnsDecision { zone, outcome, additional: Vec::new(), reasons };
            }
            DnsOutcome::Records(records) => {
                aliases.extend(records);
                let outcome = DnsOutcome::Records(aliases);
                return DnsDecision { zone, outcome, additional: decision.additional, reasons };
            }
            // The code of the answer is that of the last name; the aliases are shown as far as they led (RFC 6604).
            outcome if aliases.is_empty() => return DnsDecision { zone, outcome, additional: Vec::new(), reasons },
            _ => {
                let outcome = DnsOutcome::Records(aliases);
                return DnsDecision { zone, outcome, additional: Vec::new(), reasons };
            }
        };
        if aliases.len() >= ALIASES_MAX {
            reasons.push(DnsReason::AliasLoop);
            return DnsDecision { zone, outcome: DnsOutcome::NoData, additional: Vec::new(), reasons };
        }
        name = target;
    }
}

/// Decides without following aliases.
fn one(view: &View, zones: Zones, question: &Question<'_>) -> DnsDecision {
    let answering = |zone| Answering { view, question, zone };
    if let Some(inside) = Zone::Clusterset.inside(question.name) {
        return clusterset::answer(&answering(Zone::Clusterset), inside);
    }
    if zones.cluster {
        if let Some(inside) = Zone::Cluster.inside(question.name) {
            return cluster::answer(&answering(Zone::Cluster), inside);
        }
        if let Some(decision) = reverse::answer(&answering(Zone::Cluster)) {
            return decision;
        }
    }
    entry::answer(view, question).unwrap_or_else(|| DnsDecision {
        zone: None,
        outcome: DnsOutcome::Forward,
        additional: Vec::new(),
        reasons: vec![DnsReason::NotOurs],
    })
}

#[cfg(test)]
mod tests;
