//! The first message of a TLS client, read without answering it.

use std::io;

use bytes::{Bytes, BytesMut};
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt};

/// A ClientHello is never longer than this: hybrid key shares and long lists of extensions need some 2 KiB.
const HELLO_MAX: usize = 64 * 1024;

/// What a client says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The server that it wants, lower case.
    pub sni: Option<String>,
    /// Protocols that it speaks, best first.
    pub alpn: Vec<Vec<u8>>,
    /// Every byte that was read; put them back before the handshake.
    pub first: Bytes,
}

/// Reads a ClientHello. An error means that the client speaks no TLS, or went away.
pub async fn read_hello<T: AsyncRead + Unpin>(io: &mut T) -> io::Result<Hello> {
    let mut first = BytesMut::with_capacity(4096);
    let mut acceptor = Acceptor::default();
    loop {
        if first.len() > HELLO_MAX {
            return Err(invalid("the ClientHello is too long"));
        }
        let known = first.len();
        if io.read_buf(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut fresh = &first[known..];
        while !fresh.is_empty() {
            acceptor.read_tls(&mut fresh)?;
            match acceptor.accept() {
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    let sni = hello.server_name().map(str::to_ascii_lowercase);
                    let alpn = hello.alpn().map(|names| names.map(<[u8]>::to_vec).collect()).unwrap_or_default();
                    return Ok(Hello { sni, alpn, first: first.freeze() });
                }
                Ok(None) => {}
                Err((error, _)) => return Err(invalid(error.to_string())),
            }
        }
    }
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}
