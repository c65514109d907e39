//! Captured frames as packets: addresses, ports, payload.

use std::net::IpAddr;

use super::capture::Link;

/// One end.
pub(crate) type End = (IpAddr, u16);

/// What a frame is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// Between the two ends of the link only: ARP, neighbour discovery, multicast listener reports. Never forwarded.
    Neighbours,
    /// A segment of TCP.
    Tcp(Packet<'a>, Segment),
    /// A datagram of UDP.
    Udp(Packet<'a>),
    /// An ICMP error about a packet that it quotes.
    Error(Box<Frame<'a>>),
    /// Anything else.
    Other(String),
}

/// What TCP and UDP have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    pub(crate) from: End,
    pub(crate) to: End,
    pub(crate) payload: &'a [u8],
}

/// What else there is of a segment of TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) sequence: u32,
    pub(crate) syn: bool,
}

/// Reads a frame.
pub(crate) fn parse(link: Link, frame: &[u8]) -> Frame<'_> {
    let parsed = match link {
        Link::Raw => network(frame),
        Link::Ethernet => match frame.get(12..14) {
            Some([0x08, 0x06]) => Some(Frame::Neighbours),
            Some([0x08, 0x00] | [0x86, 0xdd]) => network(&frame[14..]),
            _ => None,
        },
    };
    parsed.unwrap_or_else(|| Frame::Other(format!("{:02x?}", &frame[..frame.len().min(64)])))
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn network(packet: &[u8]) -> Option<Frame<'_>> {
    match packet.first()? >> 4 {
        4 => four(packet),
        6 => six(packet),
        _ => None,
    }
}

fn four(packet: &[u8]) -> Option<Frame<'_>> {
    let header = usize::from(packet[0] & 15) * 4;
    let address = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let (from, to) = (address(12)?, address(16)?);
    // A fragment would hide its ports: none may be there.
    if word(packet, 6)? & 0x3fff != 0 {
        return None;
    }
    // A quoted packet is shorter than it says.
    let end = usize::from(word(packet, 2)?).min(packet.len());
    transport(*packet.get(9)?, from, to, packet.get(header..end)?)
}

fn six(packet: &[u8]) -> Option<Frame<'_>> {
    let address = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
    let (from, to) = (address(8)?, address(24)?);
    let end = (40 + usize::from(word(packet, 4)?)).min(packet.len());
    let (mut next, mut rest) = (*packet.get(6)?, packet.get(40..end)?);
    // Listener reports come behind hop-by-hop options.
    if next == 0 {
        let length = 8 + usize::from(*rest.get(1)?) * 8;
        (next, rest) = (*rest.first()?, rest.get(length..)?);
    }
    match (next, rest.first()?) {
        (58, 130..=137 | 143) => Some(Frame::Neighbours),
        (58, 1..=4) => Some(Frame::Error(Box::new(network(rest.get(8..)?)?))),
        _ => transport(next, from, to, rest),
    }
}

fn transport(protocol: u8, from: IpAddr, to: IpAddr, bytes: &[u8]) -> Option<Frame<'_>> {
    match protocol {
        1 if matches!(bytes.first()?, 3 | 11 | 12) => Some(Frame::Error(Box::new(network(bytes.get(8..)?)?))),
        6 => {
            let header = usize::from(bytes.get(12).copied().unwrap_or(0) >> 4) * 4;
            let sequence = u32::from_be_bytes(bytes.get(4..8)?.try_into().ok()?);
            let syn = bytes.get(13).is_some_and(|flags| flags & 2 != 0);
            let packet = packet(from, to, bytes, header)?;
            Some(Frame::Tcp(packet, Segment { sequence, syn }))
        }
        17 => Some(Frame::Udp(packet(from, to, bytes, 8)?)),
        _ => None,
    }
}

fn packet(from: IpAddr, to: IpAddr, bytes: &[u8], header: usize) -> Option<Packet<'_>> {
    let payload = bytes.get(header..).unwrap_or_default();
    Some(Packet { from: (from, word(bytes, 0)?), to: (to, word(bytes, 2)?), payload })
}

#[test]
fn frames_are_what_they_are() {
    let ip = |protocol: u8, rest: &[u8]| {
        let length = u8::try_from(20 + rest.len()).expect("short");
        let mut bytes = vec![0x45, 0, 0, length, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        bytes.extend(rest);
        bytes
    };
    let datagram = ip(17, &[0x3c, 0x53, 0, 53, 0, 10, 0, 0, b'h', b'i']);
    let Frame::Udp(packet) = parse(Link::Raw, &datagram) else { panic!("a datagram") };
    assert_eq!((packet.from.1, packet.to.1, packet.payload), (15443, 53, &b"hi"[..]));
    let mut quoting = vec![3, 3, 0, 0, 0, 0, 0, 0];
    quoting.extend(&datagram);
    assert!(matches!(parse(Link::Raw, &ip(1, &quoting)), Frame::Error(inner) if matches!(*inner, Frame::Udp(_))));
    let mut fragment = datagram.clone();
    fragment[6] = 0x20;
    assert!(matches!(parse(Link::Raw, &fragment), Frame::Other(_)));
    assert!(matches!(parse(Link::Raw, &ip(47, b"gre.")), Frame::Other(_)));
}
