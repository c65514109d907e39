//! Where services are, worked out once per view instead of for every request: a service may have a thousand endpoints.
//!
//! A view never changes once it is published, so that what follows from it and from it alone may be kept beside it. A
//! view that is cloned, to be changed, begins with nothing.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use super::decision::{Across, Tier};
use crate::model::{Labels, Service};
use crate::policy::TrafficPolicy;
use crate::reason::Reason;

/// No more is kept; what there is no room for is worked out each time.
const KEPT_MAX: usize = 4096;

/// What is kept; part of a [`crate::View`].
#[derive(Default)]
pub struct Memo(RwLock<HashMap<Key, Located>>);

/// What decides on the targets, by where it lies in the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    service: usize,
    labels: usize,
    policy: usize,
    port: u16,
    clusterset: bool,
}

impl Key {
    /// All three must belong to the view, or live as long.
    pub(super) fn of(
        service: &Service,
        labels: &Labels,
        policy: &Arc<TrafficPolicy>,
        port: u16,
        clusterset: bool,
    ) -> Self {
        Self {
            service: std::ptr::from_ref(service).addr(),
            labels: std::ptr::from_ref(labels).addr(),
            policy: Arc::as_ptr(policy).addr(),
            port,
            clusterset,
        }
    }
}

/// The targets of a service, and why they are those.
#[derive(Debug, Clone)]
pub(super) struct Located {
    pub(super) tiers: Arc<[Tier]>,
    pub(super) reasons: Arc<[Reason]>,
    pub(super) across: Option<Across>,
}

impl Memo {
    /// What is kept under a key, or what is worked out now.
    pub(super) fn get(&self, key: Key, work_out: impl FnOnce() -> Located) -> Located {
        if let Some(known) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return known.clone();
        }
        let located = work_out();
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_MAX {
            kept.insert(key, located.clone());
        }
        located
    }
}

/// The copy may be changed.
impl Clone for Memo {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// It follows from the rest of the view.
impl PartialEq for Memo {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Debug for Memo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memo")
    }
}
