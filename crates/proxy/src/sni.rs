//! The server name in a TLS ClientHello (RFC 8446 §4.1.2, RFC 6066 §3), read from the first bytes of a stream.
//!
//! Nothing is copied or allocated before the name is found, and no more than [`HELLO_MAX`] bytes are ever looked at.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// A ClientHello is not read beyond this size; post-quantum key shares need about 2 KiB.
pub const HELLO_MAX: usize = 16 * 1024;
/// How long a client may pause inside its ClientHello.
const HESITATION: Duration = Duration::from_secs(10);
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// What the first bytes of a stream are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hello {
    /// A ClientHello that names this server, in lower case.
    Named(String),
    /// A ClientHello without a name.
    Nameless,
    /// The beginning of a ClientHello: more bytes are needed.
    Partial,
    /// Something else.
    NotTls,
}

/// Reads the beginning of a stream. Never panics, whatever the bytes.
pub fn parse(first: &[u8]) -> Hello {
    let first = &first[..first.len().min(HELLO_MAX)];
    match handshake(first) {
        Ok(message) => match server_name(&message) {
            Some(Some(name)) => Hello::Named(name),
            Some(None) => Hello::Nameless,
            None => Hello::NotTls,
        },
        Err(Ended::Early) if first.len() >= HELLO_MAX => Hello::NotTls,
        Err(Ended::Early) => Hello::Partial,
        Err(Ended::Wrong) => Hello::NotTls,
    }
}

/// Reads a stream until it is clear what it is, or `silence` passes without a first byte. The bytes read are given back.
pub async fn read<T: AsyncRead + Unpin>(io: &mut T, silence: Duration) -> io::Result<(Hello, Bytes)> {
    let mut first = BytesMut::with_capacity(2048);
    loop {
        let patience = if first.is_empty() { silence } else { HESITATION };
        match tokio::time::timeout(patience, io.read_buf(&mut first)).await {
            Ok(Ok(0)) | Err(_) => return Ok((Hello::NotTls, first.freeze())),
            Ok(Ok(_)) => match parse(&first) {
                Hello::Partial => {}
                hello => return Ok((hello, first.freeze())),
            },
            Ok(Err(error)) => return Err(error),
        }
    }
}

enum Ended {
    /// More bytes may make it whole.
    Early,
    /// It is something else.
    Wrong,
}

/// The ClientHello without its header, put together from the records that it is spread over.
fn handshake(mut records: &[u8]) -> Result<Vec<u8>, Ended> {
    let mut message = Vec::new();
    loop {
        match records {
            [kind, ..] if *kind != HANDSHAKE => return Err(Ended::Wrong),
            [_, major, ..] if *major != 3 => return Err(Ended::Wrong),
            [_, _, _, high, low, rest @ ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                if length == 0 {
                    return Err(Ended::Wrong);
                }
                message.extend_from_slice(&rest[..rest.len().min(length)]);
                if let Some(whole) = whole_hello(&message)? {
                    return Ok(whole);
                }
                records = rest.get(length..).ok_or(Ended::Early)?;
            }
            _ => return Err(Ended::Early),
        }
    }
}

/// The body of a ClientHello message once all of it is there.
fn whole_hello(message: &[u8]) -> Result<Option<Vec<u8>>, Ended> {
    match message {
        [kind, ..] if *kind != CLIENT_HELLO => Err(Ended::Wrong),
        [_, high, middle, low, body @ ..] => {
            let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
            if length > HELLO_MAX {
                return Err(Ended::Wrong);
            }
            Ok(body.get(..length).map(<[u8]>::to_vec))
        }
        _ => Ok(None),
    }
}

