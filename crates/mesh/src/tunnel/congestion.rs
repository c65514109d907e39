//! `WanCongestion`: how much may be under way on a connection over a wide area network.
//!
//! After BBRv3 (draft-ietf-ccwg-bbr), fitted to a transport that paces at 1.25 windows per smoothed round trip and takes
//! nothing but a window from its controller. A window of what the path holds, rate times round trip, clocks itself: what is
//! sent is what is acknowledged, and pacing only smoothes bursts.
//!
//! * **The rate** is the largest that a round has delivered of late; rounds with too little to send never lower it.
//! * **The round trip** is that of rounds in which this connection kept its part of the queue empty.
//! * **Loss** while little is under way is chance and costs nothing; what is lost beyond that lowers a ceiling.
//!
//! It doubles the window each round until packets begin to wait, the rate stops growing, or a queue overflows; lets the queue
//! run empty; then *cruises* a little above what the path holds. Every dozen rounds it goes *up* by a quarter to see whether more
//! is delivered, and *low* afterwards to see the way without its queue.
//!
//! Pure: time is an argument. Start reading at [`WanCongestion::handle_acks_end`].

mod loss;
mod phase;
mod rate;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod trip;

use std::time::{Duration, Instant};

use loss::Losses;
use phase::{Low, Phase};
use rate::{Delivered, Heaps, Mean, RateFilter, Round};
use trip::{Shortest, Trips};

/// The first window (RFC 9002, section 7.2).
const INITIAL_BYTES: u64 = 14_720;
const INITIAL_PACKETS: u64 = 10;
/// Never less than this may be under way.
const LEAST_PACKETS: u64 = 4;
/// Cruising, the window over what the path holds: it must be above one, so that the rate is seen to grow where it can.
const CRUISE: f64 = 1.1;
/// What may wait for the sake of short ways, on which timers and processes are a large part of the round trip.
const SLACK: Duration = Duration::from_millis(1);
/// Acknowledgements come for every second packet, and a packet leaves only if the window exceeds what is under way then.
const SLACK_PACKETS: u64 = 3;
/// Room for acknowledgements that come in heaps, over what the path holds.
const HEAPS_MAX: f64 = 0.3;
const UP: f64 = 1.25;
const LOW: f64 = 0.85;
/// Up to here nothing of this connection waits.
const NEARLY_LOW: f64 = 0.92;
/// While the shortest round trip is looked for.
const LOWEST: f64 = 0.5;
const LOWEST_FOR: Duration = Duration::from_millis(200);
/// Rounds that an ascent lasts: what is sent in the first is acknowledged in the second.
const UP_ROUNDS: u32 = 2;
/// Rounds of cruising, and how many more there may be, so that connections do not probe in step.
const CRUISE_ROUNDS: u32 = 8;
const CRUISE_MORE: u32 = 5;
/// Rounds of cruising after the start.
const FIRST_CRUISE: u32 = 2;
/// Rounds in a row in which packets wait and far less is delivered than before, until that is believed.
const SLOWER: u32 = 3;
/// Rounds in a row in which a queue overflows while this connection cruises, before it gives way: one or two are the ascent
/// of another.
const CROWDED: u32 = 3;
/// Packets lost in a round, a quarter of all, that end the start without waiting for the end of the round.
const BURST: u64 = 16;
/// Round trips from which a mean says something.
const SAMPLES: u32 = 8;

/// A congestion controller for one connection.
#[derive(Debug, Clone)]
pub struct WanCongestion {
    /// Bytes of the largest packet.
    packet: u64,
    /// Bytes sent and neither acknowledged nor lost, at most.
    in_flight: u64,
    window: u64,
    phase: Phase,
    round: Round,
    /// The most that was under way in the round before, in which most of what is lost now was sent.
    in_flight_before: u64,
    delivered: Delivered,
    /// The newest packet of those that are acknowledged together, and bytes of all.
    batch: Option<(Instant, u64)>,
    rate: RateFilter,
    heaps: Heaps,
    /// The rate of the last round that counted.
    last_rate: f64,
    /// Rounds in a row that say that the rate is far less than believed.
    slower: u32,
    /// Rounds in a row in which a queue overflowed.
    overflows: u32,
    trips: Trips,
    /// Round trips of late: the mean of a round comes late while the window doubles.
    recent: Shortest,
    losses: Losses,
    /// The state of a generator of small numbers.
    draw: u64,
}

