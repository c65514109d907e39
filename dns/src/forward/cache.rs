//! Answers that upstreams gave, by question; bounded by number and bytes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{DNSClass, LowerName, Record, RecordType};
use moka::sync::Cache as Store;

use super::Flags;
use super::lifetime::{CacheLimits, lifetime};

/// The TTL of an answer that is too old (RFC 8767, section 4).
const STALE_TTL: u32 = 30;
/// After upstreams failed, a stale answer is given at once for this long (RFC 8767, "failure recheck timer").
const RECHECK: Duration = Duration::from_secs(30);
/// What an entry costs beside its bytes on the wire.
const OVERHEAD: u64 = 512;

/// What answers have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    name: LowerName,
    class: DNSClass,
    kind: RecordType,
    flags: Flags,
}

impl Key {
    pub(super) fn of(question: &Query, flags: Flags) -> Self {
        let (class, kind) = (question.query_class(), question.query_type());
        Self { name: LowerName::from(question.name()), class, kind, flags }
    }
}

/// What is known of a question.
#[derive(Debug, Clone)]
pub(super) enum Known {
    Nothing,
    /// With the time that has passed taken off its records.
    Fresh(Message),
    /// Too old, but better than nothing; `now`: upstreams failed just now, so that waiting for them again is of no use.
    Stale {
        message: Message,
        now: bool,
    },
}

#[derive(Debug)]
struct Entry {
    message: Message,
    stored: Instant,
    fresh: Duration,
    weight: u32,
    failed: Mutex<Option<Instant>>,
}

/// The cache.
#[derive(Debug)]
pub(super) struct Cache {
    store: Option<Store<Key, Arc<Entry>>>,
    limits: CacheLimits,
}

impl Cache {
    pub(super) fn new(limits: CacheLimits) -> Self {
        let keep = limits.max_ttl.saturating_add(limits.stale);
        let store = (limits.entries > 0 && limits.bytes > 0).then(|| {
            Store::builder()
                .max_capacity(limits.bytes)
                .weigher(|_: &Key, entry: &Arc<Entry>| entry.weight)
                .time_to_live(keep.min(Duration::from_secs(30 * 86_400)))
                .build()
        });
        Self { store, limits }
    }

    pub(super) fn get(&self, key: &Key, now: Instant) -> Known {
        let Some(entry) = self.store.as_ref().and_then(|store| store.get(key)) else { return Known::Nothing };
        let age = now.saturating_duration_since(entry.stored);
        if age < entry.fresh {
            let past = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
            return Known::Fresh(with_ttls(&entry.message, |ttl| ttl.saturating_sub(past)));
        }
        if age - entry.fresh >= self.limits.stale {
            return Known::Nothing;
        }
        let failed = *entry.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let recently = failed.is_some_and(|at| now.saturating_duration_since(at) < RECHECK);
        Known::Stale { message: with_ttls(&entry.message, |_| STALE_TTL), now: recently }
    }

    pub(super) fn put(&self, key: Key, message: &Message, now: Instant) {
        let (Some(store), Some(fresh)) = (&self.store, lifetime(message, key.kind, &self.limits)) else { return };
        let bytes = message.to_vec().map_or(u64::from(u16::MAX), |bytes| bytes.len() as u64) + OVERHEAD;
        // A small answer weighs its share of the bytes at least, which bounds their number.
        let share = self.limits.bytes / self.limits.entries.max(1);
        let weight = u32::try_from(bytes.max(share)).unwrap_or(u32::MAX);
        let ttl = u32::try_from(fresh.as_secs()).unwrap_or(u32::MAX);
        // No record is shown longer than the whole answer is kept.
        let least = u32::try_from(self.limits.min_ttl.as_secs()).unwrap_or(u32::MAX);
        let message = with_ttls(message, |own| own.max(least).min(ttl));
        let entry = Entry { message, stored: now, fresh, weight, failed: Mutex::new(None) };
        store.insert(key, Arc::new(entry));
    }

