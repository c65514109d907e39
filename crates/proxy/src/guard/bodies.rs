//! How much the body of a request may have.

use http::Request;
use http_body::Body as _;
use mesh::{InboundPolicy, Reason};

use super::Progress;
use super::refused::Refused;
use crate::body::{self, Body, Limited};

/// Holds a request's body to its limit. One that is too large by its own account is refused before it counts anywhere.
pub(super) fn limit(
    policy: &InboundPolicy,
    request: &mut Request<Body>,
    progress: &mut Progress,
) -> Result<(), Refused> {
    let Some(limit) = mesh::body_limit(policy) else { return Ok(()) };
    if request.body().size_hint().lower() > limit.max_bytes {
        progress.reasons.push(Reason::Rule { origin: limit.origin.clone() });
        return Err(Refused::TooLarge);
    }
    let body = std::mem::replace(request.body_mut(), body::empty());
    let (body, oversize) = Limited::wrap(body, limit.max_bytes);
    *request.body_mut() = body;
    request.extensions_mut().insert(oversize);
    Ok(())
}