/// What a controller believes, for debug pages and tests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CongestionSeen {
    /// `startup`, `low`, `cruise` or `up`.
    pub phase: &'static str,
    /// Bytes per second that the path delivers.
    pub rate: f64,
    /// The round trip without a queue of this connection.
    pub round_trip: Duration,
    /// The share of packets lost by chance.
    pub chance: f64,
}

impl WanCongestion {
    /// A connection that begins now, with the size of its largest packets. Connections with different seeds do not
    /// probe in step.
    pub fn new(now: Instant, packet: u16, seed: u64) -> Self {
        let packet = u64::from(packet).max(1);
        let delivered = Delivered { bytes: 0, at: now, newest_sent: now };
        Self {
            packet,
            in_flight: 0,
            window: Self::initial(packet),
            phase: Phase::Startup { best: 0.0, flat: 0 },
            round: Round::begin(now, delivered, 0),
            in_flight_before: 0,
            delivered,
            batch: None,
            rate: RateFilter::default(),
            heaps: Heaps::new(now),
            last_rate: 0.0,
            slower: 0,
            overflows: 0,
            trips: Trips::new(now),
            recent: Shortest::new(now),
            losses: Losses::default(),
            draw: seed | 1,
        }
    }

    /// Bytes that may be under way.
    pub fn window(&self) -> u64 {
        self.window
    }

    /// The first window of a connection, in bytes.
    pub fn initial_window(&self) -> u64 {
        Self::initial(self.packet)
    }

    /// What is believed of the path.
    pub fn seen(&self) -> CongestionSeen {
        CongestionSeen {
            phase: self.phase.as_str(),
            rate: self.rate.get(),
            round_trip: self.trips.base(),
            chance: self.losses.chance(),
        }
    }

    /// Largest packets have another size now.
    pub fn handle_mtu(&mut self, packet: u16) {
        self.packet = u64::from(packet).max(1);
        self.window = self.window.max(LEAST_PACKETS * self.packet);
    }

    /// So many bytes left.
    pub fn handle_sent(&mut self, now: Instant, bytes: u64) {
        if self.in_flight == 0 {
            // The time without anything under way is no part of a round.
            self.delivered = Delivered { at: now, newest_sent: now, ..self.delivered };
            self.round = Round::begin(now, self.delivered, 0);
        }
        self.in_flight += bytes;
        self.round.in_flight_max = self.round.in_flight_max.max(self.in_flight);
    }

    /// A packet was acknowledged, one of those that [`Self::handle_acks_end`] ends.
    pub fn handle_ack(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.delivered.bytes += bytes;
        self.delivered.at = now;
        self.round.acked += bytes;
        self.losses.acked(sent, bytes);
        let (newest, sum) = self.batch.unwrap_or((sent, 0));
        self.batch = Some((newest.max(sent), sum + bytes));
    }