    /// Upstreams did not answer what the entry is too old for.
    pub(super) fn failed(&self, key: &Key, now: Instant) {
        if let Some(entry) = self.store.as_ref().and_then(|store| store.get(key)) {
            *entry.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        }
    }

    /// Entries and their bytes.
    pub(super) fn size(&self) -> (u64, u64) {
        self.store.as_ref().map_or((0, 0), |store| {
            store.run_pending_tasks();
            (store.entry_count(), store.weighted_size())
        })
    }
}

fn with_ttls(message: &Message, change: impl Fn(u32) -> u32) -> Message {
    let mut message = message.clone();
    let change = |records: &mut Vec<Record>| records.iter_mut().for_each(|record| record.ttl = change(record.ttl));
    change(&mut message.answers);
    change(&mut message.authorities);
    change(&mut message.additionals);
    message
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use hickory_proto::op::OpCode;
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData};

    use super::*;

    fn question(name: &str) -> Query {
        Query::query(Name::from_str(name).unwrap(), RecordType::A)
    }

    fn answer(name: &str, ttl: u32) -> Message {
        let mut message = Message::response(1, OpCode::Query);
        let data = RData::A(A::new(192, 0, 2, 1));
        message.answers.push(Record::from_rdata(Name::from_str(name).unwrap(), ttl, data));
        message
    }

    fn ttl(known: &Known) -> Option<u32> {
        match known {
            Known::Nothing => None,
            Known::Fresh(message) | Known::Stale { message, .. } => Some(message.answers[0].ttl),
        }
    }

    #[test]
    fn an_answer_ages_gets_stale_and_is_forgotten() {
        let cache = Cache::new(CacheLimits { stale: Duration::from_secs(100), ..CacheLimits::default() });
        let start = Instant::now();
        let key = Key::of(&question("a.example."), Flags::default());
        cache.put(key.clone(), &answer("a.example.", 60), start);
        let at = |seconds| cache.get(&key, start + Duration::from_secs(seconds));
        assert!(matches!(at(0), Known::Fresh(_)));
        assert_eq!(ttl(&at(20)), Some(40));
        assert!(matches!(at(60), Known::Stale { now: false, .. }));
        assert_eq!(ttl(&at(60)), Some(STALE_TTL));
        cache.failed(&key, start + Duration::from_secs(61));
        assert!(matches!(at(62), Known::Stale { now: true, .. }));
        assert!(matches!(at(95), Known::Stale { now: false, .. }));
        assert!(matches!(at(160), Known::Nothing));
    }

    #[test]
    fn names_are_one_in_every_case_and_flags_are_kept_apart() {
        let cache = Cache::new(CacheLimits::default());
        let now = Instant::now();
        cache.put(Key::of(&question("a.example."), Flags::default()), &answer("a.example.", 60), now);
        assert!(matches!(cache.get(&Key::of(&question("A.Example."), Flags::default()), now), Known::Fresh(_)));
        let signed = Flags { dnssec_ok: true, ..Flags::default() };
        assert!(matches!(cache.get(&Key::of(&question("a.example."), signed), now), Known::Nothing));
    }

    #[test]
    fn number_and_bytes_are_bounded() {
        let now = Instant::now();
        for limits in [
            CacheLimits { entries: 10, ..CacheLimits::default() },
            CacheLimits { bytes: 10 * (OVERHEAD + 100), ..CacheLimits::default() },
        ] {
            let cache = Cache::new(limits);
            for number in 0..1000 {
                let name = format!("host-{number}.example.");
                cache.put(Key::of(&question(&name), Flags::default()), &answer(&name, 60), now);
            }
            let (entries, bytes) = cache.size();
            assert!((1..=11).contains(&entries) && bytes <= limits.bytes, "{entries} entries, {bytes} bytes");
        }
        let off = Cache::new(CacheLimits { entries: 0, ..CacheLimits::default() });
        let key = Key::of(&question("a.example."), Flags::default());
        off.put(key.clone(), &answer("a.example.", 60), now);
        assert!(matches!(off.get(&key, now), Known::Nothing));
    }
}
