//! Why a request does not go on, and what its client gets.

use http::{Request, StatusCode};
use mesh::{Denial, Reason};

use super::answer::{bad_token, refusal, written};
use super::authorizer::{PeekError, Written};
use super::limits::{Limited, too_many};
use super::tokens::TokenError;
use super::{Facts, Progress, Refusal};
use crate::fault::flag;
use crate::headers;

/// Envoy's flag of requests that a local rate limit refused.
const RATE_LIMITED: &str = "RL";
/// The client broke its request off while it was read.
const CLIENT: &str = flag::CLIENT;

/// The reasons to refuse.
pub(super) enum Refused {
    /// A token is not valid.
    Token(TokenError),
    /// The path is none.
    Path,
    /// The host is more than a host.
    Authority,
    /// A policy denies it.
    Policy(Denial),
    /// An authorizer denies it.
    External(Box<Written>),
    /// An authorizer could not be asked; the status that was configured for that.
    Unanswered(u16),
    /// The body cannot be put before an authorizer.
    Peek(PeekError),
    /// It is too many.
    Limited(Box<Limited>),
}

impl Refused {
    pub(super) fn answer<B>(self, mut progress: Progress, request: &Request<B>, facts: &Facts, grpc: bool) -> Refusal {
        let plain = |status, denial, text: &str| (refusal(status, text, grpc), denial, flag::DENIED);
        let mut note = |text: String| progress.reasons.push(Reason::Note { text });
        let (response, denial, flag) = match self {
            Self::Token(error) => {
                note(error.text.clone());
                (bad_token(&error, &url(request, facts), grpc), Denial::TokenInvalid, flag::DENIED)
            }
            Self::Path => {
                note("the path cannot be normalised".into());
                plain(StatusCode::BAD_REQUEST, Denial::BadHeader, "the path is not valid")
            }
            Self::Authority => {
                note("the authority holds more than a host and a port".into());
                plain(StatusCode::BAD_REQUEST, Denial::BadHeader, "the authority is not valid")
            }
            Self::Policy(denial) => plain(StatusCode::FORBIDDEN, denial, "RBAC: access denied"),
            Self::External(answer) => {
                (written(answer.status, answer.headers, answer.body, grpc), Denial::Policy, flag::DENIED)
            }
            Self::Unanswered(status) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
                plain(status, Denial::Policy, "")
            }
            Self::Peek(PeekError::TooLarge) => {
                note("the body is longer than an authorizer wants".into());
                plain(StatusCode::PAYLOAD_TOO_LARGE, Denial::Policy, "Payload Too Large")
            }
            Self::Peek(PeekError::Broken(why)) => {
                note(format!("the body broke off: {why}"));
                let response = refusal(StatusCode::BAD_REQUEST, "the body broke off", grpc);
                (response, Denial::Policy, CLIENT)
            }
            Self::Limited(limited) => (too_many(&limited, grpc), Denial::RateLimited, RATE_LIMITED),
        };
        Refusal { response, denial, flag, reasons: progress.reasons, audit: progress.audit }
    }
}

/// What was asked for, without its query, which may hold the token.
fn url<B>(request: &Request<B>, facts: &Facts) -> String {
    let authority = headers::authority(request).map(|authority| authority.to_string()).unwrap_or_default();
    format!("{}://{authority}{}", facts.scheme, request.uri().path())
}
