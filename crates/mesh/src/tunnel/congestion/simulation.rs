//! A bottleneck and senders that drive their controllers as quinn does: a window, with [`Knocks`] around it, a pacer at 1.25
//! windows per smoothed round trip in bursts of 2 ms, loss by three packets or 9/8 of a round trip, acknowledgements of every
//! second packet. With `ISTHMUS_TRACE=1` it tells every 20 ms what goes on.

mod cubic;
mod flow;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use super::WanCongestion;
use crate::KNOCK_EVERY;
use flow::{Flow, Outstanding};

pub(super) use cubic::Cubic;
pub(super) use flow::Application;

pub(super) const PACKET: u64 = 1_452;
const MAX_ACK_DELAY: Duration = Duration::from_millis(25);

/// What a sender asks of its congestion controller.
pub(super) trait Controller {
    fn sent(&mut self, now: Instant, bytes: u64);
    fn ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, trip: Duration);
    fn acks_end(&mut self, now: Instant, in_flight: u64, app_limited: bool);
    fn loss(&mut self, now: Instant, sent: Instant, bytes: u64, persistent: bool);
    fn window(&self) -> u64;
    fn say(&self) -> String;
}

impl Controller for WanCongestion {
    fn sent(&mut self, now: Instant, bytes: u64) {
        self.handle_sent(now, bytes);
    }

    fn ack(&mut self, now: Instant, sent: Instant, bytes: u64, _app_limited: bool, _trip: Duration) {
        self.handle_ack(now, sent, bytes);
    }

    fn acks_end(&mut self, now: Instant, in_flight: u64, app_limited: bool) {
        self.handle_acks_end(now, in_flight, app_limited);
    }

    fn loss(&mut self, now: Instant, sent: Instant, bytes: u64, persistent: bool) {
        self.handle_loss(now, sent, bytes, persistent);
    }

    fn window(&self) -> u64 {
        self.window()
    }

    fn say(&self) -> String {
        let seen = self.seen();
        format!(
            "{} {:.1} Mbit/s, {:.1} ms, {:.1} %",
            seen.phase,
            seen.rate * 8e-6,
            seen.round_trip.as_secs_f64() * 1e3,
            seen.chance * 100.0
        )
    }
}

/// A direction of a link, as `isthmus-wan` has it: chance first, then the queue, then the way.
#[derive(Debug, Clone)]
pub(super) struct Path {
    /// Bits per second.
    pub(super) rate: f64,
    /// There and back.
    pub(super) round_trip: Duration,
    /// Bytes that wait at most.
    pub(super) queue: f64,
    /// Share of packets, in each direction.
    pub(super) loss: f64,
    /// The way of a packet is longer or shorter by so much at most.
    pub(super) jitter: Duration,
    /// Acknowledgements arrive together that would arrive within so much.
    pub(super) heaps: Duration,
    /// Nothing is heard for so long in each tenth of a second: a process waits for a CPU.
    pub(super) stalls: Duration,
}

impl Path {
    /// A path with a queue of so many bandwidth-delay products.
    pub(super) fn new(mbit: f64, round_trip_ms: u64, queue: f64, loss_percent: f64) -> Self {
        let round_trip = Duration::from_millis(round_trip_ms);
        Self {
            rate: mbit * 1e6,
            round_trip,
            queue: queue * mbit * 1e6 / 8.0 * round_trip.as_secs_f64(),
            loss: loss_percent / 100.0,
            jitter: Duration::ZERO,
            heaps: Duration::ZERO,
            stalls: Duration::ZERO,
        }
    }
}

/// What a flow did in one interval.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    /// Bytes that arrived.
    arrived: u64,
    sent: u64,
    /// Packets that the full queue dropped.
    overflowed: u64,
    /// Packets that entered the queue, and how long all of them waited.
    queued: u64,
    waited: Duration,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Arrive { flow: usize, number: u64 },
    AckTimer { flow: usize, number: u64 },
    Acked { flow: usize, numbers: Vec<u64> },
    Wake { flow: usize },
}

pub(super) struct Simulation {
    start: Instant,
    now: Instant,
    path: Path,
    changes: VecDeque<(u64, Path)>,
    flows: Vec<Flow>,
    events: BinaryHeap<Reverse<(Instant, u64, What)>>,
    order: u64,
    /// When the link has sent all that waits.
    busy_until: Instant,
    random: u64,
    tracing: bool,
}

