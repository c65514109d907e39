//! Who is cut off when readers are slow.

use std::time::{Duration, Instant};

/// A flow is not cut off before its reader has taken nothing for this long,
pub const STALL_MIN: Duration = Duration::from_secs(10);
/// or for this long when the window is about to be used up.
pub const STALL_URGENT: Duration = Duration::from_secs(1);

/// A flow whose reader has not taken what arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StalledFlow<I> {
    /// Names the flow.
    pub id: I,
    /// Since when its reader has taken nothing.
    pub since: Instant,
}

/// The flows to reset. Every stalled flow may hold up to `stream` bytes of its connection's window of `connection`
/// bytes; more than half of it is not given to stalled flows, so that they never stall the others. While they fit,
/// everyone may read as slowly as it likes. The longest stalled go first, none before [`STALL_MIN`]; beyond three quarters
/// of the window not before [`STALL_URGENT`].
pub fn stalled_to_reset<I: Copy>(mut flows: Vec<StalledFlow<I>>, now: Instant, stream: u64, connection: u64) -> Vec<I> {
    let places = usize::try_from(connection / stream.max(1)).unwrap_or(usize::MAX);
    let beyond = |allowed: usize| flows.len().saturating_sub(allowed.max(1));
    let (excess, urgent) = (beyond(places / 2), beyond(places / 4 * 3));
    flows.sort_by_key(|flow| flow.since);
    let due = |(index, flow): &(usize, StalledFlow<I>)| {
        let least = if *index < urgent { STALL_URGENT } else { STALL_MIN };
        now.saturating_duration_since(flow.since) >= least
    };
    flows.into_iter().take(excess).enumerate().filter(due).map(|(_, flow)| flow.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_does_not_fit_and_has_stalled_for_long_is_reset() {
        // Seconds for which each flow has stalled; the window has place for two (stream 4, connection 16).
        let cases: &[(&[u64], &[u64])] = &[
            (&[], &[]),
            (&[100, 900], &[]),
            (&[100, 900, 20], &[900]),
            (&[11, 12, 13, 14], &[14, 13]),
            // Those that have only just stalled may be no more than a pause.
            (&[1, 2, 14], &[14]),
            (&[1, 2, 3], &[]),
            // Unless the window is about to be used up.
            (&[1, 2, 3, 9], &[9]),
            (&[0, 1, 2, 3, 14], &[14, 3]),
            (&[0, 0, 0, 0, 0], &[]),
        ];
        let now = Instant::now() + Duration::from_secs(3600);
        for (stalled, expected) in cases {
            let flow = |seconds: &u64| StalledFlow { id: *seconds, since: now - Duration::from_secs(*seconds) };
            let reset = stalled_to_reset(stalled.iter().map(flow).collect(), now, 4, 16);
            assert_eq!(reset, *expected, "{stalled:?}");
        }
    }
}
