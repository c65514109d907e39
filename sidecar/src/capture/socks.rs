//! The server's half of SOCKS5 CONNECT without authentication (RFC 1928).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The first byte of every SOCKS5 message.
pub(super) const VERSION: u8 = 5;

const NO_AUTHENTICATION: u8 = 0;
const NO_ACCEPTABLE_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const SUCCEEDED: u8 = 0;
const COMMAND_NOT_SUPPORTED: u8 = 7;
const ADDRESS_NOT_SUPPORTED: u8 = 8;

/// Why a SOCKS client is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocksError {
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// Not SOCKS5.
    #[error("version {0} is not SOCKS5")]
    Version(u8),
    /// The client insists on an authentication method.
    #[error("the client offers no method without authentication")]
    Method,
    /// BIND or UDP ASSOCIATE.
    #[error("command {0} is not CONNECT")]
    Command(u8),
    /// Not an address or a name.
    #[error("address type {0} is not known")]
    AddressType(u8),
    /// A name that is not UTF-8, or empty.
    #[error("the host name is not valid")]
    Name,
}

/// Reads the greeting and the request, and answers both. The answer says "succeeded" before anything is dialled: where a
/// connection goes is decided with its first bytes, and a failure ends it.
pub(super) async fn accept<T: AsyncRead + AsyncWrite + Unpin>(mut io: T) -> Result<(T, String, u16), SocksError> {
    version(&mut io).await?;
    let count = io.read_u8().await?;
    let mut methods = vec![0; count.into()];
    io.read_exact(&mut methods).await?;
    if !methods.contains(&NO_AUTHENTICATION) {
        io.write_all(&[VERSION, NO_ACCEPTABLE_METHOD]).await?;
        return Err(SocksError::Method);
    }
    io.write_all(&[VERSION, NO_AUTHENTICATION]).await?;
    version(&mut io).await?;
    let command = io.read_u8().await?;
    if command != CONNECT {
        reply(&mut io, COMMAND_NOT_SUPPORTED).await?;
        return Err(SocksError::Command(command));
    }
    let _reserved = io.read_u8().await?;
    let host = host(&mut io).await?;
    let port = io.read_u16().await?;
    reply(&mut io, SUCCEEDED).await?;
    Ok((io, host, port))
}

async fn version<T: AsyncRead + Unpin>(io: &mut T) -> Result<(), SocksError> {
    match io.read_u8().await? {
        VERSION => Ok(()),
        other => Err(SocksError::Version(other)),
    }
}

async fn host<T: AsyncRead + AsyncWrite + Unpin>(io: &mut T) -> Result<String, SocksError> {
    match io.read_u8().await? {
        1 => Ok(Ipv4Addr::from_bits(io.read_u32().await?).to_string()),
        4 => Ok(Ipv6Addr::from_bits(io.read_u128().await?).to_string()),
        3 => {
            let mut name = vec![0; io.read_u8().await?.into()];
            io.read_exact(&mut name).await?;
            String::from_utf8(name).ok().filter(|name| !name.is_empty()).ok_or(SocksError::Name)
        }
        other => {
            reply(io, ADDRESS_NOT_SUPPORTED).await?;
            Err(SocksError::AddressType(other))
        }
    }
}

async fn reply<T: AsyncWrite + Unpin>(io: &mut T, code: u8) -> io::Result<()> {
    // The bound address is of no use to anybody: 0.0.0.0:0.
    io.write_all(&[VERSION, code, 0, 1, 0, 0, 0, 0, 0, 0]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn say(bytes: &[u8]) -> (Result<(String, u16), SocksError>, Vec<u8>) {
        let (mut client, server) = tokio::io::duplex(1024);
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let asked = accept(server).await.map(|(_, host, port)| (host, port));
        let mut answered = Vec::new();
        client.read_to_end(&mut answered).await.unwrap();
        (asked, answered)
    }

    #[tokio::test]
    async fn names_and_addresses_are_taken_as_they_are() {
        let ok = [VERSION, 0, VERSION, SUCCEEDED, 0, 1, 0, 0, 0, 0, 0, 0];
        let cases: [(&[u8], &str, u16); 3] = [
            (b"\x05\x01\x00\x05\x01\x00\x03\x07reviews\x23\x78", "reviews", 9080),
            (b"\x05\x02\x02\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50", "127.0.0.1", 80),
            (b"\x05\x01\x00\x05\x01\x00\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x00\x50", "::1", 80),
        ];
        for (bytes, host, port) in cases {
            let (asked, answered) = say(bytes).await;
            assert_eq!(asked.unwrap(), (host.to_owned(), port));
            assert_eq!(answered, ok);
        }
    }

    #[tokio::test]
    async fn what_is_not_supported_is_said() {
        let (asked, answered) = say(b"\x05\x01\x02").await;
        assert!(matches!(asked, Err(SocksError::Method)));
        assert_eq!(answered, [VERSION, NO_ACCEPTABLE_METHOD]);
        let (asked, answered) = say(b"\x05\x01\x00\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50").await;
        assert!(matches!(asked, Err(SocksError::Command(2))));
        assert_eq!(answered[3], COMMAND_NOT_SUPPORTED);
    }
}
