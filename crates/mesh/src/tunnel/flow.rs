//! What a flow carries, and what follows from it: its class and its priority.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Bytes of late from which on a flow is bulk.
pub const BULK_BYTES: u64 = 1 << 20;
/// Bytes of late up to which a flow is as urgent as a new one.
const YOUNG_BYTES: u64 = 128 << 10;
/// What was carried counts half after this time, so that a stream of rare messages does not stay bulk.
const HALF_LIFE: Duration = Duration::from_secs(1);
/// Services that are remembered.
const HINTS_MAX: usize = 1024;

/// What kind of flow it is, for the choice of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FlowClass {
    /// Requests and messages: latency counts.
    Small,
    /// Throughput counts.
    Bulk,
}

/// How much a flow has carried of late; old bytes fade.
#[derive(Debug, Clone)]
pub struct Carried {
    /// Faded bytes at `at`.
    bytes: f64,
    at: Instant,
}

impl Carried {
    /// A flow that has carried nothing.
    pub fn new(now: Instant) -> Self {
        Self { bytes: 0.0, at: now }
    }

    /// Adds bytes that were carried now.
    pub fn add(&mut self, now: Instant, bytes: usize) {
        self.bytes = self.faded(now) + f64::from(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.at = now;
    }

    /// The class of now.
    pub fn class(&self, now: Instant) -> FlowClass {
        // 2^20 is exact in f64.
        if self.faded(now) < BULK_BYTES as f64 { FlowClass::Small } else { FlowClass::Bulk }
    }

    /// The priority of the flow's stream, higher first: what has carried little of late goes before what has carried
    /// much (least attained service first), so that bulk never stands in front of a small request.
    pub fn priority(&self, now: Instant) -> i32 {
        match self.faded(now) {
            bytes if bytes < YOUNG_BYTES as f64 => 2,
            bytes if bytes < BULK_BYTES as f64 => 1,
            _ => 0,
        }
    }

    fn faded(&self, now: Instant) -> f64 {
        let halves = now.saturating_duration_since(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.bytes * (-halves).exp2()
    }
}

/// What to expect of the next flow to a service, from those before: nothing tells it at its beginning. Bounded: the
/// service that was not seen for longest is forgotten.
#[derive(Debug, Clone)]
pub struct ClassHints<K> {
    known: BTreeMap<K, Hint>,
    /// Counts what was learnt, for telling the oldest.
    turn: u64,
}

#[derive(Debug, Clone)]
struct Hint {
    /// Moving average of the bytes of a flow.
    bytes: u64,
    turn: u64,
}

impl<K> Default for ClassHints<K> {
    fn default() -> Self {
        Self { known: BTreeMap::new(), turn: 0 }
    }
}

impl<K: Ord + Clone> ClassHints<K> {
    /// Learns what a flow carried in all, both directions.
    pub fn learn(&mut self, key: &K, bytes: u64) {
        self.turn += 1;
        let turn = self.turn;
        if let Some(hint) = self.known.get_mut(key) {
            *hint = Hint { bytes: hint.bytes / 4 * 3 + bytes / 4, turn };
            return;
        }
        if self.known.len() >= HINTS_MAX
            && let Some(oldest) = self.known.iter().min_by_key(|(_, hint)| hint.turn).map(|(key, _)| key.clone())
        {
            self.known.remove(&oldest);
        }
        self.known.insert(key.clone(), Hint { bytes, turn });
    }

    /// What the next flow will likely be; of an unknown service: small, until it shows otherwise.
    pub fn expect(&self, key: &K) -> FlowClass {
        match self.known.get(key) {
            Some(hint) if hint.bytes >= BULK_BYTES => FlowClass::Bulk,
            Some(_) | None => FlowClass::Small,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_becomes_bulk_by_what_it_carries_and_small_again_by_waiting() {
        // Milliseconds, bytes, and then: class and priority.
        let cases: &[(u64, usize, FlowClass, i32)] = &[
            (0, 0, FlowClass::Small, 2),
            (0, 100_000, FlowClass::Small, 2),
            (10, 100_000, FlowClass::Small, 1),
            (20, 1 << 20, FlowClass::Bulk, 0),
            (1_020, 0, FlowClass::Small, 1),
            (5_000, 0, FlowClass::Small, 2),
        ];
        let start = Instant::now();
        let mut carried = Carried::new(start);
        for (ms, bytes, class, priority) in cases {
            let now = start + Duration::from_millis(*ms);
            carried.add(now, *bytes);
            assert_eq!((carried.class(now), carried.priority(now)), (*class, *priority), "at {ms} ms");
        }
    }

    #[test]
    fn a_stream_of_rare_messages_never_becomes_bulk() {
        let start = Instant::now();
        let mut carried = Carried::new(start);
        for second in 0..3600 {
            let now = start + Duration::from_secs(second);
            carried.add(now, 50_000);
            assert_eq!((carried.class(now), carried.priority(now)), (FlowClass::Small, 2), "after {second} s");
        }
    }

    #[test]
    fn services_are_expected_to_go_on_as_before() {
        let mut hints = ClassHints::default();
        assert_eq!(hints.expect(&"backup"), FlowClass::Small);
        hints.learn(&"backup", 1 << 30);
        hints.learn(&"web", 2_000);
        assert_eq!((hints.expect(&"backup"), hints.expect(&"web")), (FlowClass::Bulk, FlowClass::Small));
        // One large answer does not make a service bulk, many do.
        hints.learn(&"web", 3 << 20);
        assert_eq!(hints.expect(&"web"), FlowClass::Small);
        for _ in 0..3 {
            hints.learn(&"web", 3 << 20);
        }
        assert_eq!(hints.expect(&"web"), FlowClass::Bulk);
    }

    #[test]
    fn memory_for_hints_is_bounded() {
        let mut hints = ClassHints::default();
        hints.learn(&0_u32, 1 << 30);
        for key in 1..10_000_u32 {
            hints.learn(&0, 1 << 30);
            hints.learn(&key, 1);
        }
        assert_eq!(hints.known.len(), HINTS_MAX);
        assert_eq!(hints.expect(&0), FlowClass::Bulk);
    }
}