/// Tallies are of a tenth of a second.
const TALLY: Duration = Duration::from_millis(100);

impl Simulation {
    pub(super) fn new(path: Path, seed: u64) -> Self {
        let start = Instant::now();
        Self {
            start,
            now: start,
            path,
            changes: VecDeque::new(),
            flows: Vec::new(),
            events: BinaryHeap::new(),
            order: 0,
            busy_until: start,
            random: seed.wrapping_mul(2) | 1,
            tracing: std::env::var_os("ISTHMUS_TRACE").is_some(),
        }
    }

    /// Its start.
    pub(super) fn start(&self) -> Instant {
        self.start
    }

    /// The path becomes another at these times, in milliseconds.
    pub(super) fn changes(mut self, changes: Vec<(u64, Path)>) -> Self {
        self.changes = changes.into();
        self
    }

    /// A flow that sends from then until then, in milliseconds.
    pub(super) fn flow(
        mut self,
        controller: Box<dyn Controller>,
        application: Application,
        from: u64,
        until: u64,
    ) -> Self {
        let flow = self.flows.len();
        self.flows.push(Flow::new(controller, application, self.start, until));
        let at = self.start + Duration::from_millis(from);
        self.wake_at(flow, at);
        self
    }

    /// Until so many milliseconds after the start.
    pub(super) fn run(&mut self, milliseconds: u64) {
        let end = self.start + Duration::from_millis(milliseconds);
        let mut traced = 0;
        while let Some(Reverse((at, _, _))) = self.events.peek()
            && *at < end
        {
            let Some(Reverse((at, _, what))) = self.events.pop() else { return };
            self.now = at;
            let elapsed = (at - self.start).as_millis();
            while self.changes.front().is_some_and(|(when, _)| u128::from(*when) <= elapsed) {
                let Some((_, path)) = self.changes.pop_front() else { return };
                // What waits takes the new rate.
                let waiting = self.busy_until.saturating_duration_since(at).mul_f64(self.path.rate / path.rate);
                self.busy_until = at + waiting;
                self.path = path;
            }
            if self.tracing && elapsed / 20 != traced {
                traced = elapsed / 20;
                self.trace();
            }
            self.handle(what);
        }
    }

    fn trace(&self) {
        let waits = self.busy_until.saturating_duration_since(self.now);
        eprint!("{:6} ms queue {:5.1} ms", (self.now - self.start).as_millis(), waits.as_secs_f64() * 1e3);
        for flow in &self.flows {
            eprint!(
                " | window {:5} in flight {:5} {}",
                flow.controller.window() / PACKET,
                flow.in_flight / PACKET,
                flow.controller.say()
            );
        }
        eprintln!();
    }

    fn handle(&mut self, what: What) {
        match what {
            What::Arrive { flow, number } => {
                self.tally(flow, |tally| tally.arrived += PACKET);
                let receiver = &mut self.flows[flow];
                let in_order = receiver.expected == number;
                receiver.expected = receiver.expected.max(number + 1);
                receiver.unacknowledged.push(number);
                // Every second packet, and one that comes out of order (RFC 9000, section 13.2.1).
                if receiver.unacknowledged.len() >= 2 || !in_order {
                    self.acknowledge(flow);
                } else {
                    let at = self.now + MAX_ACK_DELAY;
                    self.push(at, What::AckTimer { flow, number });
                }
            }
            What::AckTimer { flow, number } => {
                if self.flows[flow].unacknowledged.contains(&number) {
                    self.acknowledge(flow);
                }
            }
            What::Acked { flow, numbers } => self.acked(flow, &numbers),
            What::Wake { flow } => {
                if self.flows[flow].wake.is_some_and(|at| at <= self.now) {
                    self.flows[flow].wake = None;
                    self.timers(flow);
                    self.send(flow);
                }
            }
        }
    }

    fn acknowledge(&mut self, flow: usize) {
        if self.random() < self.path.loss {
            // The next one repeats what it said.
            return;
        }
        let numbers = std::mem::take(&mut self.flows[flow].unacknowledged);
        let mut at = self.now + self.path.round_trip / 2;
        if !self.path.heaps.is_zero() {
            let step = self.path.heaps.as_nanos();
            let nanos = (at - self.start).as_nanos().div_ceil(step) * step;
            at = self.start + Duration::from_nanos(u64::try_from(nanos).expect("a short simulation"));
        }
        let tenth = Duration::from_millis(100).as_nanos();
        let into = u64::try_from((at - self.start).as_nanos() % tenth).expect("less than a second");
        at += self.path.stalls.saturating_sub(Duration::from_nanos(into));
        self.push(at, What::Acked { flow, numbers });
    }

