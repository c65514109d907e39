//! The Internet checksum (RFC 1071) and its update (RFC 1624).

/// The one's complement sum of `parts`, each of which but the last has an even length, complemented.
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    let sum = parts.iter().flat_map(|part| part.chunks(2)).map(|pair| match *pair {
        [high, low] => u64::from(u16::from_be_bytes([high, low])),
        [high] => u64::from(high) << 8,
        _ => 0,
    });
    !fold(sum.sum())
}

/// The checksum of a text in which `old` became `new`, both of an even length.
pub(crate) fn updated(checksum: u16, old: &[u8], new: &[u8]) -> u16 {
    let words =
        |bytes: &[u8]| bytes.chunks_exact(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]]))).collect();
    let (old, new): (Vec<u64>, Vec<u64>) = (words(old), words(new));
    let without: u64 = old.iter().map(|word| 0xffff - word).sum();
    !fold(u64::from(!checksum) + without + new.iter().sum::<u64>())
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_rfc_1071_comes_out() {
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03], &[0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
        assert_eq!(checksum(&[&[0x01, 0x02, 0x03]]), !0x0402);
    }

    proptest! {
        #[test]
        fn an_update_is_a_new_computation(mut text in proptest::collection::vec(any::<u8>(), 8..64), new: [u8; 4]) {
            // A text of zeros has no unique checksum in one's complement; no packet is one.
            text[0] = 0x45;
            let before = checksum(&[&text]);
            let old: Vec<u8> = text[4..8].to_vec();
            text[4..8].copy_from_slice(&new);
            prop_assert_eq!(updated(before, &old, &new), checksum(&[&text]));
        }
    }
}
