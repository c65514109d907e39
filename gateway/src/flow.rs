//! Small pieces that both sides of the gateway use: replies and denials.

use api::tunnel::{Accepted, Denied, Header, Reply, reply};
use mesh::{Denial, TunnelRequest};

/// A header that was read and checked as far as it goes without a view.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) header: Header,
    pub(crate) request: TunnelRequest,
}

/// Checks the version and turns the header into the mesh's terms.
pub(crate) fn parse(header: Header) -> Result<Parsed, (Denial, String)> {
    if !(api::PROTOCOL_MIN..=api::PROTOCOL_MAX).contains(&header.version) {
        let message = format!("version {} is not spoken here", header.version);
        return Err((Denial::VersionUnsupported, message));
    }
    match TunnelRequest::try_from(&header) {
        Ok(request) => Ok(Parsed { header, request }),
        Err(error) => Err((Denial::BadHeader, error.to_string())),
    }
}

/// A positive reply.
pub(crate) fn accepted(accepted: Accepted) -> Reply {
    Reply { reply: Some(reply::Reply::Accepted(accepted)) }
}

/// A negative reply.
pub(crate) fn denied(denial: Denial, message: String, by: String) -> Reply {
    Reply { reply: Some(reply::Reply::Denied(Denied { reason: denial.as_str().to_owned(), message, by })) }
}
