//! `TransportChoice`: QUIC or, while UDP does not get through, TCP.
//!
//! QUIC goes first. When it is not there [`TCP_DELAY`] after the beginning, or everything on it goes silent, TCP is
//! tried beside it. New flows take whichever is there; once TCP has been needed, they return to QUIC when it has been
//! usable for [`RETURN_AFTER`], or longer if it fell soon after the last return. Whoever calls keeps trying QUIC all
//! the time.

use std::time::{Duration, Instant};

use serde::Serialize;

/// The head start of QUIC.
pub const TCP_DELAY: Duration = Duration::from_millis(300);
/// How long QUIC must be usable before new flows return to it.
pub const RETURN_AFTER: Duration = Duration::from_secs(2);
/// The longest that [`RETURN_AFTER`] grows to while QUIC comes and goes.
pub const RETURN_AFTER_MAX: Duration = Duration::from_secs(16);
/// QUIC that falls within this time after flows have returned to it is trusted less the next time.
const FLAP: Duration = Duration::from_secs(60);
/// How long new flows may hope for either transport after both were lost.
pub const SETTLE: Duration = Duration::from_secs(3);

/// What carries the streams between two gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// QUIC over UDP.
    Quic,
    /// HTTP/2 CONNECT over TLS over TCP.
    Tcp,
}

impl Transport {
    /// As in metrics and on debug pages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        }
    }
}

/// What is known of the connections to one gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TransportSeen {
    /// A QUIC connection takes new flows.
    pub quic_usable: bool,
    /// Every QUIC connection that takes new flows has not answered for longer than usual.
    pub quic_suspect: bool,
    /// A TCP connection takes new flows.
    pub tcp_usable: bool,
    /// TCP was tried since it is wanted, and did not come about.
    pub tcp_failed: bool,
}

/// Which transport the new flows to one gateway take.
#[derive(Debug, Clone)]
pub struct TransportChoice {
    preferred: Transport,
    seen: TransportSeen,
    /// QUIC has been usable once.
    proven: bool,
    /// Since when QUIC has been usable, or not.
    since: Instant,
    /// How long QUIC must be usable before it is preferred again.
    hold: Duration,
    /// When flows last returned to QUIC.
    returned_at: Option<Instant>,
}

impl TransportChoice {
    /// A gateway to which nothing is connected yet.
    pub fn new(now: Instant) -> Self {
        Self {
            preferred: Transport::Quic,
            seen: TransportSeen::default(),
            proven: false,
            since: now,
            hold: RETURN_AFTER,
            returned_at: None,
        }
    }

    /// Takes what is known now; called every 100 ms or so.
    pub fn observe(&mut self, now: Instant, seen: TransportSeen) {
        if seen.quic_usable != self.seen.quic_usable {
            self.since = now;
            if !seen.quic_usable {
                let flapped = self.returned_at.is_some_and(|at| now.saturating_duration_since(at) < FLAP);
                self.hold = if flapped { (self.hold * 2).min(RETURN_AFTER_MAX) } else { RETURN_AFTER };
            }
        }
        self.proven |= seen.quic_usable;
        self.seen = seen;
        let steady = now.saturating_duration_since(self.since);
        match self.preferred {
            Transport::Quic if !seen.quic_usable && seen.tcp_usable => self.preferred = Transport::Tcp,
            Transport::Tcp if seen.quic_usable && steady >= self.hold => {
                self.preferred = Transport::Quic;
                self.returned_at = Some(now);
            }
            // With nothing to fall back on there is nothing to return from.
            Transport::Tcp if seen.quic_usable && !seen.tcp_usable => self.preferred = Transport::Quic,
            Transport::Quic | Transport::Tcp => {}
        }
    }

    /// What new flows take if it is usable.
    pub fn preferred(&self) -> Transport {
        self.preferred
    }

    /// Whether TCP connections are to be made and kept.
    pub fn wants_tcp(&self, now: Instant) -> bool {
        let head_start = if self.proven { Duration::ZERO } else { TCP_DELAY };
        let late = !self.seen.quic_usable && now.saturating_duration_since(self.since) >= head_start;
        late || self.seen.quic_suspect || self.preferred == Transport::Tcp
    }

