//! What one peer may make an HTTP/2 connection hold: one set of numbers for every listener of the mesh.

use std::time::Duration;

/// Bounds of one HTTP/2 connection. How many streams and how much data it may have is each listener's own choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Bounds {
    /// Bytes of the fields of one request, each counted with 32 more (RFC 9113 §6.5.2); with it come the CONTINUATION
    /// frames that may follow.
    pub header_list: u32,
    /// Streams that the peer may open and reset before they were looked at (CVE-2023-44487); one more ends the connection.
    pub pending_accept_resets: usize,
    /// Streams that the peer may make us reset, by breaking the protocol; one more ends the connection.
    pub local_error_resets: usize,
    /// Streams that are over by our reset and remembered for frames that were under way.
    pub remembered_resets: usize,
    /// Bytes of answers that wait for one stream's window.
    pub send_buffer: usize,
    /// After so long without a frame the peer is asked whether it is there.
    pub keep_alive: Duration,
    /// How long it may take to say so.
    pub keep_alive_timeout: Duration,
}

/// The bounds of every listener of the mesh.
pub const HTTP2_BOUNDS: Http2Bounds = Http2Bounds {
    header_list: 64 * 1024,
    pending_accept_resets: 20,
    local_error_resets: 256,
    remembered_resets: 50,
    send_buffer: 256 * 1024,
    keep_alive: Duration::from_secs(60),
    // A peer may be out of reach for a minute and a half, as between clusters.
    keep_alive_timeout: Duration::from_secs(90),
};

/// From so many requests on a connection is judged by how many its client gave up (Envoy's default).
const JUDGED_FROM: u64 = 500;

/// A request that its client gives up later than this was meant: its answer took too long (Envoy's default).
pub const GIVEN_UP_WITHIN: Duration = Duration::from_secs(1);

/// Whether the client of a connection gives up so many of its requests, before their answers begin, that it must mean the
/// work and not the answers: more than half (Envoy's default), each within [`GIVEN_UP_WITHIN`].
pub fn gives_up_too_often(begun: u64, given_up: u64) -> bool {
    begun >= JUDGED_FROM && given_up > begun / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_may_give_up_a_few_requests_or_half_of_many() {
        for (begun, given_up, expected) in
            [(1, 1, false), (499, 499, false), (500, 250, false), (500, 251, true), (10_000, 4_000, false)]
        {
            assert_eq!(gives_up_too_often(begun, given_up), expected, "{given_up} of {begun}");
        }
    }
}
