//! `Batching`: when a socket that receives bulk rests for a moment, so that packets are taken in batches.
//!
//! At 100 Mbit/s packets arrive every 0.12 ms. Each one alone wakes the socket, its connection and the flow, is acknowledged with its
//! neighbour and passed on in a write of its own, all the way to the client. Network cards moderate their interrupts for the
//! same reason.

use std::time::{Duration, Instant};

/// How long arrivals are counted for.
const WINDOW: Duration = Duration::from_millis(10);
/// Bytes in a window from which on it is bulk (8 Mbit/s). Below, nothing waits.
const BULK: u64 = 10 << 10;
/// Bytes of a packet that likely belongs to bulk. Many small ones are requests, which do not wait.
const FULL: u64 = 1000;
/// Bytes of a batch: what makes waking up cheap beside the rest of the work.
const BATCH: u64 = 16 << 10;
/// The shortest rest is a tick of timers, the longest is short beside what a person or a retry notices.
const REST: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(4));
/// Bytes in a window from which on nothing waits (320 Mbit/s): bulk comes in batches by itself, and the buffers that kernels give to
/// sockets (enough for some 250 KiB of packets by default) should never be near their end.
const FAST: u64 = 400 << 10;
/// A rest is at most such a part of the shortest round trip.
const PART: u32 = 32;
/// How long a round trip counts.
const REMEMBERED: Duration = Duration::from_secs(2);

/// The shortest round trip of late of the connections of one socket.
#[derive(Debug, Clone, Default)]
pub struct ShortestTrip {
    now: Option<Trip>,
    before: Option<Duration>,
}

/// The shortest since then.
#[derive(Debug, Clone, Copy)]
struct Trip {
    since: Instant,
    shortest: Duration,
}

impl ShortestTrip {
    /// A connection has measured one.
    pub fn measured(&mut self, now: Instant, trip: Duration) {
        match &mut self.now {
            Some(current) if now.saturating_duration_since(current.since) < REMEMBERED => {
                current.shortest = current.shortest.min(trip);
            }
            current => {
                let fresh = |it: &Trip| now.saturating_duration_since(it.since) < 2 * REMEMBERED;
                self.before = current.as_ref().filter(|it| fresh(it)).map(|it| it.shortest);
                *current = Some(Trip { since: now, shortest: trip });
            }
        }
    }

    /// The shortest of the last two to four seconds; `None`: none was measured.
    pub fn get(&self, now: Instant) -> Option<Duration> {
        let current = self.now.filter(|it| now.saturating_duration_since(it.since) < 2 * REMEMBERED)?;
        Some(self.before.map_or(current.shortest, |before| before.min(current.shortest)))
    }
}

/// What one socket has received of late.
#[derive(Debug, Clone)]
pub struct Batching {
    since: Instant,
    now: Seen,
    /// Bytes of the window before, if it was bulk.
    bulk: Option<u64>,
}

/// What came within one window.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    bytes: u64,
    packets: u64,
}

impl Seen {
    /// Mostly large packets.
    fn is_full(self) -> bool {
        self.bytes >= FULL * self.packets
    }
}

impl Batching {
    /// Nothing was received.
    pub fn new(now: Instant) -> Self {
        Self { since: now, now: Seen::default(), bulk: None }
    }

