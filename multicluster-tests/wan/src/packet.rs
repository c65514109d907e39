//! What the link must know of an IP packet.

use std::net::IpAddr;

/// IP protocol numbers (IANA).
pub(crate) mod protocol {
    /// ICMP.
    pub(crate) const ICMP: u8 = 1;
    /// TCP.
    pub(crate) const TCP: u8 = 6;
    /// UDP.
    pub(crate) const UDP: u8 = 17;
    /// ICMPv6.
    pub(crate) const ICMPV6: u8 = 58;
}

/// Facts of one packet; the slices of the packet that they speak of are within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Where it comes from.
    pub(crate) source: IpAddr,
    /// Where it goes.
    pub(crate) destination: IpAddr,
    /// The protocol above IP, after IPv6's extension headers.
    pub(crate) protocol: u8,
    /// Where that protocol's header begins.
    pub(crate) payload: usize,
    /// Whether IPv4 forbids to fragment it; IPv6 always does.
    pub(crate) dont_fragment: bool,
    /// Whether it is a fragment, and whether the first one.
    pub(crate) fragment: Fragment,
}

/// Whether a packet is a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fragment {
    /// A whole packet.
    Whole,
    /// The fragment with the transport header.
    First,
    /// A fragment without one.
    Later,
}

impl Header {
    /// `None` if the bytes are no packet of IPv4 or IPv6, or shorter than they say.
    pub(crate) fn parse(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => parse_v4(packet),
            6 => parse_v6(packet),
            _ => None,
        }
    }
}

