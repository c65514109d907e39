//! sled behind [`Store`]. Its flush is no fsync and it has no repair tool, so nothing here is trusted after a crash.

use std::fs::File;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::store::{Durability, Pair, Store, StoreError, WriteBatch};

/// A leaf of 32 values of 16 KiB stays below a quarter of a segment; larger ones would become unsynced blob files.
const SEGMENT_BYTES: usize = 2 * 1024 * 1024;
/// The rows are read once, on start; the working copy is in memory.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;

/// A sled directory.
pub(super) struct SledStore {
    database: sled::Db,
}

impl SledStore {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        wait_for_release(path).map_err(|error| failed("open", error.into()))?;
        let config = sled::Config::new().path(path).segment_size(SEGMENT_BYTES).cache_capacity(CACHE_BYTES);
        // Some damaged files make sled panic instead of returning an error.
        match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Ok(database)) => Ok(Self { database }),
            Ok(Err(error)) => Err(failed("open", error)),
            Err(_) => Err(StoreError::Panicked { engine: "sled", act: "open" }),
        }
    }
}

impl Store for SledStore {
    /// Whatever the durability asked for, sled cannot give more than "eventual".
    fn commit(&mut self, batch: WriteBatch, _durability: Durability) -> Result<(), StoreError> {
        guarded("write", || {
            let mut writes = sled::Batch::default();
            for range in batch.remove {
                for key in self.database.range(range).keys() {
                    writes.remove(key.map_err(|error| failed("read", error))?);
                }
            }
            for (key, value) in batch.write {
                match value {
                    Some(value) => writes.insert(key, value),
                    None => writes.remove(key),
                }
            }
            self.database.apply_batch(writes).map_err(|error| failed("write", error))
        })
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        guarded("read", || {
            let value = self.database.get(key).map_err(|error| failed("read", error))?;
            Ok(value.map(|value| value.to_vec()))
        })
    }

    fn scan(&self, range: Range<Vec<u8>>, accept: &mut dyn FnMut(&Pair) -> bool) -> Result<Vec<Pair>, StoreError> {
        guarded("read", || {
            let mut pairs = Vec::new();
            for entry in self.database.range(range) {
                let (key, value) = entry.map_err(|error| failed("read", error))?;
                let pair = (key.to_vec(), value.to_vec());
                if !accept(&pair) {
                    break;
                }
                pairs.push(pair);
            }
            Ok(pairs)
        })
    }

    fn last(&self, range: Range<Vec<u8>>) -> Result<Option<Pair>, StoreError> {
        guarded("read", || {
            let last = self.database.range(range).next_back().transpose().map_err(|error| failed("read", error))?;
            Ok(last.map(|(key, value)| (key.to_vec(), value.to_vec())))
        })
    }
}

/// A dropped sled gives its lock back a little later, from threads of its own. Nobody else can have it: the lock of the
/// log, which is taken first, keeps other processes out.
fn wait_for_release(path: &Path) -> std::io::Result<()> {
    match File::open(path.join("db")) {
        Ok(file) => file.lock(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// A page that is read lazily can be damaged too.
fn guarded<T>(act: &'static str, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result,
        Err(_) => Err(StoreError::Panicked { engine: "sled", act }),
    }
}

fn failed(act: &'static str, error: sled::Error) -> StoreError {
    StoreError::Engine { engine: "sled", act, source: Box::new(error) }
}
