//! UDP datagrams on a byte stream: the Capsule Protocol of HTTP Datagrams (RFC 9297, section 3.2) with the payload format
//! of CONNECT-UDP (RFC 9298, section 5).
//!
//! A capsule is a type, a length and a value. Datagrams are capsules of type 0 whose value is a context id, 0 for UDP
//! payloads, and the payload. Capsules of other types and datagrams of other contexts are passed over, as both RFCs want.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The longest payload of a UDP datagram in bytes (RFC 9298, section 5).
pub const PAYLOAD_MAX: usize = 65_527;
/// The type of a capsule that is a datagram.
pub const DATAGRAM: u64 = 0;
/// The type of a capsule whose value is the next bytes of a TLS connection (ours; the registry of RFC 9297 does not know it).
/// On the wire it begins with 0x5d, where a TLS connection begins with 0x16.
pub const TLS: u64 = 0x1d15;
/// The first byte of a stream that begins with a capsule of the type [`TLS`].
pub const TLS_FIRST: u8 = 0x5d;
/// The longest value of a capsule that is kept whole: a sealed datagram.
const VALUE_MAX: u64 = PAYLOAD_MAX as u64 + 64;
/// A context id takes at most so many bytes.
const CONTEXT_MAX: u64 = 8;

/// Bytes that are no sequence of capsules; the stream is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CapsuleError {
    /// A datagram that UDP could not have, or another capsule that nobody would keep.
    #[error("a capsule of {0} bytes is longer than a datagram of UDP can be")]
    TooLong(u64),
    /// A datagram without a context id.
    #[error("a datagram capsule has no context id")]
    NoContext,
}

/// Appends one datagram. Payloads beyond [`PAYLOAD_MAX`] are no UDP datagrams; of them nothing is written and `false` is
/// returned.
pub fn put_datagram(payload: &[u8], into: &mut BytesMut) -> bool {
    if payload.len() > PAYLOAD_MAX {
        return false;
    }
    put_varint(DATAGRAM, into);
    put_varint(payload.len() as u64 + 1, into);
    put_varint(0, into);
    into.put_slice(payload);
    true
}

/// A capsule as it stands on the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capsule {
    /// Its type.
    pub kind: u64,
    /// What it carries.
    pub value: Bytes,
}

/// Appends one capsule.
pub fn put_capsule(kind: u64, value: &[u8], into: &mut BytesMut) {
    put_varint(kind, into);
    put_varint(value.len() as u64, into);
    into.put_slice(value);
}

/// Cuts a byte stream back into datagrams, however its chunks fall.
#[derive(Debug, Default)]
pub struct Capsules {
    /// At most one datagram that is not complete, and what was pushed last.
    pending: BytesMut,
    /// Bytes of a capsule of another type that are still to come: they are never kept.
    skip: u64,
}

impl Capsules {
    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next payload; `None` when more bytes are needed.
    pub fn next_datagram(&mut self) -> Result<Option<Bytes>, CapsuleError> {
        loop {
            let skipped = self.skip.min(self.pending.len() as u64);
            self.pending.advance(usize::try_from(skipped).unwrap_or(usize::MAX));
            self.skip -= skipped;
            let mut peek = &self.pending[..];
            let (Some(kind), Some(length)) = (take_varint(&mut peek), take_varint(&mut peek)) else { return Ok(None) };
            let head = self.pending.len() - peek.len();
            if kind != DATAGRAM {
                self.pending.advance(head);
                self.skip = length;
                continue;
            }
            let too_long = CapsuleError::TooLong(length);
            let value = usize::try_from(length).map_err(|_| too_long)?;
            if length > PAYLOAD_MAX as u64 + CONTEXT_MAX {
                return Err(too_long);
            }
            if peek.len() < value {
                return Ok(None);
            }
            self.pending.advance(head);
            let mut value = self.pending.split_to(value).freeze();
            match take_varint(&mut value) {
                None => return Err(CapsuleError::NoContext),
                Some(0) if value.len() > PAYLOAD_MAX => return Err(too_long),
                Some(0) => return Ok(Some(value)),
                // Of another context: not for us.
                Some(_) => {}
            }
        }
    }

    /// The next capsule of any type; `None` when more bytes are needed. For whoever passes capsules on.
    pub fn next_capsule(&mut self) -> Result<Option<Capsule>, CapsuleError> {
        let mut peek = &self.pending[..];
        let (Some(kind), Some(length)) = (take_varint(&mut peek), take_varint(&mut peek)) else { return Ok(None) };
        let value =
            usize::try_from(length).ok().filter(|_| length <= VALUE_MAX).ok_or(CapsuleError::TooLong(length))?;
        if peek.len() < value {
            return Ok(None);
        }
        self.pending.advance(self.pending.len() - peek.len());
        Ok(Some(Capsule { kind, value: self.pending.split_to(value).freeze() }))
    }

    /// How many bytes of a capsule that is not complete are here.
    pub fn incomplete(&self) -> usize {
        self.pending.len()
    }

    /// Whether the stream may end here: no capsule is incomplete.
    pub fn is_at_boundary(&self) -> bool {
        self.pending.is_empty() && self.skip == 0
    }
}

/// Takes a variable-length integer of QUIC (RFC 9000, section 16); nothing when it is not complete.
pub fn take_varint(bytes: &mut impl Buf) -> Option<u64> {
    let first = *bytes.chunk().first()?;
    let length = 1_usize << (first >> 6);
    if bytes.remaining() < length {
        return None;
    }
    let value = bytes.get_uint(length);
    // The two highest bits are the length.
    Some(value & (u64::MAX >> (64 - (length * 8 - 2))))
}

