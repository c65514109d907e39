//! Handshakes with a deadline, which end in a stream and the peer's proven identity.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::{CertificateError, ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::chain::{PeerError, PeerIdentity, peer_identity};

/// The name that TLS clients must be given although none is ever sent or checked.
pub const DUMMY_SERVER_NAME: &str = "isthmus.invalid";

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// We do not believe the peer.
    #[error("the peer was refused")]
    Peer(#[source] PeerError),
    /// The peer does not believe us, or speaks another dialect: it sent an alert.
    #[error("the peer ended the handshake")]
    Refused(#[source] rustls::Error),
    /// Another failure of the handshake on our side; for a server this includes having no SVID yet.
    #[error("the handshake failed")]
    Handshake(#[source] rustls::Error),
    /// The handshake took longer than allowed.
    #[error("the handshake took longer than {0:?}")]
    Timeout(Duration),
    /// The peer speaks none of the protocols that the configuration names.
    #[error("the peer negotiated no application protocol")]
    NoProtocol,
    /// The transport failed or ended.
    #[error("the connection broke during the handshake")]
    Transport(#[source] io::Error),
}

/// Accepts a mutual TLS connection.
pub async fn accept_tls<IO: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ServerConfig>,
    io: IO,
    handshake_timeout: Duration,
) -> Result<(server::TlsStream<IO>, PeerIdentity), TlsError> {
    let stream = accept_tls_open(config, io, handshake_timeout).await?;
    let peer = identity_of(stream.get_ref().1.peer_certificates())?;
    Ok((stream, peer))
}

/// Accepts a TLS connection whose client proves nothing.
pub async fn accept_tls_open<IO: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ServerConfig>,
    io: IO,
    handshake_timeout: Duration,
) -> Result<server::TlsStream<IO>, TlsError> {
    let alpn_wanted = !config.alpn_protocols.is_empty();
    let handshake = TlsAcceptor::from(config).accept(io);
    let stream = within(handshake_timeout, handshake).await?;
    if alpn_wanted && stream.get_ref().1.alpn_protocol().is_none() {
        return Err(TlsError::NoProtocol);
    }
    Ok(stream)
}

/// Opens a TLS connection. That the server accepts *us* shows only with its first bytes: TLS 1.3 has the client finish
/// first.
pub async fn connect_tls<IO: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ClientConfig>,
    io: IO,
    handshake_timeout: Duration,
) -> Result<(client::TlsStream<IO>, PeerIdentity), TlsError> {
    let alpn_wanted = !config.alpn_protocols.is_empty();
    let name = ServerName::try_from(DUMMY_SERVER_NAME)
        .map_err(|_| TlsError::Transport(io::Error::from(io::ErrorKind::InvalidInput)))?;
    let stream = within(handshake_timeout, TlsConnector::from(config).connect(name, io)).await?;
    if alpn_wanted && stream.get_ref().1.alpn_protocol().is_none() {
        return Err(TlsError::NoProtocol);
    }
    let peer = identity_of(stream.get_ref().1.peer_certificates())?;
    Ok((stream, peer))
}

/// The proven peer of a QUIC connection made with a configuration of [`crate::Credentials`].
pub fn quic_peer(connection: &quinn::Connection) -> Result<PeerIdentity, PeerError> {
    let chain = connection.peer_identity().ok_or(PeerError::NoCertificate)?;
    let chain = chain.downcast::<Vec<CertificateDer<'static>>>().map_err(|_| PeerError::NoCertificate)?;
    peer_identity(&chain)
}

fn identity_of(chain: Option<&[CertificateDer<'static>]>) -> Result<PeerIdentity, TlsError> {
    peer_identity(chain.unwrap_or_default()).map_err(TlsError::Peer)
}

async fn within<T>(limit: Duration, handshake: impl Future<Output = io::Result<T>>) -> Result<T, TlsError> {
    match tokio::time::timeout(limit, handshake).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(explain(error)),
        Err(_) => Err(TlsError::Timeout(limit)),
    }
}

/// rustls wraps its errors in `io::Error`; the reason is found again by type, never by its text.
fn explain(error: io::Error) -> TlsError {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return TlsError::Transport(error);
    };
    match tls {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
            match other.0.downcast_ref::<PeerError>() {
                Some(reason) => TlsError::Peer(reason.clone()),
                None => TlsError::Handshake(tls.clone()),
            }
        }
        rustls::Error::NoCertificatesPresented => TlsError::Peer(PeerError::NoCertificate),
        rustls::Error::AlertReceived(_) => TlsError::Refused(tls.clone()),
        _ => TlsError::Handshake(tls.clone()),
    }
}

#[cfg(test)]
mod tests;