    /// All that was there has been received: so many packets of so many bytes altogether, on connections with this shortest
    /// round trip. How long to rest before looking for more, in whole milliseconds.
    ///
    /// A rest is as long as a batch takes to come at the rate of late, a millisecond at least, and short beside the round trip.
    /// Where a millisecond is not short, or the distance is unknown, nothing waits.
    pub fn received(
        &mut self,
        now: Instant,
        packets: usize,
        bytes: usize,
        round_trip: Option<Duration>,
    ) -> Option<Duration> {
        let age = now.saturating_duration_since(self.since);
        if age >= WINDOW {
            let rate = u128::from(self.now.bytes) * WINDOW.as_nanos() / age.as_nanos();
            let is_bulk = age < 2 * WINDOW && self.now.is_full() && rate >= u128::from(BULK);
            self.bulk = is_bulk.then(|| u64::try_from(rate).unwrap_or(u64::MAX));
            (self.since, self.now) = (now, Seen::default());
        }
        self.now.packets += packets as u64;
        self.now.bytes += bytes as u64;
        let rate = self.bulk.filter(|_| self.now.is_full())?.max(self.now.bytes);
        let may = (round_trip? / PART).min(REST.1);
        if rate >= FAST || may < REST.0 {
            return None;
        }
        let filled = WINDOW * u32::try_from(BATCH).unwrap_or(u32::MAX) / u32::try_from(rate).unwrap_or(u32::MAX);
        let rest = filled.clamp(REST.0, may);
        Some(Duration::from_millis(u64::try_from(rest.as_millis()).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const FAR: Option<Duration> = Some(Duration::from_millis(80));

    /// What so many packets at such intervals come to in 200 ms, of which the first 20 do not count.
    #[derive(Debug)]
    struct Taken {
        looks: u32,
        packets: usize,
        rests: u32,
        longest: Duration,
    }

    fn taken(interval: Duration, at_once: usize, bytes: usize, round_trip: Option<Duration>) -> Taken {
        let start = Instant::now();
        let (mut batching, mut look) = (Batching::new(start), start);
        let mut taken = Taken { looks: 0, packets: 0, rests: 0, longest: Duration::ZERO };
        let (mut arrival, mut waiting) = (start, 0);
        while look < start + 200 * MS {
            while arrival <= look {
                (arrival, waiting) = (arrival + interval, waiting + at_once);
            }
            let rest = batching.received(look, waiting, waiting * bytes, round_trip);
            if look >= start + 20 * MS {
                (taken.looks, taken.packets) = (taken.looks + 1, taken.packets + waiting);
                taken.rests += u32::from(rest.is_some());
                taken.longest = taken.longest.max(rest.unwrap_or_default());
            }
            waiting = 0;
            look = arrival.max(look + rest.unwrap_or_default());
        }
        taken
    }

    fn bulk(mbit: u64, round_trip: Option<Duration>) -> Taken {
        taken(Duration::from_nanos(1400 * 8 * 1000 / mbit), 1, 1400, round_trip)
    }

    #[test]
    fn bulk_on_a_wan_is_taken_in_batches() {
        for (mbit, at_once) in [(10, 1.5), (20, 3.0), (50, 8.0), (100, 8.0), (200, 16.0), (300, 24.0)] {
            let taken = bulk(mbit, FAR);
            #[expect(clippy::cast_precision_loss, reason = "few packets")]
            let batch = taken.packets as f64 / f64::from(taken.looks);
            assert!(batch >= at_once && taken.longest <= REST.1, "{mbit} Mbit/s: {taken:?}");
        }
    }

    #[test]
    fn no_more_comes_during_a_rest_than_a_socket_holds() {
        for mbit in (10..1000).step_by(10) {
            let taken = bulk(mbit, FAR);
            let bytes = taken.longest.as_micros() * u128::from(mbit) / 8;
            assert!(bytes <= 48 << 10, "{mbit} Mbit/s: {taken:?}");
        }
    }

    #[test]
    fn requests_slow_bulk_and_what_comes_in_batches_anyway_do_not_wait() {
        let us = Duration::from_micros;
        for (interval, at_once, bytes, what) in [
            (us(500), 1, 600, "2,000 requests a second"),
            (us(50), 1, 600, "20,000 of them"),
            (3 * MS, 1, 1400, "4 Mbit/s"),
            (30 * MS, 9, 1400, "an answer now and then"),
            (us(200), 32, 1400, "1.8 Gbit/s"),
        ] {
            assert_eq!(taken(interval, at_once, bytes, FAR).rests, 0, "{what}");
        }
    }

    #[test]
    fn near_peers_and_those_whose_distance_is_unknown_do_not_wait() {
        for round_trip in [None, Some(MS / 2), Some(10 * MS), Some(20 * MS)] {
            assert_eq!(bulk(100, round_trip).rests, 0, "{round_trip:?}");
        }
        assert_eq!(bulk(100, Some(40 * MS)).longest, MS);
    }

    #[test]
    fn the_shortest_round_trip_counts_for_a_while() {
        let (start, mut trips) = (Instant::now(), ShortestTrip::default());
        let at = |ms| start + ms * MS;
        assert_eq!(trips.get(start), None);
        trips.measured(at(0), 80 * MS);
        trips.measured(at(100), 2 * MS);
        trips.measured(at(200), 90 * MS);
        assert_eq!(trips.get(at(1000)), Some(2 * MS));
        trips.measured(at(2100), 80 * MS);
        assert_eq!(trips.get(at(2200)), Some(2 * MS), "a window later");
        trips.measured(at(4200), 85 * MS);
        assert_eq!(trips.get(at(4300)), Some(80 * MS), "forgotten");
        assert_eq!(trips.get(at(9000)), None, "silence");
    }
}
