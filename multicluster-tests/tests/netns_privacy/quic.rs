//! What anybody can read of QUIC: the headers, and the Initial packets, whose keys follow from the first connection id (RFC 9001,
//! section 5.2).

use std::collections::BTreeMap;

use quinn::rustls::quic::{DirectionalKeys, Suite, Version};
use quinn::rustls::{CipherSuite, Side};

use super::packet::{End, Packet};
use super::tls::{Hello, hello};

/// Reads the datagrams of a capture.
pub(crate) struct Reader {
    suite: Suite,
    /// First connection ids of each pair of ends, the client's first.
    connections: BTreeMap<(End, End), Vec<Connection>>,
    /// Everything that was decrypted.
    pub(crate) decrypted: Vec<Vec<u8>>,
    /// Short headers, which is what carries flows.
    pub(crate) protected: usize,
}

struct Connection {
    id: Vec<u8>,
    client: Crypto,
    server: Crypto,
}

/// The bytes of CRYPTO frames by their offsets.
type Crypto = BTreeMap<u64, Vec<u8>>;

/// A long header.
struct Long<'a> {
    kind: u8,
    destination: &'a [u8],
    /// Where the packet number is, and where the packet ends.
    number: usize,
    end: usize,
}

impl Reader {
    pub(crate) fn new() -> Self {
        let suites = identity::provider().cipher_suites.clone();
        let suite = suites.iter().find(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
        let suite = suite.and_then(|suite| suite.tls13()?.quic_suite()).expect("AES-128-GCM for QUIC");
        Self { suite, connections: BTreeMap::new(), decrypted: Vec::new(), protected: 0 }
    }

    /// Takes a datagram, in which packets may follow each other.
    pub(crate) fn push(&mut self, packet: &Packet<'_>) -> Result<(), String> {
        let mut rest = packet.payload;
        while let Some(first) = rest.first() {
            if first & 0x80 == 0 {
                self.protected += 1;
                return Ok(());
            }
            let Some(long) = long(rest)? else { return Ok(()) };
            match long.kind {
                0 => self.initial(packet, rest, &long)?,
                2 => {}
                other => return Err(format!("a packet of long header type {other}: early data is never sent")),
            }
            rest = &rest[long.end..];
        }
        Ok(())
    }

    /// Decrypts an Initial packet with the keys of the connections between these ends, or of a new one.
    fn initial(&mut self, packet: &Packet<'_>, bytes: &[u8], long: &Long<'_>) -> Result<(), String> {
        let (there, back) = ((packet.from, packet.to), (packet.to, packet.from));
        for (ends, side) in [(there, Side::Server), (back, Side::Client)] {
            for connection in self.connections.entry(ends).or_default() {
                let keys = self.suite.keys(&connection.id, side, Version::V1).remote;
                if let Some(plain) = decrypt(&keys, bytes, long) {
                    let crypto = if side == Side::Server { &mut connection.client } else { &mut connection.server };
                    frames(&plain, crypto)?;
                    self.decrypted.push(plain);
                    return Ok(());
                }
            }
        }
        let keys = self.suite.keys(long.destination, Side::Server, Version::V1).remote;
        let plain = decrypt(&keys, bytes, long).ok_or("an Initial packet that cannot be decrypted")?;
        let mut client = Crypto::new();
        frames(&plain, &mut client)?;
        self.decrypted.push(plain);
        let connection = Connection { id: long.destination.to_vec(), client, server: Crypto::new() };
        self.connections.entry(there).or_default().push(connection);
        Ok(())
    }

    /// The hello of each client and of each server, whose Initial packets carried nothing else.
    pub(crate) fn hellos(&self) -> Vec<Result<Hello, String>> {
        let all = self.connections.values().flatten().flat_map(|connection| [&connection.client, &connection.server]);
        all.filter(|crypto| !crypto.is_empty()).map(|crypto| hello(&in_order(crypto))).collect()
    }
}

fn in_order(crypto: &Crypto) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (offset, piece) in crypto {
        let at = usize::try_from(*offset).unwrap_or(usize::MAX);
        // Retransmissions may be cut elsewhere.
        let known = bytes.len().saturating_sub(at);
        if at <= bytes.len() && known < piece.len() {
            bytes.extend(&piece[known..]);
        }
    }
    bytes
}

