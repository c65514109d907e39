//! AuthorizationPolicy.

use crate::error::FieldErrors;
use crate::istio::AuthorizationPolicy;

pub(super) fn check(_object: &AuthorizationPolicy, _errors: &mut FieldErrors) {}
