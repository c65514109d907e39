//! Who is cut off when readers are slow.

use std::time::{Duration, Instant};

/// A flow is not cut off before its reader has taken nothing for this long.
pub const STALL_MIN: Duration = Duration::from_secs(10);

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
/// everyone may read as slowly as it likes. The longest stalled go first, none before [`STALL_MIN`].
pub fn stalled_to_reset<I: Copy>(mut flows: Vec<StalledFlow<I>>, now: Instant, stream: u64, connection: u64) -> Vec<I> {
    let allowed = usize::try_from((connection / 2 / stream.max(1)).max(1)).unwrap_or(usize::MAX);
    let excess = flows.len().saturating_sub(allowed);
    flows.sort_by_key(|flow| flow.since);
    let old = |flow: &StalledFlow<I>| now.saturating_duration_since(flow.since) >= STALL_MIN;
    flows.into_iter().take(excess).filter(old).map(|flow| flow.id).collect()
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
            (&[1, 2, 3, 14], &[14]),
            (&[1, 2, 3], &[]),
        ];
        let now = Instant::now() + Duration::from_secs(3600);
        for (stalled, expected) in cases {
            let flow = |seconds: &u64| StalledFlow { id: *seconds, since: now - Duration::from_secs(*seconds) };
            let reset = stalled_to_reset(stalled.iter().map(flow).collect(), now, 4, 16);
            assert_eq!(reset, *expected, "{stalled:?}");
        }
    }
}
