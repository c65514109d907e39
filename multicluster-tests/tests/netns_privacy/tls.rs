//! What anybody can read of TLS: the records, and the two hellos.

use std::collections::BTreeMap;

use proxy::capsule::{Capsule, Capsules, DATAGRAM, TLS};

use super::packet::{End, Packet, Segment};

/// The streams of TCP of a capture, one per direction and connection.
#[derive(Default)]
pub(crate) struct Streams {
    open: BTreeMap<(End, End), Vec<Stream>>,
}

/// One direction of a connection.
pub(crate) struct Stream {
    /// The sequence number of its first byte.
    first: u32,
    /// Whether its beginning was captured.
    pub(crate) begins: bool,
    /// Bytes by their distance from `first`.
    pieces: BTreeMap<u32, Vec<u8>>,
}

impl Streams {
    /// Takes a segment.
    pub(crate) fn push(&mut self, packet: &Packet<'_>, segment: Segment) {
        let streams = self.open.entry((packet.from, packet.to)).or_default();
        let first = segment.sequence.wrapping_add(u32::from(segment.syn));
        if streams.is_empty() || segment.syn && streams.last().is_some_and(|last| !last.begins || last.first != first) {
            streams.push(Stream { first, begins: segment.syn, pieces: BTreeMap::new() });
        }
        let Some(stream) = streams.last_mut().filter(|_| !packet.payload.is_empty()) else { return };
        let piece = stream.pieces.entry(first.wrapping_sub(stream.first)).or_default();
        // Repeated: the longer one has it all.
        if piece.len() < packet.payload.len() {
            *piece = packet.payload.to_vec();
        }
    }

    /// Every stream, with its ends.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&(End, End), &Stream)> {
        self.open.iter().flat_map(|(ends, streams)| streams.iter().map(move |stream| (ends, stream)))
    }
}

impl Stream {
    /// The bytes in order; what is missing is skipped, and said.
    pub(crate) fn bytes(&self) -> (Vec<u8>, bool) {
        let (mut bytes, mut at, mut whole) = (Vec::new(), 0, true);
        for (offset, piece) in &self.pieces {
            let (begin, end) = (u64::from(*offset), u64::from(*offset) + piece.len() as u64);
            // A piece far beyond the others is an old one of before the capture.
            whole &= begin <= at;
            let skip = usize::try_from(at.saturating_sub(begin)).unwrap_or(usize::MAX).min(piece.len());
            bytes.extend(&piece[skip..]);
            at = at.max(end);
        }
        (bytes, whole)
    }
}

/// What a hello says in the clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    /// From the client, or from the server.
    pub(crate) client: bool,
    /// The server name, if it has one.
    pub(crate) server_name: Option<Vec<u8>>,
    /// The protocols that it offers.
    pub(crate) alpn: Vec<Vec<u8>>,
}

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// The hellos of one direction of a connection that is TLS 1.3 and nothing else: after the hello all records are encrypted.
/// The last record may be cut off by the end of the capture.
pub(crate) fn records(mut bytes: &[u8]) -> Result<Vec<Hello>, String> {
    let mut hellos = Vec::new();
    while bytes.len() >= 5 {
        let (kind, length) = (bytes[0], usize::from(u16::from_be_bytes([bytes[3], bytes[4]])));
        if !matches!(kind, CHANGE_CIPHER_SPEC..=APPLICATION_DATA) || bytes[1] != 3 || length > (1 << 14) + 256 {
            return Err(format!("no TLS record: {:02x?}", &bytes[..bytes.len().min(32)]));
        }
        let Some(body) = bytes.get(5..5 + length) else { break };
        match kind {
            HANDSHAKE => hellos.push(hello(body)?),
            _ if hellos.is_empty() && kind != ALERT => return Err(format!("record {kind} before any hello")),
            _ => {}
        }
        bytes = &bytes[5 + length..];
    }
    Ok(hellos)
}

/// The bytes of TLS in one direction of a flow of UDP, and how many sealed datagrams are beside them (ADR 7): capsules of these two
/// types and no others, of which the last may be cut off by the end of the capture.
pub(crate) fn capsules(bytes: &[u8]) -> Result<(Vec<u8>, usize), String> {
    let (mut capsules, mut tls, mut sealed) = (Capsules::default(), Vec::new(), 0);
    capsules.push(bytes);
    while let Some(Capsule { kind, value }) = capsules.next_capsule().map_err(|error| error.to_string())? {
        match kind {
            TLS => tls.extend(value),
            DATAGRAM => sealed += 1,
            other => return Err(format!("a capsule of type {other:#x}")),
        }
    }
    Ok((tls, sealed))
}

/// Reads a ClientHello or a ServerHello; any other message in the clear is an error.
pub(crate) fn hello(message: &[u8]) -> Result<Hello, String> {
    let client = match message.first() {
        Some(1) => true,
        Some(2) => false,
        other => return Err(format!("the handshake message {other:?} is in the clear")),
    };
    read_hello(client, message).ok_or_else(|| format!("a hello that is cut off, of {} bytes", message.len()))
}

fn read_hello(client: bool, message: &[u8]) -> Option<Hello> {
    let length = usize::from(message[1]) << 16 | usize::from(message[2]) << 8 | usize::from(message[3]);
    let mut rest = message.get(4..4 + length)?;
    let mut take = |count: usize| {
        let (taken, left) = rest.split_at_checked(count)?;
        rest = left;
        Some(taken)
    };
    take(2 + 32)?;
    let session = usize::from(take(1)?[0]);
    take(session)?;
    if client {
        let suites = usize::from(number(take(2)?));
        take(suites)?;
        let compressions = usize::from(take(1)?[0]);
        take(compressions)?;
    } else {
        take(2 + 1)?;
    }
    let mut hello = Hello { client, server_name: None, alpn: Vec::new() };
    let mut left = usize::from(number(take(2)?));
    while left > 0 {
        let (kind, length) = (number(take(2)?), usize::from(number(take(2)?)));
        let body = take(length)?;
        left = left.checked_sub(4 + length)?;
        match kind {
            0 => hello.server_name = Some(body.to_vec()),
            16 => hello.alpn = names(body.get(2..)?)?,
            _ => {}
        }
    }
    Some(hello)
}

fn number(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

fn names(mut list: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    while let Some((length, rest)) = list.split_first() {
        let (name, left) = rest.split_at_checked(usize::from(*length))?;
        names.push(name.to_vec());
        list = left;
    }
    Some(names)
}

#[test]
fn hellos_with_and_without_a_name_and_what_is_no_tls() {
    identity::install_crypto();
    let hello_of = |sni: bool| {
        let mut config = quinn::rustls::ClientConfig::builder()
            .with_root_certificates(quinn::rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.enable_sni = sni;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = "kingfisher.example".try_into().expect("a name");
        let mut client = quinn::rustls::ClientConnection::new(config.into(), name).expect("a client");
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("written");
        bytes
    };
    let silent = records(&hello_of(false)).expect("TLS");
    assert_eq!(silent, [Hello { client: true, server_name: None, alpn: vec![b"h2".to_vec()] }]);
    let loud = records(&hello_of(true)).expect("TLS").remove(0).server_name.expect("a name");
    assert!(String::from_utf8_lossy(&loud).contains("kingfisher"));
    for not_tls in
        [&b"GET / HTTP/1.1\r\n"[..], b"PRI * HTTP/2.0\r\n", &[22, 3, 3, 0, 4, 11, 0, 0, 0], &[23, 3, 3, 0, 1, 0]]
    {
        assert!(records(not_tls).is_err(), "{not_tls:?}");
    }
}