/// Appends a variable-length integer of QUIC: at most 2^62 - 1.
pub fn put_varint(value: u64, into: &mut BytesMut) {
    match value {
        0..=0x3f => into.put_u8(value as u8),
        0x40..=0x3fff => into.put_u16(0x4000 | value as u16),
        0x4000..=0x3fff_ffff => into.put_u32(0x8000_0000 | value as u32),
        _ => into.put_u64(0xc000_0000_0000_0000 | value),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(bytes: &[u8], chunk: usize) -> (Vec<Vec<u8>>, Result<bool, CapsuleError>) {
        let (mut capsules, mut seen) = (Capsules::default(), Vec::new());
        for chunk in bytes.chunks(chunk) {
            capsules.push(chunk);
            loop {
                match capsules.next_datagram() {
                    Ok(Some(payload)) => seen.push(payload.to_vec()),
                    Ok(None) => break,
                    Err(error) => return (seen, Err(error)),
                }
            }
        }
        (seen, Ok(capsules.is_at_boundary()))
    }

    /// The examples of RFC 9000, appendix A.1.
    #[test]
    fn integers_are_those_of_quic() {
        let cases: [(&[u8], u64); 5] = [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ];
        for (bytes, value) in cases {
            assert_eq!(take_varint(&mut &bytes[..]), Some(value), "{bytes:x?}");
            assert_eq!(take_varint(&mut &bytes[..bytes.len() - 1]), None, "{bytes:x?}");
        }
        for value in [0, 0x3f, 0x40, 0x3fff, 0x4000, 0x3fff_ffff, 0x4000_0000, (1 << 62) - 1] {
            let mut bytes = BytesMut::new();
            put_varint(value, &mut bytes);
            assert_eq!(take_varint(&mut &bytes[..]), Some(value));
        }
    }

    #[test]
    fn what_is_not_for_udp_is_passed_over_and_never_kept() {
        let datagram = [0, 3, 0, b'h', b'i'];
        let other_type = [0x25, 2, 1, 2];
        let other_context = [0, 3, 7, 1, 2];
        let stream = [&other_type[..], &datagram, &other_context, &datagram].concat();
        assert_eq!(all(&stream, 1), (vec![b"hi".to_vec(), b"hi".to_vec()], Ok(true)));
        // A gigabyte of another type takes no memory.
        let mut capsules = Capsules::default();
        capsules.push(&[0x25, 0xc0, 0, 0, 0, 0x40, 0, 0, 0]);
        for _ in 0..1000 {
            capsules.push(&[0; 1000]);
            assert_eq!(capsules.next_datagram(), Ok(None));
            assert!(capsules.pending.is_empty());
        }
        assert!(!capsules.is_at_boundary());
    }

    #[test]
    fn what_udp_could_not_carry_is_refused() {
        let mut bytes = BytesMut::new();
        assert!(!put_datagram(&vec![0; PAYLOAD_MAX + 1], &mut bytes));
        assert!(bytes.is_empty());
        put_varint(0, &mut bytes);
        put_varint(1 << 40, &mut bytes);
        assert_eq!(all(&bytes, 64).1, Err(CapsuleError::TooLong(1 << 40)));
        assert_eq!(all(&[0, 0], 64).1, Err(CapsuleError::NoContext));
        // A context id that is cut off by its capsule's end.
        assert_eq!(all(&[0, 1, 0x40, 0], 64).1, Err(CapsuleError::NoContext));
    }

    proptest! {
        #[test]
        fn datagrams_survive_however_the_chunks_fall(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..2000), 0..8),
            chunk in 1_usize..700,
        ) {
            let mut bytes = BytesMut::new();
            for payload in &payloads {
                prop_assert!(put_datagram(payload, &mut bytes));
            }
            let (seen, end) = all(&bytes, chunk);
            prop_assert_eq!(seen, payloads);
            prop_assert_eq!(end, Ok(true));
        }

        #[test]
        fn garbage_reads_the_same_in_all_chunks(bytes in any::<Vec<u8>>(), chunk in 1_usize..9) {
            prop_assert_eq!(all(&bytes, chunk), all(&bytes, usize::MAX));
        }
    }

    #[test]
    fn capsules_are_passed_on_whole_whatever_their_type() {
        let mut bytes = BytesMut::new();
        put_capsule(TLS, b"hello", &mut bytes);
        put_capsule(DATAGRAM, &[7; 300], &mut bytes);
        assert_eq!(bytes[0], TLS_FIRST);
        let (mut capsules, mut seen) = (Capsules::default(), Vec::new());
        for byte in &bytes {
            capsules.push(&[*byte]);
            while let Some(Capsule { kind, value }) = capsules.next_capsule().unwrap() {
                seen.push((kind, value.len()));
            }
        }
        assert_eq!((seen, capsules.incomplete()), (vec![(TLS, 5), (DATAGRAM, 300)], 0));
        let mut long = BytesMut::new();
        put_varint(TLS, &mut long);
        put_varint(1 << 20, &mut long);
        capsules.push(&long);
        assert_eq!(capsules.next_capsule(), Err(CapsuleError::TooLong(1 << 20)));
    }

    #[test]
    fn the_longest_datagram_survives() {
        let mut bytes = BytesMut::new();
        let payload = vec![7; PAYLOAD_MAX];
        assert!(put_datagram(&payload, &mut bytes));
        assert_eq!(all(&bytes, 4096), (vec![payload], Ok(true)));
    }
}
