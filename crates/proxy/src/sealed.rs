//! Datagrams that only the two sidecars of a flow can read, whoever carries them between, in whatever order.
//!
//! The keys come from the mutual TLS of the two (RFC 8446, section 7.5), one for each direction, so that identity and forward
//! secrecy are those of TLS. A sealed datagram is its number (8 bytes), the ciphertext and its tag (16 bytes), by
//! ChaCha20-Poly1305 (RFC 8439) with nonces as in TLS 1.3 (RFC 8446, section 5.3): the number, added to a secret start. The
//! construction is that of DTLS 1.3 and QUIC packets without what those need for handshakes.
//!
//! **Invariant:** a number is used once with a key. **Invariant:** a datagram is handed out once; numbers that are more than
//! [`WINDOW`] behind the highest are refused.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use bytes::{BufMut, Bytes, BytesMut};

/// What sealing adds to a datagram in bytes.
pub const OVERHEAD: usize = NUMBER + TAG;
/// How far behind the newest a datagram may come.
pub const WINDOW: u64 = 1024;
/// Bytes of keying material for one direction: key and start of the nonces.
pub const MATERIAL: usize = 32 + NONCE_LEN;
/// The labels of the exporters of both directions.
const LABELS: [&[u8]; 2] = [b"EXPORTER-isthmus-datagrams-client", b"EXPORTER-isthmus-datagrams-server"];
const NUMBER: usize = 8;
const TAG: usize = 16;
/// Datagrams that were not sealed with the key after which it is given up (RFC 9147, section 4.5.3).
const FORGERIES: u64 = 1 << 36;

/// Which end of the TLS connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It began the connection.
    Client,
    /// It took it.
    Server,
}

/// No keys: the TLS connection gave none.
#[derive(Debug, thiserror::Error)]
#[error("TLS gave no keys for datagrams")]
pub struct NoKeys;

/// Makes both ends' keys; `export` is the TLS connection's exporter.
pub fn keys(
    end: End,
    export: impl Fn([u8; MATERIAL], &[u8]) -> Result<[u8; MATERIAL], rustls::Error>,
) -> Result<(Sealer, Opener), NoKeys> {
    let material = |label| export([0; MATERIAL], label).map_err(|_| NoKeys);
    let (client, server) = (material(LABELS[0])?, material(LABELS[1])?);
    let (own, peer) = if end == End::Client { (client, server) } else { (server, client) };
    let sealer = Sealer { key: Key::new(&own)?, next: 0 };
    Ok((sealer, Opener { key: Key::new(&peer)?, seen: Seen::default(), forged: 0 }))
}

/// Seals what is sent.
#[derive(Debug)]
pub struct Sealer {
    key: Key,
    next: u64,
}

/// Opens what comes.
#[derive(Debug)]
pub struct Opener {
    key: Key,
    seen: Seen,
    forged: u64,
}

impl Sealer {
    /// Seals a datagram; `None` when the key can seal no more.
    pub fn seal(&mut self, payload: &[u8]) -> Option<Bytes> {
        let number = self.next;
        self.next = number.checked_add(1)?;
        let mut sealed = BytesMut::with_capacity(payload.len() + OVERHEAD);
        sealed.put_u64(number);
        sealed.put_slice(payload);
        let (nonce, aad) = (self.key.nonce(number), Aad::from(number.to_be_bytes()));
        let tag = self.key.aead.seal_in_place_separate_tag(nonce, aad, &mut sealed[NUMBER..]).ok()?;
        sealed.put_slice(tag.as_ref());
        Some(sealed.freeze())
    }
}

impl Opener {
    /// Opens a datagram; `None` for what the peer did not seal, or what came before.
    pub fn open(&mut self, sealed: &[u8]) -> Option<Bytes> {
        let (number, rest) = sealed.split_first_chunk::<NUMBER>()?;
        let number = u64::from_be_bytes(*number);
        if !self.seen.is_new(number) || self.forged >= FORGERIES {
            return None;
        }
        let mut text = rest.to_vec();
        let opened = self.key.aead.open_in_place(self.key.nonce(number), Aad::from(number.to_be_bytes()), &mut text);
        let Ok(length) = opened.map(|payload| payload.len()) else {
            self.forged += 1;
            return None;
        };
        self.seen.note(number);
        text.truncate(length);
        Some(text.into())
    }
}

#[derive(Debug)]
struct Key {
    aead: LessSafeKey,
    start: [u8; NONCE_LEN],
}