/// RFC 9000, section 17.2; `None` for what ends the datagram and carries no frames: version negotiation, Retry.
fn long(bytes: &[u8]) -> Result<Option<Long<'_>>, String> {
    let cut = || "a long header that is cut off".to_owned();
    let version = bytes.get(1..5).ok_or_else(cut)?;
    let kind = bytes[0] >> 4 & 3;
    if version == [0; 4] || kind == 3 {
        return Ok(None);
    }
    if version != [0, 0, 0, 1] {
        return Err(format!("QUIC version {version:02x?}"));
    }
    let parse = || {
        let length = usize::from(*bytes.get(5)?);
        let destination = bytes.get(6..6 + length)?;
        let mut at = 6 + length;
        at += 1 + usize::from(*bytes.get(at)?);
        if kind == 0 {
            let token = varint(bytes, &mut at)?;
            at += usize::try_from(token).ok()?;
        }
        let length = usize::try_from(varint(bytes, &mut at)?).ok()?;
        let end = at + length;
        (end <= bytes.len()).then_some(Long { kind, destination, number: at, end })
    };
    parse().map(Some).ok_or_else(cut)
}

/// RFC 9000, section 16.
fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let first = *bytes.get(*at)?;
    let length = 1 << (first >> 6);
    let read = bytes.get(*at..*at + length)?;
    *at += length;
    Some(read[1..].iter().fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte)))
}

/// RFC 9001, sections 5.3 and 5.4.
fn decrypt(keys: &DirectionalKeys, bytes: &[u8], long: &Long<'_>) -> Option<Vec<u8>> {
    let sample = bytes.get(long.number + 4..long.number + 4 + keys.header.sample_len())?;
    let mut header = bytes[..long.number + 4].to_vec();
    let (head, number) = header.split_at_mut(long.number);
    keys.header.decrypt_in_place(sample, &mut head[0], number).ok()?;
    let length = usize::from(header[0] & 3) + 1;
    header.truncate(long.number + length);
    let number = header[long.number..].iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    let mut payload = bytes[long.number + length..long.end].to_vec();
    let plain = keys.packet.decrypt_in_place(number, &header, &mut payload).ok()?;
    Some(plain.to_vec())
}

/// Collects the CRYPTO frames of an Initial packet (RFC 9000, section 12.4 says what else may be in it).
fn frames(plain: &[u8], crypto: &mut Crypto) -> Result<(), String> {
    let mut at = 0;
    while at < plain.len() {
        let kind = plain[at];
        at += 1;
        let read = match kind {
            0 | 1 => Some(()),
            2 | 3 => acknowledgement(plain, &mut at, kind == 3),
            6 => piece(plain, &mut at, crypto),
            // CONNECTION_CLOSE: its reason is searched like everything else that was decrypted.
            0x1c => return Ok(()),
            _ => None,
        };
        read.ok_or_else(|| format!("frame {kind} in an Initial packet"))?;
    }
    Ok(())
}

fn acknowledgement(plain: &[u8], at: &mut usize, ecn: bool) -> Option<()> {
    varint(plain, at)?;
    varint(plain, at)?;
    let ranges = varint(plain, at)?;
    for _ in 0..=2 * ranges {
        varint(plain, at)?;
    }
    for _ in 0..if ecn { 3 } else { 0 } {
        varint(plain, at)?;
    }
    Some(())
}

fn piece(plain: &[u8], at: &mut usize, crypto: &mut Crypto) -> Option<()> {
    let offset = varint(plain, at)?;
    let length = usize::try_from(varint(plain, at)?).ok()?;
    let bytes = plain.get(*at..*at + length)?;
    *at += length;
    let piece = crypto.entry(offset).or_default();
    if piece.len() < bytes.len() {
        *piece = bytes.to_vec();
    }
    Some(())
}
