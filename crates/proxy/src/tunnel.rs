//! The tunnel's own messages on the wire: header and reply as an HTTP header value or as a length-prefixed frame, and
//! the stream of path events.
//!
//! HBONE carries [`api::tunnel::Header`] and [`api::tunnel::Reply`] as base64 (standard alphabet, no padding) in
//! `x-isthmus-tunnel` and `x-isthmus-reply`. A QUIC stream carries the same messages behind a big-endian `u16` length.
//! [`api::tunnel::PathEvent`]s are protobuf length-delimited. Every length is checked against
//! [`api::TUNNEL_HEADER_MAX`] before a byte is allocated for it.

use std::io;

use api::tunnel::{Header, PathEvent, Reply};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Why bytes are not a tunnel message.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The message is longer than [`api::TUNNEL_HEADER_MAX`].
    #[error("a tunnel message of {length} bytes is longer than the {} allowed", api::TUNNEL_HEADER_MAX)]
    TooLong {
        /// Its claimed or actual length in bytes.
        length: usize,
    },
    /// The header value is not base64.
    #[error("the header value is not base64 without padding")]
    Base64,
    /// The bytes are not the protobuf message.
    #[error("the bytes are not the message that they should be")]
    Protobuf(#[from] prost::DecodeError),
    /// The stream failed or ended before the message did.
    #[error("the stream ended before the message did")]
    Io(#[from] io::Error),
}

/// A message that does not fit into [`api::TUNNEL_HEADER_MAX`] bytes and therefore cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a tunnel message of {length} bytes is longer than the {} allowed", api::TUNNEL_HEADER_MAX)]
pub struct TooLong {
    /// Its length in bytes.
    pub length: usize,
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for api::tunnel::Header {}
    impl Sealed for api::tunnel::Reply {}
}

/// The two messages that open a flow.
pub trait TunnelMessage: Message + Default + sealed::Sealed {}
impl TunnelMessage for Header {}
impl TunnelMessage for Reply {}

/// The message as the value of an HTTP header.
pub fn to_header_value<M: TunnelMessage>(message: &M) -> Result<HeaderValue, TooLong> {
    let bytes = encode(message)?;
    let text = STANDARD_NO_PAD.encode(bytes);
    // Base64 is visible ASCII, which a header value always takes.
    HeaderValue::try_from(text).map_err(|_| TooLong { length: message.encoded_len() })
}

/// Reads what [`to_header_value`] wrote.
pub fn from_header_value<M: TunnelMessage>(value: &HeaderValue) -> Result<M, DecodeError> {
    if value.len() > api::TUNNEL_HEADER_MAX.div_ceil(3) * 4 {
        return Err(DecodeError::TooLong { length: value.len() / 4 * 3 });
    }
    let bytes = STANDARD_NO_PAD.decode(value.as_bytes()).map_err(|_| DecodeError::Base64)?;
    decode(&bytes)
}

/// The tunnel header of a request; `None` when it has none.
pub fn header_of(headers: &HeaderMap) -> Option<Result<Header, DecodeError>> {
    headers.get(api::TUNNEL_HEADER).map(from_header_value)
}

/// The tunnel reply of a response; `None` when it has none that can be read.
pub fn reply_of(headers: &HeaderMap) -> Option<Reply> {
    headers.get(api::TUNNEL_REPLY).and_then(|value| from_header_value(value).ok())
}

/// The message as it stands on a QUIC stream: its length as a big-endian `u16`, then its bytes.
pub fn to_frame<M: TunnelMessage>(message: &M) -> Result<Bytes, TooLong> {
    let length = message.encoded_len();
    let prefix = u16::try_from(length).ok().filter(|_| length <= api::TUNNEL_HEADER_MAX).ok_or(TooLong { length })?;
    let mut frame = BytesMut::with_capacity(2 + length);
    frame.put_u16(prefix);
    frame.put_slice(&message.encode_to_vec());
    Ok(frame.freeze())
}

/// Reads what [`to_frame`] wrote. Not one byte behind the frame is taken from `reader`. Cancelling loses what was read.
pub async fn read_frame<M: TunnelMessage, R: AsyncRead + Unpin>(reader: &mut R) -> Result<M, DecodeError> {
    let length = usize::from(reader.read_u16().await?);
    if length > api::TUNNEL_HEADER_MAX {
        return Err(DecodeError::TooLong { length });
    }
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes).await?;
    decode(&bytes)
}

fn encode<M: TunnelMessage>(message: &M) -> Result<Vec<u8>, TooLong> {
    let length = message.encoded_len();
    if length > api::TUNNEL_HEADER_MAX { Err(TooLong { length }) } else { Ok(message.encode_to_vec()) }
}

fn decode<M: TunnelMessage>(bytes: &[u8]) -> Result<M, DecodeError> {
    if bytes.len() > api::TUNNEL_HEADER_MAX {
        return Err(DecodeError::TooLong { length: bytes.len() });
    }
    Ok(M::decode(bytes)?)
}

