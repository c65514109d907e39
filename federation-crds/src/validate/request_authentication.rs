//! RequestAuthentication.

use crate::error::FieldErrors;
use crate::istio::RequestAuthentication;

pub(super) fn check(_object: &RequestAuthentication, _errors: &mut FieldErrors) {}
