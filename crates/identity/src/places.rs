//! So many at once for each of many: a fair queue for each key.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Semaphore;

/// Places of so many keys as are in use; clones share them.
#[derive(Debug)]
pub struct Places<K> {
    each: usize,
    keys: Arc<Mutex<BTreeMap<K, Weak<Semaphore>>>>,
}

impl<K> Clone for Places<K> {
    fn clone(&self) -> Self {
        Self { each: self.each, keys: self.keys.clone() }
    }
}

impl<K: Ord> Places<K> {
    /// Each key has so many.
    pub fn new(each: usize) -> Self {
        Self { each, keys: Arc::default() }
    }

    /// Those of one key. Who holds none and waits for none is forgotten when another key comes.
    pub fn of(&self, key: K) -> Arc<Semaphore> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = keys.get(&key).and_then(Weak::upgrade) {
            return places;
        }
        keys.retain(|_, places| places.strong_count() > 0);
        let places = Arc::new(Semaphore::new(self.each));
        keys.insert(key, Arc::downgrade(&places));
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_and_who_has_none_is_forgotten() {
        let places = Places::new(1);
        let held = places.of("one").try_acquire_owned().unwrap();
        assert!(places.of("one").try_acquire_owned().is_err() && places.of("two").try_acquire_owned().is_ok());
        drop(held);
        let _three = places.of("three");
        assert_eq!(places.keys.lock().unwrap().keys().collect::<Vec<_>>(), [&"three"]);
    }
}