    /// Whether nothing is usable but may soon be, so that a flow does well to wait: both transports are still being
    /// tried for the first time since they were lost.
    pub fn is_settling(&self, now: Instant) -> bool {
        let seen = self.seen;
        let lost = !seen.quic_usable && !seen.tcp_usable;
        lost && !seen.tcp_failed && now.saturating_duration_since(self.since) < SETTLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When, over which transport, and whether TCP is wanted; only changes.
    type Log = Vec<(u64, Transport, bool)>;

    /// Runs ticks of 100 ms; TCP is there 200 ms after it is wanted if `tcp`. Tells changes with their milliseconds.
    fn run(end_ms: u64, tcp: bool, quic: impl Fn(u64) -> bool) -> Log {
        let start = Instant::now();
        let (mut choice, mut log, mut wanted_since) = (TransportChoice::new(start), Log::new(), None);
        for ms in (0..=end_ms).step_by(100) {
            let now = start + Duration::from_millis(ms);
            let due = wanted_since.is_some_and(|since| ms >= since + 200);
            let seen = TransportSeen {
                quic_usable: quic(ms),
                quic_suspect: false,
                tcp_usable: tcp && due,
                tcp_failed: !tcp && due,
            };
            choice.observe(now, seen);
            let wanted = choice.wants_tcp(now);
            wanted_since = wanted.then(|| wanted_since.unwrap_or(ms));
            if log.last().is_none_or(|(_, preferred, before)| (*preferred, *before) != (choice.preferred(), wanted)) {
                log.push((ms, choice.preferred(), wanted));
            }
        }
        log
    }

    /// What it is about, whether TCP works, when QUIC does, and what is preferred and raced from when on.
    type Case = (&'static str, bool, fn(u64) -> bool, &'static [(u64, Transport, bool)]);

    #[test]
    fn tcp_is_tried_only_when_quic_is_missing() {
        use Transport::{Quic, Tcp};
        let outage = |ms: u64| !(1_000..8_000).contains(&ms);
        let cases: &[Case] = &[
            ("QUIC is there at once", true, |_| true, &[(0, Quic, false)]),
            ("QUIC is a little late", true, |ms| ms >= 200, &[(0, Quic, false)]),
            ("QUIC wins the race", true, |ms| ms >= 400, &[(0, Quic, false), (300, Quic, true), (400, Quic, false)]),
            ("UDP never gets through", true, |_| false, &[(0, Quic, false), (300, Quic, true), (500, Tcp, true)]),
            ("nothing gets through", false, |_| false, &[(0, Quic, false), (300, Quic, true)]),
            (
                "UDP is blocked for a while",
                true,
                outage,
                &[(0, Quic, false), (1_000, Quic, true), (1_200, Tcp, true), (10_000, Quic, false)],
            ),
            (
                "the gateway is gone for a while",
                false,
                outage,
                &[(0, Quic, false), (1_000, Quic, true), (8_000, Quic, false)],
            ),
        ];
        for (name, tcp, quic, expected) in cases {
            assert_eq!(run(20_000, *tcp, quic), *expected, "{name}");
        }
    }

    #[test]
    fn quic_that_comes_and_goes_is_trusted_later_each_time_but_within_thirty_seconds() {
        // 20 s up, 1 s down.
        let log = run(125_000, true, |ms| ms % 21_000 < 20_000);
        let returns: Vec<u64> =
            log.iter().filter(|(ms, it, _)| *ms > 0 && *it == Transport::Quic).map(|it| it.0).collect();
        let returns: Vec<u64> = returns.into_iter().filter(|ms| ms % 21_000 < 20_000).collect();
        let waited: Vec<u64> = returns.iter().map(|ms| ms % 21_000).collect();
        assert_eq!(waited, [2_000, 4_000, 8_000, 16_000, 16_000]);
        assert!(RETURN_AFTER_MAX < Duration::from_secs(30));
    }

    #[test]
    fn silence_on_all_connections_gets_tcp_ready_before_quic_is_given_up() {
        let start = Instant::now();
        let mut choice = TransportChoice::new(start);
        choice.observe(start, TransportSeen { quic_usable: true, ..TransportSeen::default() });
        assert!(!choice.wants_tcp(start));
        choice.observe(start, TransportSeen { quic_usable: true, quic_suspect: true, ..TransportSeen::default() });
        assert!(choice.wants_tcp(start));
        assert_eq!(choice.preferred(), Transport::Quic);
    }

    #[test]
    fn a_flow_waits_while_there_is_hope() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut choice = TransportChoice::new(start);
        assert!(choice.is_settling(at(2_900)));
        assert!(!choice.is_settling(at(3_000)));
        choice.observe(at(500), TransportSeen { tcp_failed: true, ..TransportSeen::default() });
        assert!(!choice.is_settling(at(600)));
        choice.observe(at(700), TransportSeen { quic_usable: true, ..TransportSeen::default() });
        choice.observe(at(900), TransportSeen::default());
        assert!(choice.is_settling(at(3_800)) && !choice.is_settling(at(3_900)));
    }
}
