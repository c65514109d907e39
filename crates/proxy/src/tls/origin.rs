//! TLS towards servers, as DestinationRules ask for it.

use mesh::{OriginateTls, View};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::fault::Fault;

/// Opens TLS as a client; clones share what was read.
#[derive(Debug, Clone, Default)]
pub struct Originator {}

impl Originator {
    /// Nothing is read before it is needed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Does the handshake on a connected stream. `host` is the destination's: the server's name unless `tls` says
    /// another one.
    pub async fn connect(
        &self,
        _stream: TcpStream,
        _tls: &OriginateTls,
        host: &str,
        _view: &View,
        _alpn: &[&[u8]],
    ) -> Result<TlsStream<TcpStream>, Fault> {
        Err(Fault::connect(format!("TLS to {host} cannot be originated yet")))
    }
}
