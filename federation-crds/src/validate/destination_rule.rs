//! DestinationRule.

use crate::error::FieldErrors;
use crate::istio::DestinationRule;

pub(super) fn check(_object: &DestinationRule, _errors: &mut FieldErrors) {}
