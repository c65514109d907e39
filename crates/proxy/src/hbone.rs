//! HTTP/2 CONNECT streams (HBONE) and plain requests on crate `h2`, so that data may leave before the answer.
//!
//! [`Outer`] is the client side of one connection, [`serve`] the server side. Both carry flows as [`H2Io`]: an
//! `AsyncRead + AsyncWrite` whose reads release flow control as they happen, whose writes wait for capacity, whose
//! shutdown is `END_STREAM` and whose drop before the end is `RST_STREAM(CANCEL)`.
//!
//! The streams below are already TLS: nothing here knows certificates. Start reading at [`Outer::connect`] and
//! [`Incoming`].

mod client;
mod io;
mod keep_alive;
mod server;

use std::time::Duration;

pub use client::{Answer, AnswerError, Connecting, HandshakeError, Outer, RequestError};
pub use io::{H2Io, H2Reader, H2Writer};
pub use server::{Incoming, Responder, serve};

/// Says that a stream is a sequence of capsules (RFC 9297, section 3.4).
pub const CAPSULE_PROTOCOL: http::HeaderName = http::HeaderName::from_static("capsule-protocol");
/// The protocol of an extended CONNECT (RFC 8441) that carries UDP datagrams (RFC 9298).
const CONNECT_UDP: &str = "connect-udp";

/// How one HTTP/2 connection is run; the default suits meshed peers.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What metrics call the listener; of clients nothing.
    pub listener: &'static str,
    /// Streams that the peer may have open at once.
    pub max_concurrent_streams: u32,
    /// Bytes that the peer may send on one stream beyond what was read.
    pub stream_window: u32,
    /// Bytes that the peer may send on the connection beyond what was read; bounds its memory.
    pub connection_window: u32,
    /// Bytes of the headers of one request or response.
    pub max_header_list: u32,
    /// How long the HTTP/2 preface may take.
    pub handshake_timeout: Duration,
    /// Time between pings while no stream is open.
    pub ping_idle: Duration,
    /// Time between pings while a stream is open.
    pub ping_in_use: Duration,
    /// How long a pong may take before the connection is given up.
    pub ping_timeout: Duration,
    /// Whether a server takes extended CONNECT, which carries UDP.
    pub extended_connect: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listener: "hbone",
            max_concurrent_streams: 4096,
            stream_window: 1 << 20,
            // Many times the stream window, so that a few slow readers do not stall the others.
            connection_window: 32 << 20,
            // The base64 of a tunnel header and everything else.
            max_header_list: 32 * 1024,
            handshake_timeout: Duration::from_secs(5),
            ping_idle: Duration::from_secs(10),
            ping_in_use: Duration::from_secs(2),
            ping_timeout: Duration::from_secs(5),
            extended_connect: false,
        }
    }
}

impl Settings {
    /// For connections between sidecars of two clusters. Their flows outlive a hole in the WAN as long as the tunnel below does,
    /// whose gateways watch the path: pings only end what is dead altogether. The windows are as large as a long way needs.
    #[must_use]
    pub fn across_clusters(self) -> Self {
        Self {
            stream_window: ACROSS_STREAM_WINDOW,
            connection_window: ACROSS_CONNECTION_WINDOW,
            ping_idle: ACROSS_PING,
            ping_in_use: ACROSS_PING,
            ping_timeout: ACROSS_PING_TIMEOUT,
            ..self
        }
    }
}

/// Bytes on the way on one stream between clusters: 100 Mbit/s at 80 ms, twice, since a window is given back when half of it has been read.
pub const ACROSS_STREAM_WINDOW: u32 = 2 << 20;
/// Bytes on the way on one connection between clusters.
pub const ACROSS_CONNECTION_WINDOW: u32 = 8 << 20;
/// The same for the answers on a connection that brief requests share (`pool::Policy::REMOTE`): more streams fit into it.
pub const ACROSS_ANSWERS_WINDOW: u32 = 24 << 20;
const ACROSS_PING: Duration = Duration::from_secs(30);
/// Longer than the 90 s for which gateways keep a tunnel that is silent.
const ACROSS_PING_TIMEOUT: Duration = Duration::from_secs(100);

#[cfg(test)]
mod tests;
