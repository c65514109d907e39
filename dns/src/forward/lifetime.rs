//! How long an answer may be kept (RFC 2308, RFC 8767). Pure.

use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};

/// The bounds of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// Answers that are kept; 0 = no cache.
    pub entries: u64,
    /// Bytes of all answers together.
    pub bytes: u64,
    /// What lives shorter is kept this long.
    pub min_ttl: Duration,
    /// What lives longer is kept this long.
    pub max_ttl: Duration,
    /// A negative answer is kept no longer.
    pub max_negative_ttl: Duration,
    /// How long an answer that is too old may stand in for upstreams that fail; zero = not at all.
    pub stale: Duration,
}

impl Default for CacheLimits {
    /// Bounds that suit one cluster: RFC 2308 advises 1 to 3 hours for negative answers, but in a mesh names come and go;
    /// RFC 8767 advises 1 to 3 days for stale ones.
    fn default() -> Self {
        Self {
            entries: 20_000,
            bytes: 16 << 20,
            min_ttl: Duration::ZERO,
            max_ttl: Duration::from_secs(3600),
            max_negative_ttl: Duration::from_secs(300),
            stale: Duration::from_secs(86_400),
        }
    }
}

/// How long an answer is fresh; `None` = it is not kept.
pub(super) fn lifetime(answer: &Message, asked: RecordType, limits: &CacheLimits) -> Option<Duration> {
    let code = answer.metadata.response_code;
    if answer.metadata.truncation || !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return None;
    }
    let has_data = answer.answers.iter().any(|record| asked == RecordType::ANY || record.record_type() == asked);
    let sections = answer.answers.iter().chain(&answer.authorities).chain(&answer.additionals);
    let positive = sections.filter(|record| record.record_type() != RecordType::SOA).map(ttl).min();
    if code == ResponseCode::NoError && has_data {
        return positive
            .map(|ttl| ttl.clamp(limits.min_ttl.min(limits.max_ttl), limits.max_ttl))
            .filter(|ttl| !ttl.is_zero());
    }
    // Without an SOA nobody says how long the absence lasts (RFC 2308, section 5).
    let negative = answer.authorities.iter().find_map(negative_ttl)?;
    let ttl = positive.unwrap_or(Duration::MAX).min(negative);
    let bound = limits.max_negative_ttl.min(limits.max_ttl);
    Some(ttl.clamp(limits.min_ttl.min(bound), bound)).filter(|ttl| !ttl.is_zero())
}

/// A value with the top bit set is none (RFC 2181, section 8).
fn ttl(record: &Record) -> Duration {
    Duration::from_secs(if record.ttl > i32::MAX as u32 { 0 } else { record.ttl.into() })
}

fn negative_ttl(record: &Record) -> Option<Duration> {
    let RData::SOA(soa) = &record.data else { return None };
    Some(ttl(record).min(Duration::from_secs(soa.minimum.into())))
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use hickory_proto::op::OpCode;
    use hickory_proto::rr::Name;
    use hickory_proto::rr::rdata::{A, CNAME, SOA};

    use super::*;

    fn record(ttl: u32, data: RData) -> Record {
        Record::from_rdata(Name::from_str("a.example.").unwrap(), ttl, data)
    }

    fn soa(ttl: u32, minimum: u32) -> Record {
        let name = Name::from_str("example.").unwrap();
        record(ttl, RData::SOA(SOA::new(name.clone(), name, 1, 1, 1, 1, minimum)))
    }

    #[test]
    fn answers_live_as_long_as_their_records_say_within_bounds() {
        let a = |ttl| record(ttl, RData::A(A::new(192, 0, 2, 1)));
        let alias = |ttl| record(ttl, RData::CNAME(CNAME(Name::from_str("b.example.").unwrap())));
        let (ok, missing) = (ResponseCode::NoError, ResponseCode::NXDomain);
        let limits = CacheLimits { min_ttl: Duration::from_secs(5), ..CacheLimits::default() };
        type Case = (&'static str, ResponseCode, Vec<Record>, Vec<Record>, Option<u64>);
        let cases: Vec<Case> = vec![
            ("the shortest record", ok, vec![a(60), a(30)], vec![], Some(30)),
            ("an alias may be shorter", ok, vec![alias(20), a(300)], vec![], Some(20)),
            ("the lower bound", ok, vec![a(1)], vec![], Some(5)),
            ("the upper bound", ok, vec![a(100_000)], vec![], Some(3600)),
            ("no time at all", ok, vec![a(u32::MAX)], vec![], Some(5)),
            ("no data", ok, vec![], vec![soa(60, 30)], Some(30)),
            ("no data: the SOA's own time", ok, vec![], vec![soa(20, 30)], Some(20)),
            ("no data behind an alias", ok, vec![alias(10)], vec![soa(60, 30)], Some(10)),
            ("no such name", missing, vec![], vec![soa(9000, 9000)], Some(300)),
            ("no SOA", missing, vec![], vec![], None),
            ("no SOA, no data", ok, vec![], vec![], None),
            ("a failure", ResponseCode::ServFail, vec![a(60)], vec![soa(60, 60)], None),
        ];
        for (name, code, answers, authorities, expected) in cases {
            let mut message = Message::response(1, OpCode::Query);
            message.metadata.response_code = code;
            message.answers = answers;
            message.authorities = authorities;
            let found = lifetime(&message, RecordType::A, &limits);
            assert_eq!(found, expected.map(Duration::from_secs), "{name}");
        }
        let zero = CacheLimits::default();
        let mut message = Message::response(1, OpCode::Query);
        message.answers = vec![a(0)];
        assert_eq!(lifetime(&message, RecordType::A, &zero), None, "a time of zero is not kept");
        message.answers = vec![a(60)];
        message.metadata.truncation = true;
        assert_eq!(lifetime(&message, RecordType::A, &zero), None, "half an answer is not kept");
    }
}
