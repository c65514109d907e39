//! One direction of the link, for packets that may pass: loss, duplication, the queue of the rate, then the way.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Instant;

use crate::chance::Chance;
use crate::counters::{Counters, Drop};
use crate::lateness::Histogram;
use crate::spec::Conditions;

/// The most bytes, with [`PACKET_COST`] for each packet, that are on their way in one direction at a time: two seconds at 1 Gbit/s.
pub const BACKLOG_MAX: usize = 256 << 20;
/// What a packet costs beside its bytes.
const PACKET_COST: usize = 128;

/// See the module.
#[derive(Debug)]
pub(crate) struct Direction {
    conditions: Conditions,
    chance: Chance,
    pub(crate) counters: Counters,
    pub(crate) lateness: Histogram,
    /// Packets that wait for the rate, the first of which is being sent.
    waiting: VecDeque<Vec<u8>>,
    waiting_bytes: u64,
    /// When the first of `waiting` is sent.
    sent_at: Option<Instant>,
    /// Packets on their way, the next to arrive on top.
    way: BinaryHeap<Reverse<Travelling>>,
    way_cost: usize,
    /// Numbers packets in the order in which they left the queue, which decides between equal arrivals.
    next_number: u64,
}

#[derive(Debug)]
struct Travelling {
    arrives: Instant,
    number: u64,
    packet: Vec<u8>,
}

impl PartialEq for Travelling {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Travelling {}

impl PartialOrd for Travelling {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Travelling {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.arrives, self.number).cmp(&(other.arrives, other.number))
    }
}

impl Direction {
    pub(crate) fn new(conditions: Conditions, chance: Chance) -> Self {
        Self {
            conditions,
            chance,
            counters: Counters::default(),
            lateness: Histogram::default(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            sent_at: None,
            way: BinaryHeap::new(),
            way_cost: 0,
            next_number: 0,
        }
    }

    pub(crate) fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    /// Takes effect for packets that come now, and for the rate of those that wait; packets on their way stay on it.
    pub(crate) fn set(&mut self, now: Instant, conditions: Conditions) {
        self.advance(now);
        let rate_changed = self.conditions.rate != conditions.rate;
        self.conditions = conditions;
        if rate_changed {
            self.sent_at = self.waiting.front().map(|packet| now + self.sending_time(packet.len()));
            self.advance(now);
        }
    }

    /// A packet that may pass, which has been counted as received.
    pub(crate) fn handle_packet(&mut self, now: Instant, packet: Vec<u8>) {
        if self.chance.loses(self.conditions.loss) {
            return self.counters.drop(Drop::Loss, packet.len());
        }
        if self.chance.loses_in_burst(self.conditions.burst_loss) {
            return self.counters.drop(Drop::BurstLoss, packet.len());
        }
        self.advance(now);
        if self.chance.duplicates(self.conditions.duplicate) {
            self.counters.duplicated.add(packet.len());
            self.enqueue(now, packet.clone());
        }
        self.enqueue(now, packet);
    }

    fn enqueue(&mut self, now: Instant, packet: Vec<u8>) {
        if self.conditions.rate.is_none() {
            return self.depart(now, packet);
        }
        let length = packet.len() as u64;
        // A packet is always taken by an empty queue, or one that is larger than the queue would never pass.
        if !self.waiting.is_empty() && self.waiting_bytes + length > self.conditions.queue_bytes() {
            return self.counters.drop(Drop::Queue, packet.len());
        }
        if self.waiting.is_empty() {
            self.sent_at = Some(now + self.sending_time(packet.len()));
        }
        self.waiting_bytes += length;
        self.counters.queued.add(packet.len());
        self.waiting.push_back(packet);
    }

    fn sending_time(&self, bytes: usize) -> std::time::Duration {
        self.conditions.rate.map(|rate| rate.time_of(bytes)).unwrap_or_default()
    }

    /// Lets packets leave the queue that have been sent by `now`, each at its own time.
    fn advance(&mut self, now: Instant) {
        while let Some(sent_at) = self.sent_at.filter(|at| *at <= now) {
            let Some(packet) = self.waiting.pop_front() else { break };
            self.waiting_bytes -= packet.len() as u64;
            self.counters.queued.remove(packet.len());
            self.depart(sent_at, packet);
            self.sent_at = self.waiting.front().map(|next| sent_at + self.sending_time(next.len()));
        }
    }

    fn depart(&mut self, now: Instant, packet: Vec<u8>) {
        let cost = packet.len() + PACKET_COST;
        if self.way_cost + cost > BACKLOG_MAX {
            return self.counters.drop(Drop::Backlog, packet.len());
        }
        let overtakes = self.chance.reorders(self.conditions.reorder);
        let delay = self.chance.delay(self.conditions.delay.0, self.conditions.jitter.0);
        self.counters.reordered += u64::from(overtakes);
        self.counters.queued.add(packet.len());
        self.way_cost += cost;
        self.next_number += 1;
        let arrives = if overtakes { now } else { now + delay };
        self.way.push(Reverse(Travelling { arrives, number: self.next_number, packet }));
    }

    /// When the next packet arrives, as far as is known by `now`.
    pub(crate) fn next_arrival(&mut self, now: Instant) -> Option<Instant> {
        self.advance(now);
        self.way.peek().map(|Reverse(next)| next.arrives)
    }

    /// The next packet that has arrived by `now`.
    pub(crate) fn poll_deliver(&mut self, now: Instant) -> Option<Vec<u8>> {
        let due = self.next_arrival(now).is_some_and(|arrives| arrives <= now);
        let Reverse(Travelling { arrives, packet, .. }) = if due { self.way.pop()? } else { return None };
        self.way_cost -= packet.len() + PACKET_COST;
        self.counters.queued.remove(packet.len());
        self.counters.delivered.add(packet.len());
        self.lateness.record(now.saturating_duration_since(arrives));
        Some(packet)
    }

    /// A delivered packet was not taken.
    pub(crate) fn handle_refused(&mut self, bytes: usize) {
        self.counters.delivered.remove(bytes);
        self.counters.drop(Drop::Device, bytes);
    }

    /// No packet arrives before.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let arrives = self.way.peek().map(|Reverse(next)| next.arrives);
        let Conditions { delay, jitter, reorder, .. } = &self.conditions;
        let least = if reorder.is_zero() { delay.0.saturating_sub(jitter.0) } else { std::time::Duration::ZERO };
        let leaves = self.sent_at.map(|at| at + least);
        arrives.into_iter().chain(leaves).min()
    }
}
