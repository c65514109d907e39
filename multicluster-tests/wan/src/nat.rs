//! Translation of one side's IPv4 sources, as a home router or `iptables -j MASQUERADE` does it.
//!
//! * A mapping belongs to a source (address, port, protocol), whoever it talks to; whoever knows it may use it (RFC 4787: endpoint
//!   independent). Its port is drawn at random.
//! * Flows that the other side opened to the real addresses pass untranslated, both ways.
//! * UDP, TCP and ICMP echo are translated, and ICMP errors about them; fragments and other protocols of IPv4 do not leave. IPv6
//!   passes untouched.

mod flow;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use crate::packet::{Fragment, Header, protocol};
use crate::spec::{NatSpec, Side};
use flow::{End, Endpoint, Flow};

/// The most mappings, and the most flows from outside, at a time.
pub const MAPPINGS_MAX: usize = 16_384;

/// What the next packets of translated flows leave with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rebind {
    /// Another port of the same address.
    Port,
    /// The next address, and another port.
    Address,
}

/// A translation cannot be changed so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RebindError {
    /// There is none.
    #[error("the link translates nothing\n    hint: set nat=left:198.51.100.1,198.51.100.2 first")]
    NoNat,
    /// It has one address only.
    #[error("the translation has only one address\n    hint: give it more: nat=left:198.51.100.1,198.51.100.2")]
    OneAddress,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Nat {
    spec: NatSpec,
    /// Index of the address in use.
    current: usize,
    ports: StdRng,
    /// By the source inside.
    mappings: BTreeMap<Endpoint, Mapping>,
    /// Outside → inside.
    inside: BTreeMap<Endpoint, Endpoint>,
    /// Flows that were opened from outside, by their ends inside and outside, and when each was last used.
    opened: BTreeMap<(Endpoint, Endpoint), Instant>,
    /// What was in use before the last rebinding, and is not used again before the next.
    retired: BTreeSet<Endpoint>,
}

#[derive(Debug)]
struct Mapping {
    outside: Endpoint,
    used: Instant,
}

impl Nat {
    pub(crate) fn new(spec: NatSpec, ports: StdRng) -> Self {
        let (mappings, inside, opened, retired) = Default::default();
        Self { spec, current: 0, ports, mappings, inside, opened, retired }
    }

    pub(crate) fn spec(&self) -> &NatSpec {
        &self.spec
    }

    pub(crate) fn mappings(&self) -> u64 {
        self.mappings.len() as u64
    }

    pub(crate) fn rebind(&mut self, what: Rebind) -> Result<(), RebindError> {
        if what == Rebind::Address {
            if self.spec.addresses.len() < 2 {
                return Err(RebindError::OneAddress);
            }
            self.current = (self.current + 1) % self.spec.addresses.len();
        }
        self.mappings.clear();
        self.retired = std::mem::take(&mut self.inside).into_keys().collect();
        Ok(())
    }

    /// Rewrites `packet`, which enters at `from`; false if it must not pass.
    pub(crate) fn translate(&mut self, now: Instant, from: Side, header: &Header, packet: &mut [u8]) -> bool {
        let IpAddr::V4(destination) = header.destination else { return true };
        let inbound = from != self.spec.side;
        let to_us = self.spec.addresses.contains(&destination);
        if header.fragment != Fragment::Whole {
            return inbound && !to_us;
        }
        if header.protocol == protocol::ICMP
            && let Some((about, at)) = flow::of_error(packet)
        {
            let known = if inbound { self.error_in(&about, at, packet) } else { self.error_out(&about, at, packet) };
            return known || (inbound && !to_us);
        }
        match (Flow::of(packet), inbound) {
            (Some(flow), false) => self.outbound(now, &flow, packet),
            (Some(flow), true) => self.inbound(now, &flow, packet, to_us),
            (None, inbound) => inbound && !to_us,
        }
    }

