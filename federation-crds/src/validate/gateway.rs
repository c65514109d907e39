//! Gateway.

use crate::error::FieldErrors;
use crate::istio::Gateway;

pub(super) fn check(_object: &Gateway, _errors: &mut FieldErrors) {}
