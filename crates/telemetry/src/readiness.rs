//! Whether the process is ready for traffic: when nothing blocks it any more.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// Ready when all guards are dropped. A new one has no guards, so take the guards before the admin listener opens.
#[derive(Debug, Clone)]
pub struct Readiness {
    blockers: Arc<watch::Sender<Blockers>>,
}

#[derive(Debug, Default)]
struct Blockers {
    next: u64,
    held: BTreeMap<u64, &'static str>,
}

/// As long as this lives, the process is not ready.
#[derive(Debug)]
#[must_use = "readiness is blocked only as long as the guard lives"]
pub struct ReadyBlock {
    key: u64,
    blockers: Arc<watch::Sender<Blockers>>,
}

impl Readiness {
    /// Nothing blocks yet.
    pub fn new() -> Self {
        Self { blockers: Arc::new(watch::Sender::new(Blockers::default())) }
    }

    /// Blocks readiness until the guard is dropped. `why` is what `/readyz` shows, such as `first certificate`.
    pub fn block(&self, why: &'static str) -> ReadyBlock {
        let mut key = 0;
        self.blockers.send_modify(|blockers| {
            key = blockers.next;
            blockers.next += 1;
            blockers.held.insert(key, why);
        });
        ReadyBlock { key, blockers: Arc::clone(&self.blockers) }
    }

    /// Whether nothing blocks.
    pub fn is_ready(&self) -> bool {
        self.blockers.borrow().held.is_empty()
    }

    /// What blocks, in the order in which it began to.
    pub fn blockers(&self) -> Vec<&'static str> {
        self.blockers.borrow().held.values().copied().collect()
    }

    /// Waits until nothing blocks.
    pub async fn ready(&self) {
        let mut blockers = self.blockers.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = blockers.wait_for(|blockers| blockers.held.is_empty()).await;
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for ReadyBlock {
    fn drop(&mut self) {
        self.blockers.send_modify(|blockers| {
            blockers.held.remove(&self.key);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_ready_when_the_last_guard_is_dropped() {
        let readiness = Readiness::new();
        let certificate = readiness.block("certificate");
        let view = readiness.clone().block("view");
        assert_eq!(readiness.blockers(), ["certificate", "view"]);
        drop(certificate);
        assert!(!readiness.is_ready());
        let (waited, ()) = tokio::join!(readiness.ready(), async { drop(view) });
        assert_eq!(waited, ());
        assert!(readiness.is_ready());
    }

    #[test]
    fn two_guards_of_one_name_are_two_guards() {
        let readiness = Readiness::new();
        let one = readiness.block("listener");
        let two = readiness.block("listener");
        drop(one);
        assert_eq!(readiness.blockers(), ["listener"]);
        drop(two);
        assert!(readiness.is_ready());
    }
}