    fn acked(&mut self, index: usize, numbers: &[u64]) {
        let now = self.now;
        let flow = &mut self.flows[index];
        let largest = numbers.iter().copied().max().unwrap_or(0);
        let mut any = false;
        let mut newest = None;
        let mut sorted = numbers.to_vec();
        sorted.sort_unstable();
        for number in sorted {
            let Some(first) = flow.outstanding.front().map(|packet| packet.number) else { break };
            let Some(packet) = number
                .checked_sub(first)
                .and_then(|at| flow.outstanding.get_mut(usize::try_from(at).expect("an index")))
            else {
                continue;
            };
            if packet.done {
                continue;
            }
            packet.done = true;
            any = true;
            newest = Some(packet.at);
            let at = packet.at;
            flow.in_flight -= PACKET;
            let trip = flow.smoothed.unwrap_or(flow.latest);
            flow.knocks.heard(now, trip);
            flow.controller.ack(now, at, PACKET, flow.app_limited, trip);
        }
        if !any {
            return;
        }
        flow.knocks.under_way(flow.in_flight);
        flow.controller.acks_end(now, flow.in_flight, flow.app_limited);
        flow.probe_count = 0;
        if flow.largest_acked.is_none_or(|before| largest > before) {
            flow.largest_acked = Some(largest);
            if let Some(sent) = newest {
                flow.trip(now - sent);
            }
        }
        self.find_lost(index, true);
        self.send(index);
    }

    fn find_lost(&mut self, index: usize, by_ack: bool) {
        let now = self.now;
        let flow = &mut self.flows[index];
        let Some(largest) = flow.largest_acked else { return };
        let limit = flow.loss_delay();
        let period = flow.probe_timeout() * 3;
        let (mut lost, mut newest, mut since, mut persistent) = (0, None, None::<Instant>, false);
        for packet in &mut flow.outstanding {
            if packet.number >= largest {
                break;
            }
            if packet.done {
                since = None;
                continue;
            }
            if packet.number + 3 <= largest || now - packet.at >= limit {
                packet.done = true;
                lost += PACKET;
                newest = Some(packet.at);
                let first = *since.get_or_insert(packet.at);
                persistent |= by_ack && packet.at - first > period;
            } else {
                break;
            }
        }
        while flow.outstanding.front().is_some_and(|packet| packet.done) {
            flow.outstanding.pop_front();
        }
        flow.in_flight -= lost;
        if let Some(newest) = newest {
            flow.knocks.lost(lost);
            flow.controller.loss(now, newest, lost, persistent);
        }
    }

    /// Packets that are too old are lost, and silence is probed.
    fn timers(&mut self, index: usize) {
        self.find_lost(index, false);
        let now = self.now;
        let flow = &mut self.flows[index];
        if flow.in_flight > 0 && flow.last_sent.is_some_and(|sent| now - sent >= flow.probe_after()) {
            flow.probes = 2;
            flow.probe_count += 1;
        }
    }

    fn send(&mut self, index: usize) {
        let now = self.now;
        loop {
            let flow = &mut self.flows[index];
            if now - self.start >= flow.ends {
                return;
            }
            let mut blocked = false;
            if flow.probes > 0 {
                flow.probes -= 1;
            } else if !flow.has_something(now, now - self.start) {
                flow.app_limited = true;
                break;
            } else if flow.in_flight + PACKET >= flow.knocks.window(now, flow.controller.window()) {
                blocked = true;
            } else if let Some(at) = flow.pace(now) {
                flow.app_limited = false;
                self.wake_at(index, at);
                break;
            }
            if blocked {
                flow.app_limited = false;
                break;
            }
            flow.tokens = (flow.tokens - PACKET as f64).max(0.0);
            flow.credit = (flow.credit - PACKET as f64).max(0.0);
            let number = flow.next;
            flow.next += 1;
            flow.outstanding.push_back(Outstanding { number, at: now, done: false });
            flow.in_flight += PACKET;
            flow.last_sent = Some(now);
            flow.knocks.sent(now, PACKET);
            flow.controller.sent(now, PACKET);
            self.tally(index, |tally| tally.sent += PACKET);
            self.enqueue(index, number);
        }
        let flow = &self.flows[index];
        let mut wake = None;
        if flow.in_flight > 0
            && let Some(sent) = flow.last_sent
        {
            wake = Some(sent + flow.probe_after());
            if let (Some(largest), Some(first)) = (flow.largest_acked, flow.outstanding.front())
                && first.number < largest
            {
                wake = wake.min(Some(first.at + flow.loss_delay()));
            }
        }
        if flow.in_flight > 0 {
            // Gateways probe connections with flows twice a second.
            wake = wake.min(Some(now + KNOCK_EVERY));
        }
        if let Some(rate) = flow.steady(now - self.start) {
            let at = now + Duration::from_secs_f64((PACKET as f64 - flow.credit).max(1.0) / rate);
            wake = Some(wake.map_or(at, |before| before.min(at)));
        }
        if let Some(at) = wake {
            self.wake_at(index, at.max(now + Duration::from_micros(1)));
        }
    }

