//! Fragmentation of IPv4 by a router (RFC 791, section 3.2), for senders that allow it.

use crate::checksum::checksum;

/// The fragments of `packet`, each of at most `mtu` bytes. The header is copied with all its options, although RFC 791 would
/// leave out some of them.
pub(crate) fn fragments(packet: &[u8], header_length: usize, mtu: u16) -> Vec<Vec<u8>> {
    let (header, data) = packet.split_at(header_length);
    let flags = u16::from_be_bytes([header[6], header[7]]);
    let step = (usize::from(mtu).saturating_sub(header_length) & !7).max(8);
    let count = data.len().div_ceil(step);
    let piece = |(index, part): (usize, &[u8])| {
        let more = if index + 1 < count { 0x2000 } else { flags & 0x2000 };
        let offset = (flags & 0x1fff).wrapping_add(u16::try_from(index * step / 8).unwrap_or(u16::MAX)) & 0x1fff;
        fragment(header, part, more | offset)
    };
    data.chunks(step).enumerate().map(piece).collect()
}

fn fragment(header: &[u8], data: &[u8], flags: u16) -> Vec<u8> {
    let mut packet = [header, data].concat();
    let total = u16::try_from(packet.len()).unwrap_or(u16::MAX);
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[6..8].copy_from_slice(&flags.to_be_bytes());
    packet[10..12].fill(0);
    let sum = checksum(&[&packet[..header.len()]]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Fragment, Header, testing};

    #[test]
    fn fragments_carry_the_whole_packet() {
        let payload: Vec<u8> = (0..3_000).map(|byte: u32| byte.to_le_bytes()[0]).collect();
        let mut packet = testing::udp("10.0.0.1:5", "10.0.0.2:6", &payload);
        packet[6] = 0;
        let parts = fragments(&packet, 20, 1_000);
        let mut data = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let header = Header::parse(part).unwrap();
            assert!(part.len() <= 1_000);
            assert_eq!(checksum(&[&part[..20]]), 0);
            assert_eq!(header.fragment, if index == 0 { Fragment::First } else { Fragment::Later });
            let offset = usize::from(u16::from_be_bytes([part[6], part[7]]) & 0x1fff) * 8;
            assert_eq!(offset, data.len());
            assert_eq!(part[6] & 0x20 != 0, index + 1 < parts.len());
            data.extend_from_slice(&part[20..]);
        }
        assert_eq!(data, packet[20..]);
    }
}
