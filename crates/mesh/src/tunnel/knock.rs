//! `Knocks`: what a connection may send into a silence although its congestion window is used up.
//!
//! QUIC sends two packets each time its probe timeout is over, and doubles the timeout while nothing is acknowledged. What
//! is under way when a black hole begins uses the window up, so that nothing else leaves: after a hole of a minute the next
//! packets may come another minute later. Knocks come at an even pace, and carry what waits.

use std::time::{Duration, Instant};

/// The pause between knocks.
pub const KNOCK_EVERY: Duration = Duration::from_millis(500);
/// Room for one: a packet, or two that leave together.
const PACKETS: u64 = 2;

/// What one connection has sent and heard.
#[derive(Debug, Clone)]
pub struct Knocks {
    /// Bytes of the largest packet.
    packet: u64,
    /// Bytes sent and neither acknowledged nor lost, at most.
    in_flight: u64,
    /// When something was last sent.
    sent_at: Instant,
    /// When something was last acknowledged; the beginning before that.
    heard_at: Instant,
    /// Smoothed round trip.
    rtt: Duration,
}

impl Knocks {
    /// A connection that begins now, with the size of its largest packets.
    pub fn new(now: Instant, packet: u16) -> Self {
        Self { packet: packet.into(), in_flight: 0, sent_at: now, heard_at: now, rtt: Duration::ZERO }
    }

    /// Its largest packets have another size now.
    pub fn resize(&mut self, packet: u16) {
        self.packet = packet.into();
    }

    /// So many bytes left.
    pub fn sent(&mut self, now: Instant, bytes: u64) {
        self.sent_at = now;
        self.in_flight = self.in_flight.saturating_add(bytes);
    }

    /// A packet was acknowledged.
    pub fn heard(&mut self, now: Instant, rtt: Duration) {
        self.heard_at = now;
        self.rtt = rtt;
    }

    /// So many bytes are under way after an acknowledgement.
    pub fn under_way(&mut self, bytes: u64) {
        self.in_flight = bytes;
    }

    /// So many bytes are believed lost.
    pub fn lost(&mut self, bytes: u64) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
    }

    /// The congestion window as it holds now: that of the controller, or a little more than what is under way when
    /// nothing was heard for a while and nothing sent since the last knock.
    pub fn window(&self, now: Instant, window: u64) -> u64 {
        let patience = KNOCK_EVERY.max(self.rtt * 3);
        let silent = now.saturating_duration_since(self.heard_at) >= patience;
        let due = now.saturating_duration_since(self.sent_at) >= KNOCK_EVERY;
        if silent && due { window.max(self.in_flight + PACKETS * self.packet + 1) } else { window }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MTU: u64 = 1200;
    const WINDOW: u64 = 10 * MTU;

    /// Sends whatever may be sent every 10 ms from 0 on, while nothing is heard from `hole` ms on; the milliseconds at which
    /// packets left after that.
    fn left(rtt_ms: u64, hole: u64, end: u64) -> Vec<u64> {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (mut knocks, mut in_flight, mut log) = (Knocks::new(start, 1200), 0, Vec::new());
        for ms in (0..end).step_by(10) {
            if ms < hole {
                in_flight = 0;
                knocks.heard(at(ms), Duration::from_millis(rtt_ms));
                knocks.under_way(0);
            }
            while in_flight + MTU < knocks.window(at(ms), WINDOW) {
                in_flight += MTU;
                knocks.sent(at(ms), MTU);
                if ms >= hole {
                    log.push(ms);
                }
            }
        }
        log
    }

    #[test]
    fn a_packet_leaves_every_half_second_while_nothing_is_heard() {
        assert_eq!(left(80, 1_000, 2_900), [1_490, 1_990, 2_490], "the window was full at 990 ms");
    }

    #[test]
    fn a_long_round_trip_is_no_silence() {
        assert_eq!(left(2_000, 1_000, 6_900), Vec::<u64>::new());
        assert_eq!(left(2_000, 1_000, 7_100), [6_990]);
    }

    #[test]
    fn what_was_lost_is_not_under_way() {
        let start = Instant::now();
        let mut knocks = Knocks::new(start, 1200);
        knocks.sent(start, 5_000);
        knocks.lost(2_000);
        assert_eq!(knocks.window(start + KNOCK_EVERY, 1_000), 3_000 + 2_401);
        assert_eq!(knocks.window(start + KNOCK_EVERY, 9_000), 9_000, "never less than the controller says");
        assert_eq!(knocks.window(start, 1_000), 1_000);
    }
}
