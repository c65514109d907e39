//! Which services and addresses a sidecar is subscribed to: those that its workload talked to lately.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::wanted::Wanted;

/// Services, and addresses, that one sidecar subscribes to at most; of each kind the least recently used one makes room.
pub(crate) const MAX_OF_KIND: usize = 1000;
/// After this long without use a subscription ends.
pub(crate) const IDLE: Duration = Duration::from_secs(10 * 60);

/// What a use of a name means for the subscriptions.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Already subscribed to.
    Known,
    /// To be subscribed to; the named one, if any, is to be unsubscribed from in exchange.
    New {
        /// The least recently used name.
        evicted: Option<Wanted>,
    },
}

/// Subscriptions by the time of their last use.
#[derive(Debug, Default)]
pub(crate) struct Demands {
    last_used: BTreeMap<Wanted, Instant>,
}

impl Demands {
    /// Notes that a name is used now.
    pub(crate) fn handle_use(&mut self, name: &Wanted, now: Instant) -> Use {
        if let Some(last_used) = self.last_used.get_mut(name) {
            *last_used = now;
            return Use::Known;
        }
        let mut evicted = None;
        let alike = || self.last_used.iter().filter(|(other, _)| other.kind() == name.kind());
        if alike().count() >= MAX_OF_KIND {
            evicted = alike().min_by_key(|(_, used)| **used).map(|(name, _)| name.clone());
            if let Some(name) = &evicted {
                self.last_used.remove(name);
            }
        }
        self.last_used.insert(name.clone(), now);
        Use::New { evicted }
    }

    /// Names that were not used for [`IDLE`]; they are forgotten.
    pub(crate) fn handle_idle(&mut self, now: Instant) -> Vec<Wanted> {
        let idle = |used: &Instant| now.saturating_duration_since(*used) >= IDLE;
        let names: Vec<_> =
            self.last_used.iter().filter(|(_, used)| idle(used)).map(|(name, _)| name.clone()).collect();
        self.last_used.retain(|_, used| !idle(used));
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(index: usize) -> Wanted {
        Wanted::Service(format!("default/s{index}").parse().expect("valid"))
    }

    #[test]
    fn the_least_recently_used_service_makes_room() {
        let start = Instant::now();
        let mut demands = Demands::default();
        for index in 0..MAX_OF_KIND {
            let use_at = start + Duration::from_millis(index as u64);
            assert_eq!(demands.handle_use(&name(index), use_at), Use::New { evicted: None });
        }
        let later = start + Duration::from_secs(5);
        assert_eq!(demands.handle_use(&name(0), later), Use::Known);
        let address = Wanted::Address("10.0.0.1".parse().expect("valid"));
        assert_eq!(demands.handle_use(&address, later), Use::New { evicted: None }, "addresses have room of their own");
        assert_eq!(demands.handle_use(&name(MAX_OF_KIND), later), Use::New { evicted: Some(name(1)) });
    }

    #[test]
    fn ten_idle_minutes_end_a_subscription() {
        let start = Instant::now();
        let mut demands = Demands::default();
        demands.handle_use(&name(1), start);
        demands.handle_use(&name(2), start + IDLE / 2);
        assert_eq!(demands.handle_idle(start + IDLE), vec![name(1)]);
        assert_eq!(demands.handle_use(&name(1), start + IDLE), Use::New { evicted: None });
        assert_eq!(demands.handle_use(&name(2), start + IDLE), Use::Known);
    }
}
