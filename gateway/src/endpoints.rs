//! What dialling has taught about endpoints: how busy each is and which failed lately.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mesh::Candidate;

/// How long an endpoint that could not be reached comes last.
const FAILED_FOR: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct Known {
    /// Streams under way.
    active: usize,
    /// When it last could not be reached.
    failed_at: Option<Instant>,
}

/// Shared knowledge about endpoints; grows only with endpoints that are busy or failed lately.
#[derive(Debug, Clone, Default)]
pub(crate) struct Endpoints(Arc<Mutex<BTreeMap<SocketAddr, Known>>>);

impl Endpoints {
    /// Candidates in the order in which to try them: not failed lately, least active, then by chance.
    pub(crate) fn order(&self, mut candidates: Vec<Candidate>, now: Instant) -> Vec<Candidate> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        candidates.sort_by_cached_key(|candidate| {
            let known = known.get(&candidate.address);
            let failed = known.and_then(|known| known.failed_at).is_some_and(|at| now.duration_since(at) < FAILED_FOR);
            (failed, known.map_or(0, |known| known.active), rand::random::<u32>())
        });
        candidates
    }

    /// Counts one stream until the guard is dropped.
    pub(crate) fn enter(&self, address: SocketAddr) -> Busy {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(address).or_default().active += 1;
        Busy { endpoints: self.clone(), address }
    }

    /// Remembers that an endpoint could not be reached.
    pub(crate) fn failed(&self, address: SocketAddr, now: Instant) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, known| {
            known.active > 0 || known.failed_at.is_some_and(|at| now.duration_since(at) < FAILED_FOR)
        });
        known.entry(address).or_default().failed_at = Some(now);
    }
}

/// One stream on an endpoint.
#[derive(Debug)]
pub(crate) struct Busy {
    endpoints: Endpoints,
    address: SocketAddr,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut known = self.endpoints.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = known.get_mut(&self.address) {
            entry.active -= 1;
            if entry.active == 0 && entry.failed_at.is_none() {
                known.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_busy_endpoint_that_did_not_fail_comes_first() {
        let candidate =
            |n: u8| Candidate { endpoint: format!("pod-{n}"), address: ([127, 0, 0, n], 15008).into(), stand_in: None };
        let endpoints = Endpoints::default();
        let start = Instant::now();
        let _busy = endpoints.enter(candidate(1).address);
        endpoints.failed(candidate(2).address, start);
        let names = |now| {
            let ordered = endpoints.order((1..=3).map(candidate).collect(), now);
            ordered.into_iter().map(|candidate| candidate.endpoint).collect::<Vec<_>>()
        };
        assert_eq!(names(start), ["pod-3", "pod-1", "pod-2"]);
        assert_eq!(names(start + FAILED_FOR).last().unwrap(), "pod-1");
    }
}
