//! "Too big": what a router tells the sender of a packet that does not fit (RFC 792 with RFC 1191, and RFC 4443).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum::checksum;
use crate::packet::{Fragment, Header, protocol};

/// The message for the sender of `packet`, or `None` where none may be sent (RFC 1122, section 3.2.2; RFC 4443, 2.4).
///
/// It claims to come from the packet's destination: that is the one address beyond the link which the sender surely accepts from there.
pub(crate) fn too_big(header: &Header, packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    if header.fragment == Fragment::Later || is_error(header, packet) {
        return None;
    }
    match (header.destination, header.source) {
        (IpAddr::V4(from), IpAddr::V4(to)) if !(from.is_multicast() || from.is_broadcast() || to.is_unspecified()) => {
            Some(fragmentation_needed(from, to, packet, mtu))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) if !(from.is_multicast() || to.is_unspecified()) => {
            Some(packet_too_big(from, to, packet, mtu))
        }
        _ => None,
    }
}

fn is_error(header: &Header, packet: &[u8]) -> bool {
    let kind = packet.get(header.payload).copied();
    match header.protocol {
        protocol::ICMP => !matches!(kind, Some(0 | 8 | 13 | 14)),
        protocol::ICMPV6 => kind.is_none_or(|kind| kind < 128),
        _ => false,
    }
}

/// The most bytes of a message: 576 (RFC 1812, section 4.3.2.3).
const V4_MAX: usize = 576;
/// The most bytes of a message: the least MTU of IPv6.
const V6_MAX: usize = 1280;

fn fragmentation_needed(from: Ipv4Addr, to: Ipv4Addr, packet: &[u8], mtu: u16) -> Vec<u8> {
    let quote = &packet[..packet.len().min(V4_MAX - 28)];
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    let sum = checksum(&[&message, quote]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let total = u16::try_from(20 + message.len() + quote.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut reply = vec![0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, protocol::ICMP, 0, 0];
    reply.extend(from.octets());
    reply.extend(to.octets());
    let sum = checksum(&[&reply]);
    reply[10..12].copy_from_slice(&sum.to_be_bytes());
    [&reply, &message, quote].concat()
}

fn packet_too_big(from: Ipv6Addr, to: Ipv6Addr, packet: &[u8], mtu: u16) -> Vec<u8> {
    let quote = &packet[..packet.len().min(V6_MAX - 48)];
    let mut message = vec![2, 0, 0, 0];
    message.extend(u32::from(mtu).to_be_bytes());
    let length = u16::try_from(message.len() + quote.len()).unwrap_or(u16::MAX).to_be_bytes();
    let addresses = [from.octets(), to.octets()].concat();
    let pseudo = [0, 0, length[0], length[1], 0, 0, 0, protocol::ICMPV6];
    let sum = checksum(&[&addresses, &pseudo, &message, quote]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let fixed = [0x60, 0, 0, 0, length[0], length[1], protocol::ICMPV6, 64];
    [&fixed, &addresses[..], &message, quote].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::testing;

    fn check(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
        too_big(&Header::parse(packet).unwrap(), packet, mtu)
    }

    #[test]
    fn an_ipv4_sender_hears_of_the_mtu() {
        let packet = testing::udp("10.0.0.1:5", "10.0.0.2:6", &[7; 1400]);
        let reply = check(&packet, 1380).unwrap();
        let header = Header::parse(&reply).unwrap();
        assert_eq!((header.source.to_string(), header.destination.to_string()), ("10.0.0.2".into(), "10.0.0.1".into()));
        assert_eq!((reply.len(), checksum(&[&reply[..20]]), checksum(&[&reply[20..]])), (V4_MAX, 0, 0));
        assert_eq!(reply[20..22], [3, 4]);
        assert_eq!(reply[26..28], 1380_u16.to_be_bytes());
        assert_eq!(reply[28..], packet[..V4_MAX - 28]);
    }

    #[test]
    fn an_ipv6_sender_hears_of_the_mtu() {
        let packet = testing::tcp("[fd00::1]:5", "[fd00::2]:6", &[7; 1400]);
        let reply = check(&packet, 1280).unwrap();
        let header = Header::parse(&reply).unwrap();
        assert_eq!((header.source.to_string(), header.protocol), ("fd00::2".into(), protocol::ICMPV6));
        assert_eq!((reply.len(), reply[40], reply[41]), (V6_MAX, 2, 0));
        assert_eq!(reply[44..48], 1280_u32.to_be_bytes());
        let (from, to) = ("[fd00::2]:0".parse().unwrap(), "[fd00::1]:0".parse().unwrap());
        assert_eq!(testing::transport_checksum(&from, &to, protocol::ICMPV6, &reply[40..]), 0);
    }

    #[test]
    fn errors_are_not_answered_with_errors() {
        let packet = testing::udp("10.0.0.1:5", "10.0.0.2:6", &[7; 1400]);
        let reply = check(&packet, 1380).unwrap();
        assert_eq!(check(&reply, 552), None);
        let mut later = packet;
        later[7] = 1;
        assert_eq!(check(&later, 1380), None);
    }
}
