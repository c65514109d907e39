//! The recent past, so that a watch can resume where it stopped.

use std::collections::{BTreeMap, VecDeque};

use crate::command::Change;
use crate::key::Key;
use crate::resource::{Resource, Resources};

/// A bounded ring of changes. It is memory only: after a restart older revisions count as compacted.
#[derive(Debug, Clone)]
pub struct History {
    capacity: usize,
    /// The oldest revision that can be looked back to.
    floor: u64,
    changes: VecDeque<Change>,
}

impl History {
    /// Starts with a state of this revision, whose past is not known.
    pub fn new(capacity: usize, revision: u64) -> Self {
        Self { capacity, floor: revision, changes: VecDeque::new() }
    }

    /// Adds what a command changed.
    pub fn push(&mut self, changes: impl IntoIterator<Item = Change>) {
        self.changes.extend(changes);
        while self.changes.len() > self.capacity {
            if let Some(oldest) = self.changes.pop_front() {
                // Other changes of the same revision may still be there, but a part of a revision is no revision.
                self.floor = self.floor.max(oldest.revision);
            }
        }
    }

    /// The resources as they were at `revision`; `None` if that is too long ago.
    pub fn resources_at(&self, current: &Resources, revision: u64) -> Option<Resources> {
        if revision < self.floor {
            return None;
        }
        let mut undone: BTreeMap<&Key, &Option<Resource>> = BTreeMap::new();
        for change in self.changes.iter().rev().take_while(|change| change.revision > revision) {
            undone.insert(&change.key, &change.before);
        }
        let mut resources = current.clone();
        for (key, before) in undone {
            match before {
                Some(resource) => resources.insert(key.clone(), resource.clone()),
                None => resources.remove(key),
            };
        }
        Some(resources)
    }
}
