//! What a stream speaks, told from its first bytes, and a stream whose first bytes are read again.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use crate::delegate::writes_as_inner;

/// How long an undeclared port waits for its client before the application is dialled (design: point 4).
pub const CLIENT_SILENCE: Duration = Duration::from_millis(100);
/// The first bytes of HTTP/2.
pub const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const METHODS: [&[u8]; 9] =
    [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"TRACE "];

/// What a stream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP/1.x.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Something else, or nothing yet.
    Opaque,
}

/// Judges the first bytes; `None` while they may still become HTTP. Empty lines before a request are skipped, as servers
/// do (RFC 9112 §2.2).
pub fn classify(first: &[u8]) -> Option<Spoken> {
    let blank = first.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let first = &first[blank..];
    if first.starts_with(HTTP2_PREFACE) {
        return Some(Spoken::Http2);
    }
    if METHODS.iter().any(|method| first.starts_with(method)) {
        return Some(Spoken::Http1);
    }
    let may_become = |whole: &[u8]| whole.starts_with(first);
    if may_become(HTTP2_PREFACE) || METHODS.iter().any(|method| may_become(method)) {
        return None;
    }
    Some(Spoken::Opaque)
}

/// What was learnt about a stream before it was handed on.
#[derive(Debug)]
pub struct Sniffed {
    /// What it speaks; [`Spoken::Opaque`] when the client stayed silent.
    pub spoken: Spoken,
    /// The bytes read; empty when the client stayed silent.
    pub first: Bytes,
    /// The client closed its side before any byte.
    pub closed: bool,
}

/// How long a client may pause inside the first word of a request.
const HESITATION: Duration = Duration::from_secs(10);
/// Empty lines are skipped up to this many bytes of them.
const UNDECIDED_MAX: usize = 1024;

/// Reads until the protocol is known or `silence` has passed without a first byte. Who has begun like HTTP is not taken
/// for opaque when it pauses: a pause would be a way around everything that is done to requests.
pub async fn sniff<T: AsyncRead + Unpin>(io: &mut T, silence: Duration) -> io::Result<Sniffed> {
    let mut first = BytesMut::with_capacity(1024);
    loop {
        let patience = if first.is_empty() { silence } else { HESITATION };
        if first.len() > UNDECIDED_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "nothing but empty lines"));
        }
        match tokio::time::timeout(patience, io.read_buf(&mut first)).await {
            Err(_) if !first.is_empty() => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "a request broke off in its first word"));
            }
            Err(_) => return Ok(Sniffed { spoken: Spoken::Opaque, first: first.freeze(), closed: false }),
            Ok(Err(error)) => return Err(error),
            Ok(Ok(0)) => {
                return Ok(Sniffed { spoken: Spoken::Opaque, closed: first.is_empty(), first: first.freeze() });
            }
            Ok(Ok(_)) => {
                if let Some(spoken) = classify(&first) {
                    return Ok(Sniffed { spoken, first: first.freeze(), closed: false });
                }
            }
        }
    }
}

/// A stream whose first bytes were read by someone else and are read again.
#[derive(Debug)]
pub struct Rewind<T> {
    first: Bytes,
    inner: T,
}

impl<T> Rewind<T> {
    /// Puts `first` back in front of `inner`.
    pub fn new(first: Bytes, inner: T) -> Self {
        Self { first, inner }
    }

    /// The stream itself.
    pub fn get_ref(&self) -> &T {
        &self.inner
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Rewind<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let length = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first[..length]);
        self.first.advance(length);
        Poll::Ready(Ok(()))
    }
}

writes_as_inner!(Rewind);

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[test]
    fn first_bytes_decide() {
        let cases: [(&[u8], Option<Spoken>); 9] = [
            (b"GET / HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"\r\n\r\nGET / HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"\r\n", None),
            (b"GE", None),
            (b"PRI * HT", None),
            (HTTP2_PREFACE, Some(Spoken::Http2)),
            (b"GETX", Some(Spoken::Opaque)),
            (b"\x16\x03\x01", Some(Spoken::Opaque)),
            (b"", None),
        ];
        for (first, expected) in cases {
            assert_eq!(classify(first), expected, "{first:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_opaque_after_the_wait() {
        let (mut near, _far) = tokio::io::duplex(64);
        let sniffed = sniff(&mut near, CLIENT_SILENCE).await.unwrap();
        assert_eq!((sniffed.spoken, sniffed.first.len(), sniffed.closed), (Spoken::Opaque, 0, false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_inside_the_method_does_not_make_a_request_opaque() {
        let (mut near, mut far) = tokio::io::duplex(64);
        let client = async {
            far.write_all(b"GE").await.unwrap();
            tokio::time::sleep(CLIENT_SILENCE * 3).await;
            far.write_all(b"T / HTTP/1.1\r\n").await.unwrap();
        };
        let (sniffed, ()) = tokio::join!(sniff(&mut near, CLIENT_SILENCE), client);
        assert_eq!(sniffed.unwrap().spoken, Spoken::Http1);
    }

    #[tokio::test]
    async fn what_was_read_is_read_again() {
        let (mut near, mut far) = tokio::io::duplex(64);
        far.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let sniffed = sniff(&mut near, CLIENT_SILENCE).await.unwrap();
        assert_eq!(sniffed.spoken, Spoken::Http1);
        drop(far);
        let mut all = Vec::new();
        Rewind::new(sniffed.first, near).read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"GET / HTTP/1.1\r\n\r\n");
    }
}
