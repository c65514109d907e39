//! What is said in answer to a question, and what the zone says: pure functions of the view.

use std::net::IpAddr;
use std::str::FromStr as _;

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, LowerName, Name, RData, Record, RecordType};
use mesh::{DNS_TTL, DnsData, DnsOutcome, DnsRecord, Question, QuestionKind, View, Zone, Zones};

/// The content of a response.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reply {
    /// The result.
    pub(crate) code: ResponseCode,
    /// Whether the shim itself has authority over the name.
    pub(crate) authoritative: bool,
    /// What the upstream said about itself: recursion available.
    pub(crate) recursion_available: bool,
    /// What the upstream said about its answer: validated.
    pub(crate) authentic_data: bool,
    /// Answers.
    pub(crate) answers: Vec<Record>,
    /// Authority section; the SOA of a negative answer.
    pub(crate) authorities: Vec<Record>,
    /// Additional section without OPT.
    pub(crate) additionals: Vec<Record>,
}

impl Reply {
    /// A response with nothing but its code.
    pub(crate) fn code(code: ResponseCode) -> Self {
        Self {
            code,
            authoritative: false,
            recursion_available: true,
            authentic_data: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        }
    }

    fn authoritative(code: ResponseCode) -> Self {
        Self { authoritative: true, ..Self::code(code) }
    }
}

/// What the view says to a question.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Said {
    /// The whole answer.
    Reply(Zone, Reply),
    /// It is not ours: ask upstream.
    Forward,
    /// The aliases of an answer that goes on upstream, with the name to ask for.
    Follow(Vec<Record>, Name),
}

/// What the view says. `name` is as the client wrote it; answers with several addresses begin at `turn`, so that
/// clients which take the first one spread.
pub(crate) fn from_view(view: &View, zones: Zones, asked: &Query, turn: usize) -> Said {
    let (name, record) = (asked.name(), asked.query_type());
    // LowerName compares and prints in lower case.
    let text = LowerName::from(name).to_string();
    let text = text.strip_suffix('.').unwrap_or(&text);
    let decision = mesh::resolve(view, zones, &Question { name: text, kind: kind(record) });
    let zone = decision.zone.unwrap_or(Zone::Clusterset);
    let reply = |reply| Said::Reply(zone, reply);
    if decision.outcome == DnsOutcome::Forward {
        return Said::Forward;
    }
    let class = asked.query_class();
    if !matches!(class, DNSClass::IN | DNSClass::ANY) || matches!(record, RecordType::AXFR | RecordType::IXFR) {
        return reply(Reply::code(ResponseCode::Refused));
    }
    if view.mesh.is_none() {
        return reply(Reply::code(ResponseCode::ServFail));
    }
    let records = |records: &[DnsRecord]| records.iter().filter_map(|record| to_wire(record, name, text)).collect();
    let negative = |code| {
        // The hosts of entries are in no zone of ours.
        let authorities = decision.zone.map(|zone| soa(view, zone)).unwrap_or_default();
        Reply { authorities, ..Reply::authoritative(code) }
    };
    reply(match &decision.outcome {
        DnsOutcome::Records(found) => Reply {
            answers: rotated(records(found), turn),
            additionals: records(&decision.additional),
            ..Reply::authoritative(ResponseCode::NoError)
        },
        DnsOutcome::Start => Reply { answers: soa(view, zone), ..Reply::authoritative(ResponseCode::NoError) },
        DnsOutcome::NoData => negative(ResponseCode::NoError),
        DnsOutcome::NxDomain => negative(ResponseCode::NXDomain),
        DnsOutcome::Follow { aliases, to } => match Name::from_ascii(format!("{to}.")) {
            Ok(to) => return Said::Follow(records(aliases), to),
            Err(_) => negative(ResponseCode::ServFail),
        },
        DnsOutcome::Forward => return Said::Forward,
    })
}

fn kind(record: RecordType) -> QuestionKind {
    match record {
        RecordType::A => QuestionKind::A,
        RecordType::AAAA => QuestionKind::Aaaa,
        RecordType::SRV => QuestionKind::Srv,
        RecordType::TXT => QuestionKind::Txt,
        RecordType::CNAME => QuestionKind::Cname,
        RecordType::PTR => QuestionKind::Ptr,
        RecordType::SOA => QuestionKind::Soa,
        RecordType::ANY => QuestionKind::Any,
        _ => QuestionKind::Other,
    }
}

/// Aliases stay in front.
fn rotated(mut records: Vec<Record>, turn: usize) -> Vec<Record> {
    let aliases = records.iter().take_while(|record| record.record_type() == RecordType::CNAME).count();
    let rest = &mut records[aliases..];
    if !rest.is_empty() {
        let by = turn % rest.len();
        rest.rotate_left(by);
    }
    records
}

/// The name of the question is written as the client wrote it.
fn to_wire(record: &DnsRecord, asked: &Name, asked_text: &str) -> Option<Record> {
    let full = |name: &str| Name::from_ascii(format!("{name}.")).ok();
    let name = if record.name == asked_text { asked.clone() } else { full(&record.name)? };
    let data = match &record.data {
        DnsData::Address(IpAddr::V4(address)) => RData::A((*address).into()),
        DnsData::Address(IpAddr::V6(address)) => RData::AAAA((*address).into()),
        DnsData::Port { weight, port, target } => RData::SRV(SRV::new(0, *weight, *port, full(target)?)),
        DnsData::Alias(to) => RData::CNAME(CNAME(full(to)?)),
        DnsData::Name(name) => RData::PTR(PTR(full(name)?)),
        DnsData::Text(text) => RData::TXT(TXT::new(vec![text.clone()])),
    };
    Some(Record::from_rdata(name, record.ttl, data))
}

/// The zone's SOA, whose minimum says how long a negative answer may be kept. The serial is the view's revision.
fn soa(view: &View, zone: Zone) -> Vec<Record> {
    let name = |prefix: &str| Name::from_str(&format!("{prefix}{}.", zone.apex()));
    let (Ok(zone), Ok(server), Ok(mailbox)) = (name(""), name("ns.dns."), name("hostmaster.")) else {
        return Vec::new();
    };
    // Serial numbers wrap (RFC 1982).
    let serial = view.revision as u32;
    let data = SOA::new(server, mailbox, serial, 7200, 1800, 86_400, DNS_TTL);
    vec![Record::from_rdata(zone, DNS_TTL, RData::SOA(data))]
}
