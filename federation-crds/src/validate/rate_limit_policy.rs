//! RateLimitPolicy.

use crate::error::FieldErrors;
use crate::rate_limit_policy::RateLimitPolicy;

pub(super) fn check(_object: &RateLimitPolicy, _errors: &mut FieldErrors) {}
