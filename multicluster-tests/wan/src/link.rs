//! The link: two directions, what stands at their entries, and the messages that go back.

use std::collections::VecDeque;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::chance::{self, Chance};
use crate::counters::{Counters, Drop};
use crate::direction::Direction;
use crate::fragment::fragments;
use crate::icmp;
use crate::lateness::Lateness;
use crate::nat::{Nat, Rebind, RebindError};
use crate::packet::{Header, protocol};
use crate::spec::{Conditions, LinkSpec, Side};

/// A link between two sides, without clock, randomness or devices of its own.
///
/// Feed it with [`handle_packet`](Self::handle_packet), take from [`poll_deliver`](Self::poll_deliver) until it is empty, and come
/// back at [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct Link {
    /// By the side at which packets enter.
    directions: [Direction; 2],
    nat: Option<Nat>,
    seed: u64,
    /// Messages of the link itself, and whom they are for.
    messages: VecDeque<(Side, Vec<u8>)>,
}

/// All that can be seen of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// What makes the random decisions the same again.
    pub seed: u64,
    /// What is set.
    pub link: LinkSpec,
    /// Counters of packets that entered at the left.
    pub left_to_right: Counters,
    /// Counters of packets that entered at the right.
    pub right_to_left: Counters,
    /// How late packets were delivered to the right.
    pub left_to_right_lateness: Lateness,
    /// How late packets were delivered to the left.
    pub right_to_left_lateness: Lateness,
    /// Translations in use.
    pub nat_mappings: u64,
}

impl Status {
    /// Counters of packets that entered at `side`.
    pub fn counters(&self, side: Side) -> &Counters {
        match side {
            Side::Left => &self.left_to_right,
            Side::Right => &self.right_to_left,
        }
    }

    /// How late packets were delivered that entered at `side`.
    pub fn lateness(&self, side: Side) -> Lateness {
        match side {
            Side::Left => self.left_to_right_lateness,
            Side::Right => self.right_to_left_lateness,
        }
    }
}

impl Link {
    /// A link whose random decisions follow from `seed`.
    pub fn new(spec: LinkSpec, seed: u64) -> Self {
        let LinkSpec { left_to_right, right_to_left, nat } = spec;
        Self {
            directions: [
                Direction::new(left_to_right, Chance::new(seed, 0)),
                Direction::new(right_to_left, Chance::new(seed, 1)),
            ],
            nat: nat.map(|nat| Nat::new(nat, chance::stream(seed, 1))),
            seed,
            messages: VecDeque::new(),
        }
    }

    /// What is set.
    pub fn spec(&self) -> LinkSpec {
        LinkSpec {
            left_to_right: self.directions[0].conditions().clone(),
            right_to_left: self.directions[1].conditions().clone(),
            nat: self.nat.as_ref().map(|nat| nat.spec().clone()),
        }
    }

    /// Puts other conditions in place. Packets on their way stay on it; a translation that stays the same keeps its mappings.
    pub fn set(&mut self, now: Instant, spec: LinkSpec) {
        let LinkSpec { left_to_right, right_to_left, nat } = spec;
        self.directions[0].set(now, left_to_right);
        self.directions[1].set(now, right_to_left);
        if self.nat.as_ref().map(Nat::spec) != nat.as_ref() {
            self.nat = nat.map(|nat| Nat::new(nat, chance::stream(self.seed, 1)));
        }
    }

    /// Forgets all translations, so that the next packet of each flow leaves with another port or address.
    ///
    /// # Errors
    /// There is no translation, or no other address.
    pub fn rebind(&mut self, what: Rebind) -> Result<(), RebindError> {
        self.nat.as_mut().ok_or(RebindError::NoNat)?.rebind(what)
    }

