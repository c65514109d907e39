//! VirtualService.

use crate::error::FieldErrors;
use crate::istio::VirtualService;

pub(super) fn check(_object: &VirtualService, _errors: &mut FieldErrors) {}