/// One path event as it stands in the body of `GET /isthmus/paths`.
pub fn encode_event(event: &PathEvent) -> Bytes {
    event.encode_length_delimited_to_vec().into()
}

/// Cuts a byte stream of [`encode_event`]s back into events, however its chunks fall.
#[derive(Debug, Default)]
pub struct EventDecoder {
    /// Bytes of events that are not complete yet; at most one event and one chunk.
    pending: BytesMut,
}

impl EventDecoder {
    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next whole event; `None` when more bytes are needed. After an error the stream is of no more use.
    pub fn next_event(&mut self) -> Result<Option<PathEvent>, DecodeError> {
        // A length of at most TUNNEL_HEADER_MAX takes two bytes as a varint.
        let mut peek = &self.pending[..];
        let length = match prost::decode_length_delimiter(&mut peek) {
            Ok(length) => length,
            Err(_) if self.pending.len() < 10 => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if length > api::TUNNEL_HEADER_MAX {
            return Err(DecodeError::TooLong { length });
        }
        if peek.len() < length {
            return Ok(None);
        }
        let event = PathEvent::decode(&peek[..length])?;
        let used = self.pending.len() - peek.len() + length;
        self.pending.advance(used);
        Ok(Some(event))
    }
}

#[cfg(test)]
mod tests {
    use api::tunnel::{Accepted, Mode, reply};
    use proptest::prelude::*;

    use super::*;

    fn header(service: &str, port: u32) -> Header {
        Header {
            version: 1,
            namespace: "default".into(),
            service: service.into(),
            port,
            mode: Mode::Mesh.into(),
            ..Header::default()
        }
    }

    #[test]
    fn a_message_beyond_the_limit_is_not_sent() {
        let header = header(&"x".repeat(api::TUNNEL_HEADER_MAX), 1);
        assert!(to_header_value(&header).is_err());
        assert!(to_frame(&header).is_err());
    }

    #[tokio::test]
    async fn a_frame_that_claims_too_much_is_refused_before_its_bytes_are_read() {
        let claim = u16::MAX.to_be_bytes();
        let error = read_frame::<Header, _>(&mut &claim[..]).await.expect_err("too long");
        assert!(matches!(error, DecodeError::TooLong { length: 65535 }), "{error}");
    }

    #[tokio::test]
    async fn a_frame_that_ends_early_is_refused() {
        let frame = to_frame(&header("reviews", 9080)).unwrap();
        let error = read_frame::<Header, _>(&mut &frame[..frame.len() - 1]).await.expect_err("cut");
        assert!(matches!(error, DecodeError::Io(_)), "{error}");
    }

    #[test]
    fn padded_and_url_safe_base64_is_refused() {
        for bad in ["CAE=", "__8", "not base64!"] {
            assert!(from_header_value::<Header>(&HeaderValue::from_static(bad)).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn headers_survive_both_encodings(service in "[a-z]{1,60}", port in any::<u32>(), tail in any::<Vec<u8>>()) {
            let header = header(&service, port);
            prop_assert_eq!(&from_header_value::<Header>(&to_header_value(&header).unwrap()).unwrap(), &header);
            let mut bytes = to_frame(&header).unwrap().to_vec();
            bytes.extend_from_slice(&tail);
            let mut reader = &bytes[..];
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            prop_assert_eq!(&runtime.block_on(read_frame::<Header, _>(&mut reader)).unwrap(), &header);
            prop_assert_eq!(reader, &tail[..]);
        }

        #[test]
        fn replies_survive(gateway in ".{0,40}") {
            let accepted = Accepted { gateway, ..Accepted::default() };
            let reply = Reply { reply: Some(reply::Reply::Accepted(accepted)) };
            prop_assert_eq!(&from_header_value::<Reply>(&to_header_value(&reply).unwrap()).unwrap(), &reply);
        }

        #[test]
        fn garbage_never_panics(bytes in any::<Vec<u8>>()) {
            let _ = decode::<Header>(&bytes);
            let mut decoder = EventDecoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_event() {}
        }

        #[test]
        fn events_survive_any_chunking(names in proptest::collection::vec("[a-z]{0,200}", 0..8), size in 1usize..9) {
            let event = |path: &String| PathEvent { path: path.clone(), cluster: "west".into(), usable: true };
            let events: Vec<_> = names.iter().map(event).collect();
            let bytes: Vec<u8> = events.iter().flat_map(|event| encode_event(event).to_vec()).collect();
            let mut decoder = EventDecoder::default();
            let mut seen = Vec::new();
            for chunk in bytes.chunks(size) {
                decoder.push(chunk);
                while let Some(event) = decoder.next_event().unwrap() {
                    seen.push(event);
                }
            }
            prop_assert_eq!(seen, events);
        }
    }
}