fn parse_v4(packet: &[u8]) -> Option<Header> {
    let fixed: &[u8; 20] = packet.first_chunk()?;
    let length = usize::from(fixed[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    if length < 20 || total < length || packet.len() < total {
        return None;
    }
    let flags = u16::from_be_bytes([fixed[6], fixed[7]]);
    let fragment = match (flags & 0x1fff, flags & 0x2000) {
        (0, 0) => Fragment::Whole,
        (0, _) => Fragment::First,
        _ => Fragment::Later,
    };
    Some(Header {
        source: IpAddr::from(address::<4>(packet, 12)?),
        destination: IpAddr::from(address::<4>(packet, 16)?),
        protocol: fixed[9],
        payload: length,
        dont_fragment: flags & 0x4000 != 0,
        fragment,
    })
}

fn parse_v6(packet: &[u8]) -> Option<Header> {
    let fixed: &[u8; 40] = packet.first_chunk()?;
    if packet.len() < 40 + usize::from(u16::from_be_bytes([fixed[4], fixed[5]])) {
        return None;
    }
    let (protocol, payload, fragment) = upper_layer(packet, fixed[6])?;
    Some(Header {
        source: IpAddr::from(address::<16>(packet, 8)?),
        destination: IpAddr::from(address::<16>(packet, 24)?),
        protocol,
        payload,
        dont_fragment: true,
        fragment,
    })
}

/// Walks the extension headers (RFC 8200, section 4) until a protocol that is none of them.
fn upper_layer(packet: &[u8], first: u8) -> Option<(u8, usize, Fragment)> {
    let (mut next, mut at, mut fragment) = (first, 40, Fragment::Whole);
    while matches!(next, 0 | 43 | 44 | 60) {
        let header: &[u8; 8] = packet.get(at..)?.first_chunk()?;
        if next == 44 {
            let offset = u16::from_be_bytes([header[2], header[3]]);
            fragment = if offset & !7 != 0 { Fragment::Later } else { Fragment::First };
            at += 8;
        } else {
            at += 8 + usize::from(header[1]) * 8;
        }
        next = header[0];
        if fragment == Fragment::Later {
            break;
        }
    }
    Some((next, at, fragment))
}

fn address<const N: usize>(packet: &[u8], at: usize) -> Option<[u8; N]> {
    packet.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
pub(crate) mod testing {
    //! Packets for tests, with right checksums.

    use std::net::SocketAddr;

    use super::protocol::{TCP, UDP};
    use crate::checksum::checksum;

    /// A UDP datagram between two addresses of one family.
    pub(crate) fn udp(from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
        let mut datagram = ports(from, to);
        datagram.extend_from_slice(&u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
        datagram.extend_from_slice(&[0, 0]);
        datagram.extend_from_slice(payload);
        seal(from, to, UDP, datagram, 6)
    }

    /// A TCP segment without options.
    pub(crate) fn tcp(from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
        let mut segment = ports(from, to);
        segment.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
        segment.extend_from_slice(payload);
        seal(from, to, TCP, segment, 16)
    }

    fn ports(from: &str, to: &str) -> Vec<u8> {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        [from.port().to_be_bytes(), to.port().to_be_bytes()].concat()
    }

    /// The checksum over the pseudo header and `data`.
    pub(crate) fn transport_checksum(from: &SocketAddr, to: &SocketAddr, protocol: u8, data: &[u8]) -> u16 {
        let length = u32::try_from(data.len()).unwrap().to_be_bytes();
        let pseudo = [octets(from), octets(to), length.to_vec(), vec![0, 0, 0, protocol]].concat();
        checksum(&[&pseudo, data])
    }

    fn octets(address: &SocketAddr) -> Vec<u8> {
        match address {
            SocketAddr::V4(address) => address.ip().octets().to_vec(),
            SocketAddr::V6(address) => address.ip().octets().to_vec(),
        }
    }

    fn seal(from: &str, to: &str, protocol: u8, mut data: Vec<u8>, at: usize) -> Vec<u8> {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let sum = match transport_checksum(&from, &to, protocol, &data) {
            // RFC 768: zero would say that there is none.
            0 if protocol == UDP => 0xffff,
            sum => sum,
        };
        data[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let length = u16::try_from(data.len()).unwrap();
        let mut packet = match from {
            SocketAddr::V4(_) => {
                let total = (length + 20).to_be_bytes();
                vec![0x45, 0, total[0], total[1], 0, 7, 0x40, 0, 64, protocol, 0, 0]
            }
            SocketAddr::V6(_) => {
                let length = length.to_be_bytes();
                vec![0x60, 0, 0, 0, length[0], length[1], protocol, 64]
            }
        };
        packet.extend(octets(&from));
        packet.extend(octets(&to));
        if from.is_ipv4() {
            let sum = checksum(&[&packet]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        packet.extend(data);
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_both_families_are_read() {
        let packet = testing::udp("10.0.0.1:5", "10.0.0.2:6", b"hello");
        let header = Header::parse(&packet).unwrap();
        assert_eq!((header.protocol, header.payload, header.fragment), (protocol::UDP, 20, Fragment::Whole));
        assert_eq!(header.destination.to_string(), "10.0.0.2");
        let packet = testing::tcp("[fd00::1]:5", "[fd00::2]:6", b"hello");
        let header = Header::parse(&packet).unwrap();
        assert_eq!((header.protocol, header.payload, header.dont_fragment), (protocol::TCP, 40, true));
        assert_eq!(header.source.to_string(), "fd00::1");
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        let packet = testing::udp("10.0.0.1:5", "10.0.0.2:6", b"hello");
        for bytes in [&packet[..19], &packet[..packet.len() - 1], &[], &[0x55; 40]] {
            assert_eq!(Header::parse(bytes), None);
        }
        let packet = testing::tcp("[fd00::1]:5", "[fd00::2]:6", b"hello");
        assert_eq!(Header::parse(&packet[..packet.len() - 1]), None);
    }

    #[test]
    fn extension_headers_of_ipv6_are_walked() {
        let inner = testing::udp("[fd00::1]:5", "[fd00::2]:6", b"hello");
        let mut packet = inner.clone();
        packet.splice(40..40, [60, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 8, 0, 0, 0, 1]);
        packet[6] = 60;
        packet[40] = 44;
        packet[5] += 16;
        let header = Header::parse(&packet).unwrap();
        assert_eq!((header.protocol, header.payload, header.fragment), (protocol::UDP, 56, Fragment::Later));
    }
}
