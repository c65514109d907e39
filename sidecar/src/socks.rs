//! The server side of SOCKS5 (RFC 1928): CONNECT and UDP ASSOCIATE without authentication, by name or address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The first byte of every SOCKS5 message.
pub(crate) const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NO_ACCEPTABLE_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const UDP_ASSOCIATE: u8 = 3;

/// Why there is no flow.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocksError {
    /// The client went away or broke off.
    #[error("the SOCKS5 client broke off")]
    Io(#[from] io::Error),
    /// The client breaks the protocol.
    #[error("not SOCKS5: {0}")]
    Protocol(&'static str),
    /// The client wants something else than CONNECT or UDP ASSOCIATE without authentication.
    #[error("SOCKS5: {0} is not supported")]
    Unsupported(&'static str),
}

/// Where a client wants to go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Destination {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A connection; success was answered, and what follows is the flow.
    Connect(Destination),
    /// A place to send datagrams to, which [`associated`] is to answer.
    Associate,
}

/// Does the handshake, and answers CONNECT with success: whether the server can be reached shows in the flow.
pub(crate) async fn accept<T: AsyncRead + AsyncWrite + Unpin>(io: &mut T) -> Result<Asked, SocksError> {
    if io.read_u8().await? != VERSION {
        return Err(SocksError::Protocol("wrong version"));
    }
    let mut methods = vec![0; usize::from(io.read_u8().await?)];
    io.read_exact(&mut methods).await?;
    if !methods.contains(&NO_AUTHENTICATION) {
        io.write_all(&[VERSION, NO_ACCEPTABLE_METHOD]).await?;
        return Err(SocksError::Unsupported("authentication"));
    }
    io.write_all(&[VERSION, NO_AUTHENTICATION]).await?;
    let mut head = [0; 4];
    io.read_exact(&mut head).await?;
    let [version, command, _reserved, kind] = head;
    if version != VERSION {
        return Err(SocksError::Protocol("wrong version"));
    }
    let host = match kind {
        1 => Ipv4Addr::from(io.read_u32().await?).to_string(),
        4 => Ipv6Addr::from(io.read_u128().await?).to_string(),
        3 => {
            let mut name = vec![0; usize::from(io.read_u8().await?)];
            io.read_exact(&mut name).await?;
            String::from_utf8(name).map_err(|_| SocksError::Protocol("the name is not text"))?
        }
        _ => {
            reply(io, 8).await?;
            return Err(SocksError::Unsupported("this kind of address"));
        }
    };
    let port = io.read_u16().await?;
    match command {
        CONNECT => {
            reply(io, 0).await?;
            Ok(Asked::Connect(Destination { host, port }))
        }
        // The address from which datagrams will come is often not known to the client: the first one tells.
        UDP_ASSOCIATE => Ok(Asked::Associate),
        _ => {
            reply(io, 7).await?;
            Err(SocksError::Unsupported("a command other than CONNECT and UDP ASSOCIATE"))
        }
    }
}

/// Answers UDP ASSOCIATE: datagrams are expected at `bound`.
pub(crate) async fn associated<T: AsyncWrite + Unpin>(io: &mut T, bound: SocketAddr) -> io::Result<()> {
    let mut answer = vec![VERSION, 0, 0];
    put_address(&bound.ip().to_string(), bound.port(), &mut answer);
    io.write_all(&answer).await
}

/// Reads the header of a datagram (RFC 1928, section 7): where it is to go, and its payload. `None` for what is none, and
/// for fragments.
pub(crate) fn read_datagram(datagram: &[u8]) -> Option<(Destination, &[u8])> {
    let (&[_, _, fragment, kind], rest) = datagram.split_first_chunk::<4>()?;
    if fragment != 0 {
        return None;
    }
    let (host, rest) = match kind {
        1 => rest.split_first_chunk::<4>().map(|(ip, rest)| (Ipv4Addr::from(*ip).to_string(), rest))?,
        4 => rest.split_first_chunk::<16>().map(|(ip, rest)| (Ipv6Addr::from(*ip).to_string(), rest))?,
        3 => {
            let (length, rest) = rest.split_first()?;
            let (name, rest) = rest.split_at_checked(usize::from(*length))?;
            (std::str::from_utf8(name).ok()?.to_owned(), rest)
        }
        _ => return None,
    };
    let (port, payload) = rest.split_first_chunk::<2>()?;
    Some((Destination { host, port: u16::from_be_bytes(*port) }, payload))
}

/// Appends a datagram with the header that says where it comes from.
pub(crate) fn put_datagram(from: &Destination, payload: &[u8], into: &mut Vec<u8>) {
    into.extend([0, 0, 0]);
    put_address(&from.host, from.port, into);
    into.extend_from_slice(payload);
}

fn put_address(host: &str, port: u16, into: &mut Vec<u8>) {
    match host.parse() {
        Ok(IpAddr::V4(ip)) => {
            into.push(1);
            into.extend(ip.octets());
        }
        Ok(IpAddr::V6(ip)) => {
            into.push(4);
            into.extend(ip.octets());
        }
        Err(_) => {
            // A name came with a length of one byte.
            let name = &host.as_bytes()[..host.len().min(255)];
            into.push(3);
            into.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
            into.extend_from_slice(name);
        }
    }
    into.extend(port.to_be_bytes());
}

/// A reply with an empty bound address.
async fn reply<T: AsyncWrite + Unpin>(io: &mut T, code: u8) -> io::Result<()> {
    io.write_all(&[VERSION, code, 0, 1, 0, 0, 0, 0, 0, 0]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(request: &[u8]) -> (Result<Asked, SocksError>, Vec<u8>) {
        let (mut near, mut far) = tokio::io::duplex(1024);
        far.write_all(request).await.unwrap();
        let accepted = accept(&mut near).await;
        drop(near);
        let mut answer = Vec::new();
        far.read_to_end(&mut answer).await.unwrap();
        (accepted, answer)
    }

    #[tokio::test]
    async fn names_and_addresses_are_read() {
        let cases: [(&[u8], &str); 3] = [
            (b"\x05\x01\x00\x05\x01\x00\x03\x07reviews\x23\x78", "reviews"),
            (b"\x05\x02\x02\x00\x05\x01\x00\x01\x7f\x00\x00\x09\x23\x78", "127.0.0.9"),
            (b"\x05\x01\x00\x05\x01\x00\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x23\x78", "::1"),
        ];
        for (request, host) in cases {
            let (accepted, answer) = check(request).await;
            assert_eq!(accepted.unwrap(), Asked::Connect(Destination { host: host.into(), port: 9080 }));
            assert_eq!(answer, b"\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00");
        }
    }

    #[tokio::test]
    async fn datagrams_are_asked_for_and_answered_with_a_place() {
        let (accepted, answer) = check(b"\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00").await;
        assert_eq!((accepted.unwrap(), &answer[..]), (Asked::Associate, &b"\x05\x00"[..]));
        let mut answer = Vec::new();
        associated(&mut answer, "127.0.0.9:9080".parse().unwrap()).await.unwrap();
        assert_eq!(answer, b"\x05\x00\x00\x01\x7f\x00\x00\x09\x23\x78");
    }

    #[test]
    fn headers_of_datagrams_survive_and_what_is_none_is_dropped() {
        for host in ["127.0.0.9", "::1", "reviews.default.svc.clusterset.local"] {
            let from = Destination { host: host.into(), port: 53 };
            let mut datagram = Vec::new();
            put_datagram(&from, b"payload", &mut datagram);
            assert_eq!(read_datagram(&datagram), Some((from, &b"payload"[..])));
            let header = datagram.len() - b"payload".len();
            for cut in 0..header {
                assert_eq!(read_datagram(&datagram[..cut]), None, "{host} {cut}");
            }
            datagram[2] = 1;
            assert_eq!(read_datagram(&datagram), None, "a fragment");
        }
        assert_eq!(read_datagram(&[0, 0, 0, 9, 1, 1, 1, 1, 0, 1]), None, "no kind of address");
    }

    #[tokio::test]
    async fn what_is_not_offered_is_refused() {
        let cases: [(&[u8], &[u8]); 3] = [
            (b"\x05\x01\x02", b"\x05\xff"),
            (
                b"\x05\x01\x00\x05\x02\x00\x01\x7f\x00\x00\x09\x23\x78",
                b"\x05\x00\x05\x07\x00\x01\x00\x00\x00\x00\x00\x00",
            ),
            (b"\x05\x01\x00\x05\x01\x00\x09", b"\x05\x00\x05\x08\x00\x01\x00\x00\x00\x00\x00\x00"),
        ];
        for (request, expected) in cases {
            let (accepted, answer) = check(request).await;
            assert!(matches!(accepted, Err(SocksError::Unsupported(_))), "{accepted:?}");
            assert_eq!(answer, expected);
        }
    }
}
