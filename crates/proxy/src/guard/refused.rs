//! Why a request does not go on, and what its client gets.

use std::borrow::Cow;

use http::{Request, StatusCode};
use mesh::{Denial, Reason};

use super::answer::{bad_token, refusal, written};
use super::authorizer::{PeekError, Written};
use super::limits::{Limited, too_many};
use super::tokens::TokenError;
use super::{Facts, Progress, Refusal};
use crate::fault::flag;
use crate::headers;

/// The client broke its request off while it was read.
const CLIENT: &str = flag::CLIENT;

/// The reasons to refuse.
pub(super) enum Refused {
    /// A token is not valid.
    Token(TokenError),
    /// A policy denies it.
    Policy(Denial),
    /// An authorizer denies it.
    External(Box<Written>),
    /// An authorizer could not be asked; the status that was configured for that.
    Unanswered(u16),
    /// The body cannot be put before an authorizer.
    Peek(PeekError),
    /// The body is larger than a policy allows.
    TooLarge,
    /// It is too many.
    Limited(Box<Limited>),
}

impl Refused {
    pub(super) fn answer<B>(self, mut progress: Progress, request: &Request<B>, facts: &Facts, grpc: bool) -> Refusal {
        let plain = |status, denial, text: &str, flag| (refusal(status, text, grpc), denial, flag);
        let details = self.details(&progress.reasons);
        let mut note = |text: String| progress.reasons.push(Reason::Note { text });
        let (response, denial, flag) = match self {
            Self::Token(error) => {
                note(error.text.clone());
                (bad_token(&error, &url(request, facts), grpc), Denial::TokenInvalid, flag::NONE)
            }
            Self::Policy(denial) => plain(StatusCode::FORBIDDEN, denial, "RBAC: access denied", flag::NONE),
            Self::External(answer) => {
                (written(answer.status, answer.headers, answer.body, grpc), Denial::Policy, flag::EXTERNAL)
            }
            Self::Unanswered(status) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
                plain(status, Denial::Policy, "", flag::EXTERNAL)
            }
            Self::Peek(PeekError::TooLarge) => {
                note("the body is longer than an authorizer wants".into());
                plain(StatusCode::PAYLOAD_TOO_LARGE, Denial::Policy, "Payload Too Large", flag::EXTERNAL)
            }
            Self::Peek(PeekError::Broken(why)) => {
                note(format!("the body broke off: {why}"));
                let response = refusal(StatusCode::BAD_REQUEST, "the body broke off", grpc);
                (response, Denial::Policy, CLIENT)
            }
            Self::TooLarge => {
                plain(StatusCode::PAYLOAD_TOO_LARGE, Denial::PayloadTooLarge, "Payload Too Large", flag::NONE)
            }
            Self::Limited(limited) => (too_many(&limited, grpc), Denial::RateLimited, flag::RATE_LIMITED),
        };
        Refusal { response, denial, flag, details, reasons: progress.reasons, audit: progress.audit }
    }

    /// Envoy's `response_code_details`.
    fn details(&self, reasons: &[Reason]) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Policy(_) => return Cow::Owned(format!("rbac_access_denied_matched_policy[{}]", matched(reasons))),
            Self::Token(_) => "jwt_authn_access_denied",
            Self::External(_) => "ext_authz_denied",
            Self::Unanswered(_) => "ext_authz_error",
            Self::Peek(PeekError::TooLarge) | Self::TooLarge => "request_payload_too_large",
            Self::Peek(PeekError::Broken(_)) => "downstream_remote_disconnect",
            Self::Limited(_) => "local_rate_limited",
        })
    }
}

/// The rule that denies, named as Istio names it in Envoy; `none`: no rule of an ALLOW policy matches.
fn matched(reasons: &[Reason]) -> String {
    let unmatched = reasons.iter().any(|reason| matches!(reason, Reason::NoRule { .. }));
    let rule = reasons.iter().rev().find_map(|reason| match reason {
        Reason::Rule { origin } => Some(origin),
        _ => None,
    });
    match rule.filter(|_| !unmatched) {
        Some(origin) => {
            let index: String = origin.path.chars().filter(char::is_ascii_digit).collect();
            format!("ns[{}]-policy[{}]-rule[{index}]", origin.object.namespace, origin.object.name)
        }
        None => "none".to_owned(),
    }
}

/// What was asked for, without its query, which may hold the token.
fn url<B>(request: &Request<B>, facts: &Facts) -> String {
    let authority = headers::authority(request).map(|authority| authority.to_string()).unwrap_or_default();
    format!("{}://{authority}{}", facts.scheme, request.uri().path())
}