impl Key {
    fn new(material: &[u8; MATERIAL]) -> Result<Self, NoKeys> {
        let (key, start) = material.split_last_chunk::<NONCE_LEN>().ok_or(NoKeys)?;
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).map_err(|_| NoKeys)?;
        Ok(Self { aead: LessSafeKey::new(key), start: *start })
    }

    fn nonce(&self, number: u64) -> Nonce {
        let mut nonce = self.start;
        nonce[NONCE_LEN - NUMBER..].iter_mut().zip(number.to_be_bytes()).for_each(|(own, byte)| *own ^= byte);
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Which numbers came (RFC 6479).
#[derive(Debug)]
struct Seen {
    /// One more than the highest.
    next: u64,
    came: [bool; WINDOW as usize],
}

impl Default for Seen {
    fn default() -> Self {
        Self { next: 0, came: [false; WINDOW as usize] }
    }
}

impl Seen {
    fn is_new(&self, number: u64) -> bool {
        number >= self.next || (self.next - number <= WINDOW && !self.came[slot(number)])
    }

    /// `number` is new.
    fn note(&mut self, number: u64) {
        for passed in self.next.max(number.saturating_sub(WINDOW - 1))..=number {
            self.came[slot(passed)] = false;
        }
        self.next = self.next.max(number.saturating_add(1));
        self.came[slot(number)] = true;
    }
}

fn slot(number: u64) -> usize {
    usize::try_from(number % WINDOW).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Both ends of one TLS connection; another `secret` is another connection.
    fn ends(secret: u8) -> ((Sealer, Opener), (Sealer, Opener)) {
        let export = |mut material: [u8; MATERIAL], label: &[u8]| {
            material.fill(secret);
            material[0] = label[label.len() - 1];
            Ok(material)
        };
        (keys(End::Client, export).unwrap(), keys(End::Server, export).unwrap())
    }

    #[test]
    fn only_the_other_end_opens_what_was_sealed_and_only_once() {
        let ((mut sealer, mut own), (_, mut opener)) = ends(1);
        let sealed = sealer.seal(b"ask").unwrap();
        assert_eq!(sealed.len(), 3 + OVERHEAD);
        assert!(!sealed.windows(3).any(|part| part == b"ask"), "it cannot be read");
        assert_eq!(own.open(&sealed), None, "the directions have keys of their own");
        assert_eq!(ends(2).1.1.open(&sealed), None, "and so has each connection");
        assert_eq!(opener.open(&sealed).as_deref(), Some(&b"ask"[..]));
        assert_eq!(opener.open(&sealed), None, "it was there before");
        for at in 0..sealed.len() {
            let mut changed = sealer.seal(b"ask").unwrap().to_vec();
            changed[at] ^= 1;
            assert_eq!(opener.open(&changed), None, "byte {at}");
        }
        for length in 0..OVERHEAD {
            assert_eq!(opener.open(&vec![0; length]), None);
        }
        assert_eq!(opener.open(&sealer.seal(b"").unwrap()).as_deref(), Some(&b""[..]));
    }

    #[test]
    fn an_order_is_not_needed_but_what_comes_very_late_is_refused() {
        let ((mut sealer, _), (_, mut opener)) = ends(1);
        let sealed: Vec<Bytes> = (0..=2 * WINDOW).map(|_| sealer.seal(b"x").unwrap()).collect();
        let mut opens = |number: u64| opener.open(&sealed[usize::try_from(number).unwrap()]).is_some();
        assert!(opens(5) && opens(3) && opens(WINDOW));
        assert!(opens(1), "{WINDOW} behind is near enough");
        assert!(!opens(0), "one more is not");
        assert!(!opens(3) && !opens(5));
        assert!(opens(2 * WINDOW) && !opens(WINDOW) && opens(WINDOW + 1));
    }

    proptest! {
        #[test]
        fn each_number_is_new_once(numbers in proptest::collection::vec(0_u64..3000, 0..200)) {
            let (mut seen, mut before, mut highest) = (Seen::default(), std::collections::BTreeSet::new(), 0);
            for number in numbers {
                let expected = !before.contains(&number) && (number >= highest || highest - number < WINDOW);
                prop_assert_eq!(seen.is_new(number), expected, "{} after {:?}", number, before);
                if expected {
                    seen.note(number);
                    before.insert(number);
                    highest = highest.max(number);
                }
            }
        }
    }
}
