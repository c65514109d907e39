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