    fn enqueue(&mut self, flow: usize, number: u64) {
        if self.random() < self.path.loss {
            return;
        }
        let waits = self.busy_until.saturating_duration_since(self.now);
        let bytes = waits.as_secs_f64() * self.path.rate / 8.0;
        if bytes + PACKET as f64 > self.path.queue.max(2.0 * PACKET as f64) {
            self.tally(flow, |tally| tally.overflowed += 1);
            return;
        }
        let serialization = Duration::from_secs_f64(PACKET as f64 * 8.0 / self.path.rate);
        self.busy_until = self.busy_until.max(self.now) + serialization;
        self.tally(flow, |tally| {
            tally.queued += 1;
            tally.waited += waits;
        });
        let jitter = self.path.jitter.mul_f64(2.0 * self.random());
        let way = self.path.round_trip / 2 + jitter;
        self.push(self.busy_until + way.saturating_sub(self.path.jitter), What::Arrive { flow, number });
    }

    fn wake_at(&mut self, flow: usize, at: Instant) {
        if self.flows[flow].wake.is_none_or(|before| at < before) {
            self.flows[flow].wake = Some(at);
            self.push(at, What::Wake { flow });
        }
    }

    fn push(&mut self, at: Instant, what: What) {
        self.order += 1;
        self.events.push(Reverse((at, self.order, what)));
    }

    /// 0 to 1, xorshift.
    fn random(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn tally(&mut self, flow: usize, change: impl FnOnce(&mut Tally)) {
        let at = usize::try_from((self.now - self.start).as_nanos() / TALLY.as_nanos()).expect("a short simulation");
        let tallies = &mut self.flows[flow].tallies;
        if tallies.len() <= at {
            tallies.resize(at + 1, Tally::default());
        }
        change(&mut tallies[at]);
    }

    /// What a flow did between two moments, in milliseconds.
    pub(super) fn between(&self, flow: usize, from: u64, until: u64) -> Tally {
        let index = |ms: u64| usize::try_from(u128::from(ms) / TALLY.as_millis()).expect("short");
        let tallies = &self.flows[flow].tallies;
        let (from, until) = (index(from).min(tallies.len()), index(until).min(tallies.len()));
        tallies[from..until].iter().fold(Tally::default(), |sum, one| Tally {
            arrived: sum.arrived + one.arrived,
            sent: sum.sent + one.sent,
            overflowed: sum.overflowed + one.overflowed,
            queued: sum.queued + one.queued,
            waited: sum.waited + one.waited,
        })
    }
}

impl Tally {
    /// Megabits per second that arrived in so many milliseconds.
    pub(super) fn mbit(&self, milliseconds: u64) -> f64 {
        self.arrived as f64 * 8e-3 / milliseconds as f64
    }

    /// Megabits per second that were sent in so many milliseconds.
    pub(super) fn sent_mbit(&self, milliseconds: u64) -> f64 {
        self.sent as f64 * 8e-3 / milliseconds as f64
    }

    /// Of the packets sent, in percent.
    pub(super) fn overflow_percent(&self) -> f64 {
        self.overflowed as f64 * 100.0 / (self.sent as f64 / PACKET as f64).max(1.0)
    }

    /// Milliseconds that a packet waited on average.
    pub(super) fn wait_ms(&self) -> f64 {
        self.waited.as_secs_f64() * 1e3 / (self.queued as f64).max(1.0)
    }
}
