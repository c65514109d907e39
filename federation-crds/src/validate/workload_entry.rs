//! WorkloadEntry.

use crate::error::FieldErrors;
use crate::istio::WorkloadEntry;

pub(super) fn check(_object: &WorkloadEntry, _errors: &mut FieldErrors) {}
