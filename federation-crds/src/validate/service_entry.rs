//! ServiceEntry.

use crate::error::FieldErrors;
use crate::istio::ServiceEntry;

pub(super) fn check(_object: &ServiceEntry, _errors: &mut FieldErrors) {}
