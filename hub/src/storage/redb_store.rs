//! redb behind [`Store`]: survives power cuts in every replay that was tried.

use std::ops::Range;
use std::path::Path;

use redb::{Database, ReadableDatabase, TableDefinition};

use super::store::{Durability, Pair, Store, StoreError, WriteBatch};

const TABLE: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("raft");
/// Small: the log is read once, by replication, shortly after it was written.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// A redb file with one table.
pub(super) struct RedbStore {
    database: Database,
}

impl RedbStore {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let database = builder.create(path).map_err(|error| failed("open", error))?;
        let mut store = Self { database };
        // Creates the table, so that readers need not care whether it exists.
        store.commit(WriteBatch::default(), Durability::Immediate)?;
        Ok(store)
    }
}

impl Store for RedbStore {
    fn commit(&mut self, batch: WriteBatch, durability: Durability) -> Result<(), StoreError> {
        let mut transaction = self.database.begin_write().map_err(|error| failed("begin a write", error))?;
        let durability = match durability {
            Durability::Immediate => redb::Durability::Immediate,
            Durability::Eventual => redb::Durability::None,
        };
        transaction.set_durability(durability).map_err(|error| failed("begin a write", error))?;
        {
            let mut table = transaction.open_table(TABLE).map_err(|error| failed("open a table", error))?;
            for range in batch.remove {
                let bounds = range.start.as_slice()..range.end.as_slice();
                table.retain_in(bounds, |_, _| false).map_err(|error| failed("remove", error))?;
            }
            for (key, value) in batch.write {
                match value {
                    Some(value) => table.insert(key.as_slice(), value.as_slice()),
                    None => table.remove(key.as_slice()),
                }
                .map_err(|error| failed("write", error))?;
            }
        }
        transaction.commit().map_err(|error| failed("commit", error))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let transaction = self.database.begin_read().map_err(|error| failed("read", error))?;
        let table = transaction.open_table(TABLE).map_err(|error| failed("read", error))?;
        let value = table.get(key).map_err(|error| failed("read", error))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    fn scan(&self, range: Range<Vec<u8>>, accept: &mut dyn FnMut(&Pair) -> bool) -> Result<Vec<Pair>, StoreError> {
        let transaction = self.database.begin_read().map_err(|error| failed("read", error))?;
        let table = transaction.open_table(TABLE).map_err(|error| failed("read", error))?;
        let bounds = range.start.as_slice()..range.end.as_slice();
        let mut pairs = Vec::new();
        for entry in table.range::<&[u8]>(bounds).map_err(|error| failed("read", error))? {
            let (key, value) = entry.map_err(|error| failed("read", error))?;
            let pair = (key.value().to_vec(), value.value().to_vec());
            if !accept(&pair) {
                break;
            }
            pairs.push(pair);
        }
        Ok(pairs)
    }

    fn last(&self, range: Range<Vec<u8>>) -> Result<Option<Pair>, StoreError> {
        let transaction = self.database.begin_read().map_err(|error| failed("read", error))?;
        let table = transaction.open_table(TABLE).map_err(|error| failed("read", error))?;
        let bounds = range.start.as_slice()..range.end.as_slice();
        let mut entries = table.range::<&[u8]>(bounds).map_err(|error| failed("read", error))?;
        let last = entries.next_back().transpose().map_err(|error| failed("read", error))?;
        Ok(last.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())))
    }
}

fn failed(act: &'static str, error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Engine { engine: "redb", act, source: Box::new(error) }
}
