//! Sidecar.

use crate::error::FieldErrors;
use crate::istio::Sidecar;

pub(super) fn check(_object: &Sidecar, _errors: &mut FieldErrors) {}
