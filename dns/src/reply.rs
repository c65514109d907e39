//! What is said in answer to a question, and what the zone says: pure functions of the view.

use std::net::IpAddr;
use std::str::FromStr as _;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{DNSClass, LowerName, Name, RData, Record, RecordType};
use mesh::{CLUSTERSET_ZONE, DnsDecision, Question, QuestionKind, View};

/// Seconds for which an answer of the zone, positive or negative, may be kept: so long does a failover wait for
/// clients that cache.
pub(crate) const TTL: u32 = 5;

/// The content of a response.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The result.
    pub code: ResponseCode,
    /// Whether the shim itself has authority over the name.
    pub authoritative: bool,
    /// What the upstream said about itself: recursion available.
    pub recursion_available: bool,
    /// What the upstream said about its answer: validated.
    pub authentic_data: bool,
    /// Answers.
    pub answers: Vec<Record>,
    /// Authority section; the SOA of a negative answer.
    pub authorities: Vec<Record>,
    /// Additional section without OPT.
    pub additionals: Vec<Record>,
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

/// What the view says to a question; `None` = it is not ours, ask upstream. `name` is as the client wrote it.
pub(crate) fn from_view(view: &View, name: &Name, class: DNSClass, record: RecordType) -> Option<Reply> {
    // LowerName compares and prints in lower case.
    let text = LowerName::from(name).to_string();
    let text = text.strip_suffix('.').unwrap_or(&text);
    let kind = match record {
        RecordType::A => QuestionKind::A,
        RecordType::AAAA => QuestionKind::Aaaa,
        _ => QuestionKind::Other,
    };
    let decision = mesh::resolve(&view.hosts, &Question { name: text, kind });
    if decision == DnsDecision::Forward {
        return None;
    }
    if !matches!(class, DNSClass::IN | DNSClass::ANY) || matches!(record, RecordType::AXFR | RecordType::IXFR) {
        return Some(Reply::code(ResponseCode::Refused));
    }
    if view.mesh.is_none() {
        return Some(Reply::code(ResponseCode::ServFail));
    }
    if text == CLUSTERSET_ZONE && record == RecordType::SOA {
        return Some(Reply { answers: soa(view), ..Reply::authoritative(ResponseCode::NoError) });
    }
    Some(match decision {
        DnsDecision::Answer(addresses) => {
            let answers = addresses.into_iter().map(|address| address_record(name, address)).collect();
            Reply { answers, ..Reply::authoritative(ResponseCode::NoError) }
        }
        DnsDecision::NoData => Reply { authorities: soa(view), ..Reply::authoritative(ResponseCode::NoError) },
        DnsDecision::NxDomain => Reply { authorities: soa(view), ..Reply::authoritative(ResponseCode::NXDomain) },
        DnsDecision::Forward => return None,
    })
}

fn address_record(name: &Name, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(address) => RData::A(address.into()),
        IpAddr::V6(address) => RData::AAAA(address.into()),
    };
    Record::from_rdata(name.clone(), TTL, data)
}

/// The zone's SOA, whose minimum says how long a negative answer may be kept. The serial is the view's revision.
fn soa(view: &View) -> Vec<Record> {
    let name = |prefix: &str| Name::from_str(&format!("{prefix}{CLUSTERSET_ZONE}."));
    let (Ok(zone), Ok(server), Ok(mailbox)) = (name(""), name("ns.dns."), name("hostmaster.")) else {
        return Vec::new();
    };
    // Serial numbers wrap (RFC 1982).
    let serial = view.revision as u32;
    let data = SOA::new(server, mailbox, serial, 7200, 1800, 86_400, TTL);
    vec![Record::from_rdata(zone, TTL, RData::SOA(data))]
}
