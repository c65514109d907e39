//! The ends of a flow in the bytes of an IPv4 packet, and how they are rewritten.

use std::net::Ipv4Addr;
use std::ops::Range;

use crate::checksum::{checksum, updated};
use crate::packet::protocol;

/// One end of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Endpoint {
    /// The protocol above IP.
    pub(super) protocol: u8,
    /// The address.
    pub(super) address: Ipv4Addr,
    /// The port; of ICMP echo, the identifier, at both ends.
    pub(super) port: u16,
}

/// The two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) source: Endpoint,
    pub(super) destination: Endpoint,
}

/// Which end of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
}

impl End {
    fn address(self) -> Range<usize> {
        match self {
            Self::Source => 12..16,
            Self::Destination => 16..20,
        }
    }

    /// Where the port stands in the header of `protocol`.
    fn port(self, protocol: u8) -> Range<usize> {
        match (protocol, self) {
            (protocol::ICMP, _) => 4..6,
            (_, Self::Source) => 0..2,
            (_, Self::Destination) => 2..4,
        }
    }
}

const CHECKSUM_OF_IP: Range<usize> = 10..12;

impl Flow {
    /// The flow of a packet of UDP, TCP or ICMP echo, of which at least 8 bytes above IP are there.
    pub(super) fn of(packet: &[u8]) -> Option<Self> {
        let protocol = *packet.get(9)?;
        let start = header_length(packet);
        let upper: &[u8; 8] = packet.get(start..)?.first_chunk()?;
        let known = match protocol {
            protocol::ICMP => matches!(upper[0], 0 | 8),
            protocol::TCP | protocol::UDP => true,
            _ => false,
        };
        let end = |end: End| {
            let octets: [u8; 4] = packet.get(end.address())?.try_into().ok()?;
            let port = upper.get(end.port(protocol))?.try_into().ok()?;
            Some(Endpoint { protocol, address: octets.into(), port: u16::from_be_bytes(port) })
        };
        if known { Some(Self { source: end(End::Source)?, destination: end(End::Destination)? }) } else { None }
    }
}

/// What an ICMP error is about, and where the quoted packet begins.
pub(super) fn of_error(packet: &[u8]) -> Option<(Flow, usize)> {
    let start = header_length(packet);
    let kind = *packet.get(start)?;
    let quote = start + 8;
    if !matches!(kind, 3 | 4 | 5 | 11 | 12) || packet.get(quote)? >> 4 != 4 {
        return None;
    }
    Some((Flow::of(packet.get(quote..)?)?, quote))
}

/// Puts `endpoint` at one end and mends the checksums of IP and of what is above it, as far as they are there.
pub(super) fn rewrite(packet: &mut [u8], end: End, endpoint: Endpoint) {
    let start = header_length(packet);
    let old_address = packet[end.address()].to_vec();
    readdress(packet, end, endpoint.address);
    let upper = &mut packet[start..];
    let port = end.port(endpoint.protocol);
    let old_port = upper[port.clone()].to_vec();
    upper[port].copy_from_slice(&endpoint.port.to_be_bytes());
    // The pseudo header of TCP and UDP holds the addresses, ICMP has none.
    let (at, old, new) = match endpoint.protocol {
        protocol::ICMP => (2..4, old_port, endpoint.port.to_be_bytes().to_vec()),
        protocol => {
            let new = [&endpoint.address.octets()[..], &endpoint.port.to_be_bytes()].concat();
            (if protocol == protocol::TCP { 16..18 } else { 6..8 }, [old_address, old_port].concat(), new)
        }
    };
    let optional = endpoint.protocol == protocol::UDP;
    if upper.len() >= at.end && !(optional && upper[at.clone()] == [0, 0]) {
        amend(upper, at, &old, &new, optional);
    }
}

/// Puts `address` at one end and mends the checksum of IP.
pub(super) fn readdress(packet: &mut [u8], end: End, address: Ipv4Addr) {
    let old = packet[end.address()].to_vec();
    packet[end.address()].copy_from_slice(&address.octets());
    amend(packet, CHECKSUM_OF_IP, &old, &address.octets(), false);
}

/// Computes the checksum of an ICMP message anew.
pub(super) fn reseal_icmp(packet: &mut [u8]) {
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]])).min(packet.len());
    let message = header_length(packet)..total;
    let message = &mut packet[message];
    message[2..4].fill(0);
    let sum = checksum(&[message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
}

/// Where zero means "no checksum" (UDP), a sum of zero is written as its other form.
fn amend(bytes: &mut [u8], at: Range<usize>, old: &[u8], new: &[u8], zero_is_none: bool) {
    let before = u16::from_be_bytes([bytes[at.start], bytes[at.start + 1]]);
    let sum = match updated(before, old, new) {
        0 if zero_is_none => 0xffff,
        sum => sum,
    };
    bytes[at].copy_from_slice(&sum.to_be_bytes());
}

fn header_length(packet: &[u8]) -> usize {
    packet.first().map_or(0, |first| usize::from(first & 0x0f) * 4)
}
