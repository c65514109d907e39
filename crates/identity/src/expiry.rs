//! When an open connection must end, because what proved its peer proves it no longer.

use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use crate::bundle::TrustBundles;
use crate::chain::{PeerError, PeerIdentity, PeerUsage, validate};
use crate::credentials::Credentials;

/// How often the wall clock is looked at: often enough that a clock that jumps is noticed in time.
const STEP: Duration = Duration::from_secs(1);

/// Why a connection must end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndReason {
    /// The peer's certificate, or one above it, has expired.
    #[error("the peer's certificate has expired")]
    CertificateExpired,
    /// The bundles of today do not validate the peer: its root was withdrawn or its cluster left.
    #[error("the peer is no longer trusted")]
    NotTrusted(#[source] PeerError),
}

impl Credentials {
    /// Resolves when the connection to `peer` must end, at most a second after the fact: its certificate has expired by
    /// the wall clock, or the bundles no longer validate it. Callers close within 5 s.
    pub async fn expiry(&self, peer: &PeerIdentity) -> EndReason {
        let mut bundles = self.watch_bundles();
        loop {
            let current = bundles.borrow_and_update().clone();
            let until = match verdict(peer, &current, SystemTime::now()) {
                Ok(until) => until,
                Err(reason) => return reason,
            };
            wait(until, &mut bundles).await;
        }
    }

    /// Resolves when nothing new should be put on a connection to `peer` that was made just now: three quarters of what is left of
    /// the shorter certificate, the peer's or the own one, are over. Both are replaced at half of their lives, so that a new
    /// connection lives longer, and what is under way has the last quarter to end by itself.
    pub async fn aging(&self, peer: &PeerIdentity) {
        tokio::time::sleep(self.ages_in(peer)).await;
    }

    /// How long [`Credentials::aging`] would take.
    pub fn ages_in(&self, peer: &PeerIdentity) -> Duration {
        let own = self.svid().map_or(peer.not_after, |svid| svid.not_after());
        aging(peer.not_after.min(own), SystemTime::now())
    }
}

fn aging(not_after: SystemTime, now: SystemTime) -> Duration {
    not_after.duration_since(now).unwrap_or_default().mul_f64(0.75)
}

/// Until when the peer stays proven, or why it is not any more.
fn verdict(peer: &PeerIdentity, bundles: &TrustBundles, now: SystemTime) -> Result<SystemTime, EndReason> {
    match validate(peer.chain(), bundles, PeerUsage::Any, now) {
        Ok(valid) => Ok(valid.until),
        Err(PeerError::Expired { .. }) => Err(EndReason::CertificateExpired),
        Err(error) => Err(EndReason::NotTrusted(error)),
    }
}

/// Waits until the clock has passed `until` or the bundles have changed. The chain is validated again only then: a
/// second's look at the clock is all that an idle connection costs.
async fn wait(until: SystemTime, bundles: &mut watch::Receiver<std::sync::Arc<TrustBundles>>) {
    let mut watching = true;
    loop {
        let left = until.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO);
        // `not_after` is the last valid second, so the verdict falls just after it.
        let pause = (left + Duration::from_millis(20)).min(STEP);
        tokio::select! {
            changed = bundles.changed(), if watching => match changed {
                Ok(()) => return,
                Err(_) => watching = false,
            },
            () = tokio::time::sleep(pause) => {
                if SystemTime::now() > until {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_ages_in_three_quarters_of_what_is_left() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (left, expected) in [(3600, 2700), (12, 9), (0, 0)] {
            assert_eq!(aging(now + Duration::from_secs(left), now), Duration::from_secs(expected));
        }
        assert_eq!(aging(now, now + Duration::from_secs(1)), Duration::ZERO, "it is over already");
    }
}
