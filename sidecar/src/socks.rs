//! The server side of SOCKS5 (RFC 1928): CONNECT without authentication, by name or address.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The first byte of every SOCKS5 message.
pub(crate) const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NO_ACCEPTABLE_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;

/// Why there is no flow.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocksError {
    /// The client went away or broke off.
    #[error("the SOCKS5 client broke off")]
    Io(#[from] io::Error),
    /// The client breaks the protocol.
    #[error("not SOCKS5: {0}")]
    Protocol(&'static str),
    /// The client wants something else than CONNECT without authentication.
    #[error("SOCKS5: {0} is not supported")]
    Unsupported(&'static str),
}

/// Where a client wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Destination {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Does the handshake and answers success; what follows is the flow. Whether the server can be reached shows there.
pub(crate) async fn accept<T: AsyncRead + AsyncWrite + Unpin>(io: &mut T) -> Result<Destination, SocksError> {
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
    if command != CONNECT {
        reply(io, 7).await?;
        return Err(SocksError::Unsupported("a command other than CONNECT"));
    }
    reply(io, 0).await?;
    Ok(Destination { host, port })
}

/// A reply with an empty bound address.
async fn reply<T: AsyncWrite + Unpin>(io: &mut T, code: u8) -> io::Result<()> {
    io.write_all(&[VERSION, code, 0, 1, 0, 0, 0, 0, 0, 0]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(request: &[u8]) -> (Result<Destination, SocksError>, Vec<u8>) {
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
            assert_eq!(accepted.unwrap(), Destination { host: host.into(), port: 9080 });
            assert_eq!(answer, b"\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00");
        }
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
