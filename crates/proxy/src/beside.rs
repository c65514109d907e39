//! A TLS connection on a stream, and datagrams beside it.
//!
//! Between sidecars of two clusters a UDP flow is one stream of capsules (RFC 9297): the bytes of the inner TLS are the values
//! of capsules of one type, sealed datagrams those of another. Gateways cannot read either, but they see where a datagram
//! begins and ends, so that they can carry it as a datagram of QUIC, as RFC 9297 wants of intermediaries.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};

use crate::capsule::{Capsule, Capsules, DATAGRAM, TLS, put_capsule};
use crate::mailbox::Mailbox;
use crate::sealed::{End, MATERIAL, NoKeys, Opener, Sealer, keys};
use crate::udp::QUEUE;

/// Bytes of TLS that wait for their reader.
const PIPE: usize = 64 * 1024;
/// Bytes of TLS in one capsule.
const CHUNK: usize = 16 * 1024;
/// How long one direction may go on without the other.
const END: Duration = Duration::from_secs(5);

/// A stream as it is, or the part of it that is TLS.
#[derive(Debug)]
pub enum MaybeBeside<S> {
    /// Nothing else is on the stream.
    Alone(S),
    /// Datagrams are, too.
    Beside(DuplexStream),
}

/// The datagrams of a stream, as they are on the wire.
#[derive(Debug)]
pub struct Raw {
    outgoing: Arc<Mailbox>,
    incoming: Arc<Mailbox>,
}

/// The datagrams of a flow between two sidecars.
#[derive(Debug)]
pub struct Datagrams {
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
    pub(crate) outgoing: Arc<Mailbox>,
    pub(crate) incoming: Arc<Mailbox>,
}

impl Raw {
    /// Seals them with keys of the TLS connection beside them, whose exporter is given.
    pub fn seal(
        self,
        end: End,
        export: impl Fn([u8; MATERIAL], &[u8]) -> Result<[u8; MATERIAL], rustls::Error>,
    ) -> Result<Datagrams, NoKeys> {
        let Self { outgoing, incoming } = self;
        keys(end, export).map(|(sealer, opener)| Datagrams { sealer, opener, outgoing, incoming })
    }
}

/// Takes a stream of capsules apart, by a task that lives as long as both.
pub fn split<S: AsyncRead + AsyncWrite + Send + 'static>(io: S) -> (DuplexStream, Raw) {
    let (near, far) = tokio::io::duplex(PIPE);
    let (outgoing, incoming) = (Arc::new(Mailbox::new(QUEUE)), Arc::new(Mailbox::new(QUEUE)));
    let raw = Raw { outgoing: Arc::clone(&outgoing), incoming: Arc::clone(&incoming) };
    tokio::spawn(async move {
        if let Err(error) = carry(io, far, &outgoing, &incoming).await {
            tracing::debug!(%error, "a stream with datagrams broke");
        }
        outgoing.close();
        incoming.close();
    });
    (near, raw)
}

async fn carry(
    io: impl AsyncRead + AsyncWrite + Send,
    tls: DuplexStream,
    outgoing: &Mailbox,
    incoming: &Mailbox,
) -> io::Result<()> {
    let ((reader, writer), (from_tls, to_tls)) = (tokio::io::split(io), tokio::io::split(tls));
    let (up, down) = (put_together(from_tls, writer, outgoing), take_apart(reader, to_tls, incoming));
    tokio::pin!(up, down);
    let other: Pin<&mut (dyn Future<Output = io::Result<()>> + Send)> = tokio::select! {
        ended = up.as_mut() => {
            ended?;
            down
        }
        ended = down.as_mut() => {
            ended?;
            up
        }
    };
    tokio::time::timeout(END, other).await.unwrap_or(Ok(()))
}

async fn put_together(
    mut tls: impl AsyncRead + Unpin,
    mut io: impl AsyncWrite + Unpin,
    outgoing: &Mailbox,
) -> io::Result<()> {
    let (mut chunk, mut capsules) = (BytesMut::with_capacity(CHUNK), BytesMut::new());
    let mut ended = false;
    while !ended {
        chunk.clear();
        tokio::select! {
            read = tls.read_buf(&mut chunk) => match read? {
                0 => ended = true,
                _ => put_capsule(TLS, &chunk, &mut capsules),
            },
            Some(datagram) = outgoing.take() => put_capsule(DATAGRAM, &datagram, &mut capsules),
        }
        // What was handed over before the end goes before it.
        while (ended || capsules.len() < CHUNK)
            && let Some(datagram) = outgoing.try_take()
        {
            put_capsule(DATAGRAM, &datagram, &mut capsules);
        }
        io.write_all(&capsules).await?;
        io.flush().await?;
        capsules.clear();
    }
    io.shutdown().await
}

async fn take_apart(
    mut io: impl AsyncRead + Unpin,
    mut tls: impl AsyncWrite + Unpin,
    incoming: &Mailbox,
) -> io::Result<()> {
    let (mut capsules, mut chunk) = (Capsules::default(), BytesMut::with_capacity(CHUNK));
    loop {
        chunk.clear();
        if io.read_buf(&mut chunk).await? == 0 {
            return tls.shutdown().await;
        }
        capsules.push(&chunk);
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        while let Some(Capsule { kind, value }) = capsules.next_capsule().map_err(invalid)? {
            match kind {
                TLS => tls.write_all(&value).await?,
                DATAGRAM => _ = incoming.put(value),
                // Of a later version: not for us.
                _ => {}
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for MaybeBeside<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Alone(io) => Pin::new(io).poll_read(cx, buf),
            Self::Beside(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MaybeBeside<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Alone(io) => Pin::new(io).poll_write(cx, bytes),
            Self::Beside(io) => Pin::new(io).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Alone(io) => Pin::new(io).poll_flush(cx),
            Self::Beside(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Alone(io) => Pin::new(io).poll_shutdown(cx),
            Self::Beside(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tls_and_datagrams_share_a_stream() {
        let (near, far) = tokio::io::duplex(256);
        let ((mut client, one), (mut server, two)) = (split(near), split(far));
        let text = vec![7; 100_000];
        let sent = text.clone();
        let writing = tokio::spawn(async move {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            client
        });
        for number in 0..QUEUE {
            assert!(one.outgoing.put(vec![number as u8; 1200].into()));
        }
        let mut read = Vec::new();
        server.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, text);
        for number in 0..QUEUE {
            assert_eq!(two.incoming.take().await.unwrap(), vec![number as u8; 1200]);
        }
        drop(server);
        drop(writing.await.unwrap());
        assert_eq!((one.incoming.take().await, two.incoming.take().await), (None, None), "the end is the end of both");
    }

    #[tokio::test]
    async fn datagrams_handed_over_before_the_end_arrive() {
        let (near, far) = tokio::io::duplex(256);
        let ((mut client, one), (_server, two)) = (split(near), split(far));
        for number in 0..QUEUE {
            assert!(one.outgoing.put(vec![number as u8; 1200].into()));
        }
        client.shutdown().await.unwrap();
        for number in 0..QUEUE {
            assert_eq!(two.incoming.take().await.as_deref(), Some(&[number as u8; 1200][..]));
        }
    }

    #[tokio::test]
    async fn garbage_ends_both() {
        let (near, mut far) = tokio::io::duplex(256);
        let (mut tls, raw) = split(near);
        far.write_all(&[0xff; 64]).await.unwrap();
        assert_eq!(raw.incoming.take().await, None);
        assert_eq!(tls.read(&mut [0]).await.unwrap(), 0);
    }
}