/// The name in a ClientHello; `Some(None)` when it has none, `None` when it is malformed.
fn server_name(hello: &[u8]) -> Option<Option<String>> {
    // Version and random.
    let rest = hello.get(34..)?;
    let (_session, rest) = split8(rest)?;
    let (_suites, rest) = split16(rest)?;
    let (_compression, rest) = split8(rest)?;
    if rest.is_empty() {
        return Some(None);
    }
    let (mut extensions, _) = split16(rest)?;
    while !extensions.is_empty() {
        let (kind, rest) = extensions.split_at_checked(2)?;
        let (content, rest) = split16(rest)?;
        if kind == SERVER_NAME.to_be_bytes() {
            return host_name(content).map(Some);
        }
        extensions = rest;
    }
    Some(None)
}

fn host_name(extension: &[u8]) -> Option<String> {
    let (mut names, _) = split16(extension)?;
    while let Some((kind, rest)) = names.split_first() {
        let (name, rest) = split16(rest)?;
        if *kind == HOST_NAME {
            let name = std::str::from_utf8(name).ok()?.trim_end_matches('.');
            let fits = !name.is_empty() && name.len() <= 253;
            let valid = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
            return (fits && valid).then(|| name.to_ascii_lowercase());
        }
        names = rest;
    }
    None
}

fn split8(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

fn split16(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A ClientHello with these extensions.
    fn hello(extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
        let mut message = vec![CLIENT_HELLO, 0];
        message.extend((body.len() as u16).to_be_bytes());
        message.extend(body);
        message
    }

    fn record(content: &[u8]) -> Vec<u8> {
        [&[HANDSHAKE, 3, 1][..], &(content.len() as u16).to_be_bytes(), content].concat()
    }

    fn named(name: &str) -> Vec<u8> {
        let length = name.len() as u16;
        let mut extension = vec![0, 43, 0, 2, 3, 4, 0, 0];
        extension.extend((length + 5).to_be_bytes());
        extension.extend((length + 3).to_be_bytes());
        extension.push(HOST_NAME);
        extension.extend(length.to_be_bytes());
        extension.extend(name.as_bytes());
        hello(&extension)
    }

    #[test]
    fn the_name_is_found() {
        let one = named("WWW.example.org");
        let (first, second) = one.split_at(20);
        let name = Hello::Named("www.example.org".into());
        let cases = [
            ("in one record", record(&one), name.clone()),
            ("over two records", [record(first), record(second)].concat(), name),
            ("without the extension", record(&hello(&[])), Hello::Nameless),
            ("an empty name", record(&named("")), Hello::NotTls),
            ("a name that is none", record(&named("a b")), Hello::NotTls),
            ("HTTP", b"GET / HTTP/1.1\r\n".to_vec(), Hello::NotTls),
            ("nothing yet", Vec::new(), Hello::Partial),
            ("a server's hello", record(&[2, 0, 0, 0]), Hello::NotTls),
            ("half of it", record(&one)[..30].to_vec(), Hello::Partial),
            ("a record that promises too much", record(&[1, 0xff, 0, 0]), Hello::NotTls),
        ];
        for (case, bytes, expected) in cases {
            assert_eq!(parse(&bytes), expected, "{case}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_read_as_far_as_needed_and_its_bytes_are_given_back() {
        use tokio::io::AsyncWriteExt;
        let bytes = record(&named("www.example.org"));
        let (mut near, mut far) = tokio::io::duplex(4096);
        let client = async {
            far.write_all(&bytes[..9]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            far.write_all(&bytes[9..]).await.unwrap();
        };
        let (read_, ()) = tokio::join!(read(&mut near, Duration::from_millis(100)), client);
        assert_eq!(read_.unwrap(), (Hello::Named("www.example.org".into()), Bytes::from(bytes)));
        let (mut silent, _far) = tokio::io::duplex(64);
        assert_eq!(read(&mut silent, Duration::from_millis(100)).await.unwrap(), (Hello::NotTls, Bytes::new()));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), at in 0_usize..80, change: u8) {
            parse(&bytes);
            let mut nearly = record(&named("www.example.org"));
            if let Some(byte) = nearly.get_mut(at) {
                *byte = change;
            }
            parse(&nearly);
            for end in 0..nearly.len() {
                parse(&nearly[..end]);
            }
        }
    }
}
