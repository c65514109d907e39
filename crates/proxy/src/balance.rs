//! How busy each candidate is, and which were set aside after failures: the state that balancing needs.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Requests and connections in flight per candidate. Candidates without any take no memory.
#[derive(Debug)]
pub struct LoadTable<K>(Arc<Mutex<HashMap<K, u32>>>);

impl<K> Clone for LoadTable<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Eq + Hash + Clone> Default for LoadTable<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Eq + Hash + Clone> LoadTable<K> {
    /// What is in flight on a candidate.
    pub fn active(&self, key: &K) -> u32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied().unwrap_or(0)
    }

    /// Counts one more on a candidate until the guard is dropped.
    pub fn start(&self, key: K) -> LoadGuard<K> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key.clone()).or_insert(0) += 1;
        LoadGuard { table: self.clone(), key }
    }

    /// Every candidate with something in flight, for the debug pages.
    pub fn snapshot(&self) -> Vec<(K, u32)> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.iter().map(|(key, active)| (key.clone(), *active)).collect()
    }
}

/// One request or connection in flight; see [`LoadTable::start`].
#[derive(Debug)]
pub struct LoadGuard<K: Eq + Hash + Clone> {
    table: LoadTable<K>,
    key: K,
}

impl<K: Eq + Hash + Clone> Drop for LoadGuard<K> {
    fn drop(&mut self) {
        let mut table = self.table.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(active) = table.get_mut(&self.key) {
            *active -= 1;
            if *active == 0 {
                table.remove(&self.key);
            }
        }
    }
}

/// The first and the longest time for which a candidate is set aside.
const ASIDE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// Candidates that could not be connected to, and until when others are preferred. Each failure in a row doubles the
/// time; one success forgets them.
#[derive(Debug)]
pub struct Aside<K>(Arc<Mutex<HashMap<K, (Instant, u32)>>>);

impl<K> Clone for Aside<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Eq + Hash> Default for Aside<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Eq + Hash> Aside<K> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, (Instant, u32)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether others are preferred right now.
    pub fn is_aside(&self, key: &K) -> bool {
        self.lock().get(key).is_some_and(|(until, _)| Instant::now() < *until)
    }

    /// Whether it was set aside, and has not worked since.
    pub fn is_unproven(&self, key: &K) -> bool {
        self.lock().contains_key(key)
    }

    /// Sets a candidate aside. Failures of attempts that began before it was set aside do not add up.
    pub fn set(&self, key: K) {
        let now = Instant::now();
        let mut table = self.lock();
        let (until, failures) = table.entry(key).or_insert((now, 0));
        if now >= *until {
            let time = ASIDE.0.saturating_mul(1 << (*failures).min(5)).min(ASIDE.1);
            *until = now + time.mul_f64(0.8 + 0.4 * rand::random::<f64>());
            *failures += 1;
        }
    }

    /// A candidate works.
    pub fn clear(&self, key: &K) {
        self.lock().remove(key);
    }

    /// Lets candidates be tried at once, for there is news of them. They stay unproven.
    pub fn hurry(&self, is_meant: impl Fn(&K) -> bool) {
        let now = Instant::now();
        for (key, (until, _)) in self.lock().iter_mut() {
            if is_meant(key) {
                *until = now.min(*until);
            }
        }
    }

    /// Forgets candidates that have long had their second chance.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.lock().retain(|_, (until, _)| now < *until + Duration::from_secs(60));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_is_set_aside_until_it_works() {
        let aside = Aside::default();
        aside.set("a");
        assert!(aside.is_aside(&"a") && !aside.is_aside(&"b"));
        assert!(aside.is_unproven(&"a") && !aside.is_unproven(&"b"));
        aside.clear(&"a");
        assert!(!aside.is_aside(&"a") && !aside.is_unproven(&"a"));
    }

    #[test]
    fn a_candidate_of_which_there_is_news_is_tried_at_once() {
        let aside = Aside::default();
        aside.set("a");
        aside.set("b");
        aside.hurry(|key| *key == "a");
        assert!(!aside.is_aside(&"a") && aside.is_aside(&"b"));
        assert!(aside.is_unproven(&"a"), "it has not worked yet");
    }

    #[test]
    fn a_candidate_is_busy_while_its_guards_live() {
        let table = LoadTable::default();
        let (one, two) = (table.start("a"), table.start("a"));
        assert_eq!(table.active(&"a"), 2);
        drop(one);
        assert_eq!(table.active(&"a"), 1);
        drop(two);
        assert!(table.snapshot().is_empty());
    }
}