    /// Packets were given up, or with no bytes: marked. `sent` is when the newest of them was sent. `persistent` is
    /// RFC 9002's persistent congestion: nothing came through for a while.
    pub fn handle_loss(&mut self, now: Instant, sent: Instant, bytes: u64, persistent: bool) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
        self.round.lost += bytes;
        self.round.marked |= bytes == 0;
        self.losses.lost(sent, bytes);
        let bursts = self.round.lost > BURST * self.packet && self.round.lost * 3 > self.round.acked;
        if bursts && matches!(self.phase, Phase::Startup { .. }) && self.rate.get() > 0.0 {
            self.go_low(now, LOW);
            self.set_window();
        }
        if persistent {
            self.start_again(now);
        }
    }

    /// All packets that were acknowledged together have been told; so many bytes are still under way. `app_limited`: there was
    /// nothing to send.
    pub fn handle_acks_end(&mut self, now: Instant, in_flight: u64, app_limited: bool) {
        self.in_flight = in_flight;
        let Some((newest, bytes)) = self.batch.take() else { return };
        if !matches!(self.phase, Phase::Startup { .. }) {
            self.heaps.take(now, bytes, self.rate.get());
        }
        // Packets that were overtaken say how long they were waited for, not how long the way is.
        if newest >= self.delivered.newest_sent {
            self.delivered.newest_sent = newest;
            let trip = now.saturating_duration_since(newest);
            self.round.trips.take(trip);
            self.recent.take(now, trip, self.trips.floor() / 4);
            if let Phase::Low(low) = &mut self.phase
                && low.settled.is_some_and(|settled| newest >= settled)
            {
                low.trips.take(trip);
            }
        }
        self.round.app_limited |= app_limited;
        if matches!(self.phase, Phase::Startup { .. }) && !app_limited {
            self.window += bytes;
        }
        let waits = match self.phase {
            Phase::Startup { .. } => self.recent.shortest().is_some_and(|trip| self.trips.is_queue(trip, true)),
            _ => self.round.trips.of(SAMPLES).is_some_and(|mean| self.trips.is_queue(mean, false)),
        };
        // What waits while little of this connection is under way is not its queue.
        let waits = waits && self.fills(&self.round);
        if newest >= self.round.started {
            self.end_round(now);
        }
        self.within_round(now, waits);
        self.set_window();
    }

    /// Whether a round has made use of the window.
    fn fills(&self, round: &Round) -> bool {
        !round.app_limited || round.in_flight_max * 2 >= self.window
    }

    /// What does not wait for the end of a round.
    fn within_round(&mut self, now: Instant, waits: bool) {
        match &mut self.phase {
            Phase::Startup { .. } if waits => {
                let least = self.trips.floor() / 4;
                if self.round.age(now) >= least {
                    self.rate.take(self.round.rate(self.delivered, least));
                }
                self.go_low(now, LOW);
            }
            Phase::Up { rounds, .. } if waits && *rounds >= 1 => self.go_low(now, LOW),
            Phase::Low(low) => {
                if low.settled.is_none() && self.in_flight <= low.window {
                    low.settled = Some(now);
                    self.losses.enter_low(now);
                }
                let hold = if low.searches { LOWEST_FOR } else { Duration::ZERO };
                let held = low.settled.is_some_and(|settled| now.saturating_duration_since(settled) >= hold);
                let samples = u32::try_from(low.window / self.packet / 8).unwrap_or(SAMPLES).clamp(2, SAMPLES * 8);
                if held && let Some(mean) = low.trips.of(samples) {
                    let (searches, first) = (low.searches, low.first);
                    self.trips.low(now, mean, searches);
                    self.losses.leave_low(now);
                    self.losses.fade(self.packet);
                    self.cruise(first);
                }
            }
            Phase::Startup { .. } | Phase::Up { .. } | Phase::Cruise { .. } => {}
        }
    }

    fn end_round(&mut self, now: Instant) {
        let next = Round::begin(now, self.delivered, self.in_flight);
        let round = std::mem::replace(&mut self.round, next);
        let rate = round.rate(self.delivered, self.trips.floor());
        let mean = round.trips.of(1);
        let waits = mean.is_some_and(|mean| self.trips.is_queue(mean, false));
        let excess = self.losses.excess(&round, self.packet);
        // Whoever fills a queue has enough to send.
        let app_limited = round.app_limited && !(waits && self.fills(&round));
        if let Some(mean) = mean {
            self.trips.round(now, mean, round.trips.count, app_limited);
        }
        let before = self.last_rate;
        if !app_limited {
            self.last_rate = rate;
        }
        if !app_limited || rate > self.rate.get() {
            self.rate.take(rate);
        }
        let under_way = self.in_flight_before.max(LEAST_PACKETS * self.packet);
        self.in_flight_before = round.in_flight_max;
        match &mut self.phase {
            Phase::Startup { best, flat } if !app_limited => {
                if rate >= *best * 1.25 {
                    (*best, *flat) = (rate, 0);
                } else {
                    *flat += 1;
                    if *flat >= 3 || excess.is_some() {
                        self.go_low(now, LOW);
                    }
                }
                return;
            }
            Phase::Startup { .. } => return,
            Phase::Low(_) | Phase::Cruise { .. } | Phase::Up { .. } => {}
        }
        self.overflows = if excess.is_some() { self.overflows + 1 } else { 0 };
        let own = !matches!(self.phase, Phase::Cruise { .. }) || self.overflows >= CROWDED;
        if let Some(excess) = excess
            && own
        {
            self.losses.overflowed(under_way, excess, LOW * self.path());
        }
        if (under_way as f64) < NEARLY_LOW * self.path() {
            self.losses.low_round(&round);
        }
        if !app_limited {
            self.end_full_round(now, (before, rate), waits || excess.is_some(), excess.is_some());
        }
    }

    /// A round that had enough to send.
    fn end_full_round(&mut self, now: Instant, (before, rate): (f64, f64), congested: bool, overflowed: bool) {
        let known = self.rate.get();
        self.slower = if congested && rate < 0.8 * known { self.slower + 1 } else { 0 };
        let target = self.target();
        match &mut self.phase {
            Phase::Cruise { .. } | Phase::Up { .. } if self.slower >= SLOWER => {
                self.slower = 0;
                self.rate.reset(rate.max(before));
                self.go_low(now, LOW);
            }
            Phase::Cruise { left, from } => {
                *left = left.saturating_sub(1);
                let grows = known > *from * 1.2;
                if self.trips.is_stale(now) {
                    self.go_low(now, LOWEST);
                } else if *left == 0 || grows {
                    self.rate.next_cycle();
                    self.heaps.next_cycle();
                    self.go_up(false);
                }
            }
            Phase::Up { .. } if overflowed => self.go_low(now, LOW),
            Phase::Up { rounds, from, enough, again } => {
                *rounds += 1;
                if *rounds >= UP_ROUNDS {
                    let (grew, again) = (known >= *from * *enough, *again);
                    self.losses.raise(target);
                    match (grew, again) {
                        (true, true) => {
                            self.phase = Phase::Startup { best: known, flat: 0 };
                            self.losses.forget_ceiling();
                        }
                        (true, false) => self.go_up(true),
                        (false, _) => self.go_low(now, LOW),
                    }
                }
            }
            Phase::Startup { .. } | Phase::Low(_) => {}
        }
    }

    fn go_low(&mut self, now: Instant, gain: f64) {
        let recent = if self.last_rate > 0.0 { self.last_rate * 1.1 } else { f64::MAX };
        let rate = self.rate.get().min(recent);
        let window = (self.holds(rate) * gain) as u64 + self.packet;
        let window = window.max(LEAST_PACKETS * self.packet);
        self.losses.leave_low(now);
        let (searches, first) = (gain < LOW, matches!(self.phase, Phase::Startup { .. }));
        self.phase = Phase::Low(Low { window, searches, first, settled: None, trips: Mean::default() });
    }

    fn go_up(&mut self, again: bool) {
        let enough = self.losses.growth(self.target(), UP);
        self.phase = Phase::Up { rounds: 0, from: self.rate.get(), enough, again };
    }

    fn cruise(&mut self, first: bool) {
        self.draw = self.draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let more = u32::try_from(self.draw >> 33).unwrap_or(0) % CRUISE_MORE;
        let left = match (first, self.losses.is_shallow()) {
            (true, _) => FIRST_CRUISE,
            (false, false) => CRUISE_ROUNDS + more,
            (false, true) => 2 * (CRUISE_ROUNDS + more),
        };
        self.phase = Phase::Cruise { left, from: self.rate.get() };
    }

    /// Nothing came through for a while: the path may be another one.
    fn start_again(&mut self, now: Instant) {
        self.losses.leave_low(now);
        self.losses.forget_ceiling();
        self.rate.reset(0.0);
        (self.last_rate, self.slower) = (0.0, 0);
        self.window = Self::initial(self.packet);
        self.phase = Phase::Startup { best: 0.0, flat: 0 };
    }

    /// What the path holds, and a little more.
    fn target(&self) -> f64 {
        let trip = self.trips.base().mul_f64(CRUISE) + SLACK;
        let path = self.rate.get() * trip.as_secs_f64() / (1.0 - self.losses.chance());
        // Two packets are acknowledged together anyway.
        let heaps = self.heaps.most() - (2 * self.packet) as f64;
        path + heaps.clamp(0.0, HEAPS_MAX * self.path()) + (SLACK_PACKETS * self.packet) as f64
    }

    /// What the path holds without a queue, as far as is known.
    fn path(&self) -> f64 {
        self.holds(self.rate.get())
    }

    fn holds(&self, rate: f64) -> f64 {
        rate * self.trips.floor().as_secs_f64() / (1.0 - self.losses.chance())
    }

    fn set_window(&mut self) {
        let window = match &self.phase {
            Phase::Startup { .. } => return,
            Phase::Low(low) => low.window as f64,
            Phase::Cruise { .. } => self.losses.bound(self.target(), false),
            Phase::Up { .. } => self.losses.bound(self.target() * UP, true),
        };
        self.window = (window as u64).max(LEAST_PACKETS * self.packet);
    }

    fn initial(packet: u64) -> u64 {
        INITIAL_BYTES.clamp(2 * packet, INITIAL_PACKETS * packet)
    }
}
