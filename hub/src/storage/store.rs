//! The one interface to an engine: ordered bytes to bytes, changed by atomic batches.

use std::ops::Range;

/// A failure of an engine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The engine reported an error.
    #[error("{engine} cannot {act}")]
    Engine {
        /// `redb` or `sled`.
        engine: &'static str,
        /// What was attempted.
        act: &'static str,
        /// What the engine said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The engine panicked. sled does on some damaged files.
    #[error("{engine} panicked while it tried to {act}")]
    Panicked {
        /// `redb` or `sled`.
        engine: &'static str,
        /// What was attempted.
        act: &'static str,
    },
    /// Stored bytes do not have their checksum or do not decode.
    #[error("{what} is damaged")]
    Damaged {
        /// What was read.
        what: String,
    },
    /// The store was closed because the node stops.
    #[error("the store is closed")]
    Closed,
}

/// When a batch must be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Before the call returns.
    Immediate,
    /// With the next immediate batch, or never if the machine stops before.
    Eventual,
}

/// Changes that happen together or not at all. Removals of ranges come first.
#[derive(Debug, Default)]
pub(crate) struct WriteBatch {
    /// Ranges of keys to remove.
    pub remove: Vec<Range<Vec<u8>>>,
    /// Single keys: `None` removes.
    pub write: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl WriteBatch {
    /// Adds a put.
    pub(crate) fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.write.push((key.into(), Some(value.into())));
    }
}

/// A key and its value.
pub(super) type Pair = (Vec<u8>, Vec<u8>);

/// An engine that keeps ordered keys. Calls block; a [`Worker`](super::worker::Worker) keeps them off the runtime.
pub(crate) trait Store: Send + 'static {
    /// Applies the batch atomically.
    fn commit(&mut self, batch: WriteBatch, durability: Durability) -> Result<(), StoreError>;

    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Pairs of a range in key order until `accept` says stop; the pair it refuses is not included.
    fn scan(&self, range: Range<Vec<u8>>, accept: &mut dyn FnMut(&Pair) -> bool) -> Result<Vec<Pair>, StoreError>;

    /// The last pair of a range.
    fn last(&self, range: Range<Vec<u8>>) -> Result<Option<Pair>, StoreError>;
}
