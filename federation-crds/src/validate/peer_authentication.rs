//! PeerAuthentication.

use crate::error::FieldErrors;
use crate::istio::PeerAuthentication;

pub(super) fn check(_object: &PeerAuthentication, _errors: &mut FieldErrors) {}