    fn outbound(&mut self, now: Instant, flow: &Flow, packet: &mut [u8]) -> bool {
        if let Some(used) = self.opened.get_mut(&(flow.source, flow.destination)) {
            *used = now;
            return true;
        }
        let Some(outside) = self.mapping(now, flow.source) else { return false };
        flow::rewrite(packet, End::Source, outside);
        true
    }

    fn inbound(&mut self, now: Instant, flow: &Flow, packet: &mut [u8], to_us: bool) -> bool {
        if let Some(inside) = self.inside.get(&flow.destination).copied() {
            let fresh = self.mappings.get_mut(&inside).filter(|mapping| !expired(inside, mapping.used, now));
            let Some(mapping) = fresh else { return false };
            mapping.used = now;
            flow::rewrite(packet, End::Destination, inside);
            return true;
        }
        if to_us {
            return false;
        }
        let key = (flow.destination, flow.source);
        if !self.opened.contains_key(&key) && self.opened.len() >= MAPPINGS_MAX {
            self.opened.retain(|(inside, _), used| !expired(*inside, *used, now));
            if self.opened.len() >= MAPPINGS_MAX {
                return false;
            }
        }
        self.opened.insert(key, now);
        true
    }

    /// What `inside` leaves as, newly drawn if it was idle for too long.
    fn mapping(&mut self, now: Instant, inside: Endpoint) -> Option<Endpoint> {
        if let Some(mapping) = self.mappings.get_mut(&inside) {
            if !expired(inside, mapping.used, now) {
                mapping.used = now;
                return Some(mapping.outside);
            }
            self.inside.remove(&mapping.outside);
            self.mappings.remove(&inside);
        }
        if self.mappings.len() >= MAPPINGS_MAX {
            self.mappings.retain(|inside, mapping| !expired(*inside, mapping.used, now));
            self.inside.retain(|_, inside| self.mappings.contains_key(inside));
        }
        let outside = if self.mappings.len() < MAPPINGS_MAX { self.draw(inside)? } else { return None };
        self.mappings.insert(inside, Mapping { outside, used: now });
        self.inside.insert(outside, inside);
        Some(outside)
    }

    /// A free port of the current address. With at most a quarter of all ports in use, 64 draws all but surely find one.
    fn draw(&mut self, inside: Endpoint) -> Option<Endpoint> {
        let address = *self.spec.addresses.get(self.current)?;
        let candidate = |_| Endpoint { address, port: self.ports.random_range(1024..=u16::MAX), ..inside };
        let free = |one: &Endpoint| !self.inside.contains_key(one) && !self.retired.contains(one);
        (0..64).map(candidate).find(free)
    }

    /// An error from outside about a packet that left translated.
    fn error_in(&self, about: &Flow, at: usize, packet: &mut [u8]) -> bool {
        let Some(inside) = self.inside.get(&about.source).copied() else { return false };
        flow::rewrite(&mut packet[at..], End::Source, inside);
        flow::readdress(packet, End::Destination, inside.address);
        flow::reseal_icmp(packet);
        true
    }

    /// An error from inside about a packet that came in, translated or not.
    fn error_out(&self, about: &Flow, at: usize, packet: &mut [u8]) -> bool {
        if self.opened.contains_key(&(about.destination, about.source)) {
            return true;
        }
        let Some(mapping) = self.mappings.get(&about.destination) else { return false };
        flow::rewrite(&mut packet[at..], End::Destination, mapping.outside);
        flow::readdress(packet, End::Source, mapping.outside.address);
        flow::reseal_icmp(packet);
        true
    }
}

/// Idle times after RFC 4787 (UDP), RFC 5382 (TCP) and RFC 5508 (ICMP).
fn expired(inside: Endpoint, used: Instant, now: Instant) -> bool {
    let seconds = match inside.protocol {
        protocol::TCP => 7_440,
        protocol::UDP => 300,
        _ => 60,
    };
    now.saturating_duration_since(used) > Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests;