    /// A packet that came out of the device of `from`.
    pub fn handle_packet(&mut self, now: Instant, from: Side, packet: Vec<u8>) {
        let direction = &mut self.directions[from.index()];
        direction.counters.received.add(packet.len());
        let Some(header) = Header::parse(&packet) else {
            return direction.counters.drop(Drop::Malformed, packet.len());
        };
        match admit(direction.conditions(), &header) {
            Err(cause) => direction.counters.drop(cause, packet.len()),
            Ok(()) => self.measure(now, from, &header, packet),
        }
    }

    /// Refuses a packet that does not fit and must not be cut; translates the others and cuts what is too large.
    fn measure(&mut self, now: Instant, from: Side, header: &Header, mut packet: Vec<u8>) {
        let mtu = self.directions[from.index()].conditions().mtu.filter(|mtu| packet.len() > usize::from(*mtu));
        if let Some(mtu) = mtu.filter(|_| header.dont_fragment) {
            return self.refuse(from, header, &packet, mtu);
        }
        let translated = self.nat.as_mut().is_none_or(|nat| nat.translate(now, from, header, &mut packet));
        let direction = &mut self.directions[from.index()];
        match mtu {
            _ if !translated => direction.counters.drop(Drop::Nat, packet.len()),
            None => direction.handle_packet(now, packet),
            Some(mtu) => {
                let parts = fragments(&packet, header.payload, mtu);
                let bytes: usize = parts.iter().map(Vec::len).sum();
                direction.counters.fragmented.packets += parts.len().saturating_sub(1) as u64;
                direction.counters.fragmented.bytes += bytes.saturating_sub(packet.len()) as u64;
                parts.into_iter().for_each(|part| direction.handle_packet(now, part));
            }
        }
    }

    fn refuse(&mut self, from: Side, header: &Header, packet: &[u8], mtu: u16) {
        let direction = &mut self.directions[from.index()];
        direction.counters.drop(Drop::Mtu, packet.len());
        let told = direction.conditions().icmp && self.messages.len() < MESSAGES_MAX;
        if let Some(message) = told.then(|| icmp::too_big(header, packet, mtu)).flatten() {
            direction.counters.icmp_sent += 1;
            self.messages.push_back((from, message));
        }
    }

    /// The next packet that is due by `now`, and the side whose device it is for; of both directions the one that is due first.
    pub fn poll_deliver(&mut self, now: Instant) -> Option<(Side, Vec<u8>)> {
        if let Some(message) = self.messages.pop_front() {
            return Some(message);
        }
        let [left, right] = &mut self.directions;
        let from = match (left.next_arrival(now), right.next_arrival(now)) {
            (Some(left), Some(right)) if left > right => Side::Right,
            (None, _) => Side::Right,
            _ => Side::Left,
        };
        Some((from.other(), self.directions[from.index()].poll_deliver(now)?))
    }

    /// The device of `to` did not take a packet that was just polled.
    pub fn handle_refused(&mut self, to: Side, bytes: usize) {
        self.directions[to.other().index()].handle_refused(bytes);
    }

    /// When [`poll_deliver`](Self::poll_deliver) should be asked again, if nothing happens before; `None` if nothing is on its way.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.directions.iter().filter_map(Direction::poll_timeout).min()
    }

    /// All that can be seen.
    pub fn status(&self) -> Status {
        let [out, back] = &self.directions;
        Status {
            seed: self.seed,
            link: self.spec(),
            left_to_right: out.counters.clone(),
            right_to_left: back.counters.clone(),
            left_to_right_lateness: out.lateness.summary(),
            right_to_left_lateness: back.lateness.summary(),
            nat_mappings: self.nat.as_ref().map_or(0, Nat::mappings),
        }
    }
}

/// The most messages "too big" that wait for a device.
const MESSAGES_MAX: usize = 1024;

/// What stands at the entry, before anything of the packet is looked at but its protocol.
fn admit(conditions: &Conditions, header: &Header) -> Result<(), Drop> {
    match header.protocol {
        _ if conditions.blackhole => Err(Drop::Blackhole),
        protocol::UDP if conditions.block_udp => Err(Drop::BlockedUdp),
        protocol::TCP if conditions.block_tcp => Err(Drop::BlockedTcp),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
