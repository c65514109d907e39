//! openraft's own suite, and damage to every file.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::log::LogStore;
use super::machine::Machine;
use super::open;
use crate::raft_types::{NodeId, TypeConfig};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine, Arc<TempDir>> for Builder {
    async fn build(&self) -> Result<(Arc<TempDir>, LogStore, Machine), StorageError<NodeId>> {
        let directory = tempfile::tempdir().unwrap();
        let opened = open(directory.path()).unwrap();
        Ok((Arc::new(directory), opened.log, opened.machine))
    }
}

#[test]
fn openraft_s_own_suite_passes_on_the_pair() {
    Suite::test_all(Builder).unwrap();
}

mod rows {
    use std::collections::BTreeMap;

    use hub_state::RowChange;
    use proptest::prelude::*;

    use super::super::redb_store::RedbStore;
    use super::super::rows::{EntryRows, RowStore};
    use super::super::sled_store::SledStore;
    use super::super::store::{Durability, Store, WriteBatch};

    fn engines(directory: &std::path::Path) -> Vec<Box<dyn Store>> {
        vec![
            Box::new(RedbStore::open(&directory.join("redb")).unwrap()),
            Box::new(SledStore::open(&directory.join("sled")).unwrap()),
        ]
    }

    #[test]
    fn both_engines_keep_the_same_promises() {
        let directory = tempfile::tempdir().unwrap();
        for mut store in engines(directory.path()) {
            let mut batch = WriteBatch::default();
            (0..10u8).for_each(|at| batch.put(vec![b'k', at], vec![at]));
            store.commit(batch, Durability::Immediate).unwrap();
            let remove = vec![vec![b'k', 2]..vec![b'k', 5]];
            let write = vec![(vec![b'k', 3], Some(vec![33])), (vec![b'k', 9], None)];
            store.commit(WriteBatch { remove, write }, Durability::Eventual).unwrap();
            let all = vec![b'k']..vec![b'l'];
            let keys: Vec<u8> = store.scan(all.clone(), &mut |_| true).unwrap().iter().map(|(key, _)| key[1]).collect();
            assert_eq!(keys, [0, 1, 3, 5, 6, 7, 8]);
            let two = store.scan(all.clone(), &mut |(key, _)| key[1] < 3).unwrap();
            assert_eq!(two.len(), 2, "the refused pair is not included");
            assert_eq!(store.last(all).unwrap().unwrap().0, [b'k', 8]);
            assert_eq!(store.get(&[b'k', 3]).unwrap(), Some(vec![33]));
            assert_eq!(store.get(&[b'k', 4]).unwrap(), None);
        }
    }

    fn change() -> impl Strategy<Value = RowChange> {
        (0..12u8, proptest::option::of(any::<u8>()))
            .prop_map(|(key, value)| RowChange { key: vec![b'r', key], value: value.map(|value| vec![value]) })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn the_checksum_follows_the_rows_and_notices_every_other_change(
            entries in proptest::collection::vec(proptest::collection::vec(change(), 0..4), 1..12),
            foreign in 0..12u8,
        ) {
            let directory = tempfile::tempdir().unwrap();
            let mut expected = BTreeMap::new();
            let mut rows = RowStore::new(Box::new(SledStore::open(directory.path()).unwrap()));
            prop_assert!(rows.load().unwrap().is_none());
            for entry in entries {
                for row in &entry {
                    match &row.value {
                        Some(value) => expected.insert(row.key.clone(), value.clone()),
                        None => expected.remove(&row.key),
                    };
                }
                rows.commit(EntryRows { rows: entry, ..EntryRows::default() }).unwrap();
            }
            drop(rows);
            let mut rows = RowStore::new(Box::new(SledStore::open(directory.path()).unwrap()));
            prop_assert_eq!(rows.load().unwrap().unwrap().0, expected);
            drop(rows);
            // Somebody changes one row behind its back.
            let mut store = SledStore::open(directory.path()).unwrap();
            let mut batch = WriteBatch::default();
            batch.put(vec![b's', b'r', foreign], b"another".to_vec());
            store.commit(batch, Durability::Eventual).unwrap();
            prop_assert!(RowStore::new(Box::new(store)).load().is_err());
        }
    }
}
