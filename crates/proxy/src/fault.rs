//! Why an attempt failed: whose fault it is, and what that means for a retry.

use http::{HeaderMap, StatusCode};
use mesh::{Denial, Failure};

use crate::body::chain;
use crate::hbone::{AnswerError, RequestError};
use crate::headers::DENIAL;

/// Istio's and Envoy's response flags, the ones that can happen here.
pub mod flag {
    /// No connection to the upstream.
    pub const UPSTREAM_FAILURE: &str = "UF";
    /// No healthy upstream.
    pub const NO_UPSTREAM: &str = "UH";
    /// No route.
    pub const NO_ROUTE: &str = "NR";
    /// The upstream took too long.
    pub const TIMEOUT: &str = "UT";
    /// The upstream broke the connection off.
    pub const BROKEN: &str = "UC";
    /// The upstream reset the stream.
    pub const RESET: &str = "UR";
    /// The retries are used up.
    pub const RETRIES: &str = "URX";
    /// The client went away.
    pub const CLIENT: &str = "DC";
    /// The client's bytes are no request, or none that may be carried on.
    pub const PROTOCOL: &str = "DPE";
    /// Nothing went wrong that has a flag: a proxy answered as it was told to.
    pub const NONE: &str = "-";
    /// An external authorizer denies it, or could not be asked.
    pub const EXTERNAL: &str = "UAEX";
    /// A rate limit refuses it.
    pub const RATE_LIMITED: &str = "RL";
    /// A limit of the destination was reached.
    pub const OVERFLOW: &str = "UO";
    /// A rule put a delay in.
    pub const DELAY: &str = "DI";
    /// A rule put a fault in.
    pub const ABORT: &str = "FI";

    /// Envoy's `response_code_details` for a flag, where nothing more is known; `here`: this proxy made the answer.
    pub fn details(flags: &str, here: bool) -> &'static str {
        match flags.split(',').next_back().unwrap_or_default() {
            NO_UPSTREAM => "no_healthy_upstream",
            NO_ROUTE => "route_not_found",
            TIMEOUT => "response_timeout",
            OVERFLOW => "overflow",
            ABORT => "fault_filter_abort",
            CLIENT => "downstream_remote_disconnect",
            EXTERNAL => "ext_authz_denied",
            RATE_LIMITED => "local_rate_limited",
            UPSTREAM_FAILURE | BROKEN | RESET if here => "upstream_reset_before_response_started",
            _ if here => "direct_response",
            _ => "via_upstream",
        }
    }

    /// A flag together with [`DELAY`], in Envoy's order.
    pub fn delayed(flag: &'static str) -> &'static str {
        match flag {
            ABORT => "DI,FI",
            CLIENT => "DI,DC",
            RETRIES => "DI,URX",
            EXTERNAL => "DI,UAEX",
            RATE_LIMITED => "DI,RL",
            NO_UPSTREAM => "UH,DI",
            TIMEOUT => "UT,DI",
            RESET => "UR,DI",
            UPSTREAM_FAILURE => "UF,DI",
            BROKEN => "UC,DI",
            OVERFLOW => "UO,DI",
            NO_ROUTE => "NR,DI",
            _ => DELAY,
        }
    }
}

/// One failed attempt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// What the retry rule asks.
    pub failure: Failure,
    /// The response flag.
    pub flag: &'static str,
    /// What happened, to whom.
    pub message: String,
    /// The reason of a peer that refused.
    pub denial: Option<Denial>,
}

impl Fault {
    /// Nothing was sent: there is no connection.
    pub fn connect(message: impl Into<String>) -> Self {
        Self { failure: Failure::Connect, flag: flag::UPSTREAM_FAILURE, message: message.into(), denial: None }
    }

    /// The connection took too long to come about.
    pub fn connect_timeout(whom: &str) -> Self {
        Self::connect(format!("connecting to {whom} took too long"))
    }

    /// A proxy on the way refused; nothing reached an application.
    pub fn denied(denial: Denial, message: impl Into<String>) -> Self {
        let flag = match denial {
            // Envoy has no flag for what its policies deny.
            Denial::PayloadTooLarge
            | Denial::Policy
            | Denial::SourceMismatch
            | Denial::MtlsRequired
            | Denial::MtlsDisabled => flag::NONE,
            Denial::NoEndpoint | Denial::ClusterUnreachable => flag::NO_UPSTREAM,
            Denial::NotExported | Denial::UnknownPort | Denial::ClusterUnknown | Denial::NoRoute => flag::NO_ROUTE,
            _ => flag::UPSTREAM_FAILURE,
        };
        // A denial that nobody else would lift is final; the retry rule knows no such failure but a timeout.
        let failure = if denial.is_retriable() { Failure::Refused } else { Failure::Timeout };
        Self { failure, flag, message: message.into(), denial: Some(denial) }
    }

    /// The host is not in the registry and nothing else may be reached (Istio: BlackHoleCluster).
    pub fn black_hole(message: String) -> Self {
        Self { failure: Failure::Timeout, flag: flag::NONE, message, denial: None }
    }

    /// A limit of the destination was reached; as with Envoy that is final.
    pub fn overflow(what: &str) -> Self {
        let message = format!("upstream overflow: {what}");
        Self { failure: Failure::Timeout, flag: flag::OVERFLOW, message, denial: None }
    }

    /// The request's body is larger than a policy allows.
    pub fn too_large() -> Self {
        let (denial, message) = (Denial::PayloadTooLarge, "the request's body is larger than it may be");
        Self { failure: Failure::Timeout, flag: flag::NONE, message: message.into(), denial: Some(denial) }
    }

    /// The request took longer than it may.
    pub fn timeout(timeout: std::time::Duration) -> Self {
        let message = format!("upstream request timeout: no answer within {} ms", timeout.as_millis());
        Self { failure: Failure::Timeout, flag: flag::TIMEOUT, message, denial: None }
    }

    /// One attempt took longer than it may.
    pub fn tried_too_long(timeout: std::time::Duration) -> Self {
        Self { failure: Failure::TriedTooLong, ..Self::timeout(timeout) }
    }

    /// Reads the denial of an answer that a proxy made itself.
    pub fn from_answer(status: StatusCode, headers: &HeaderMap, whom: &str) -> Option<Self> {
        let reason = headers.get(DENIAL)?.to_str().ok()?;
        let message = format!("{whom} refused with {}: {reason}", status.as_u16());
        let denial = Denial::from_wire(reason)?;
        Some(Self::denied(denial, message))
    }

    /// The path to the peer was declared dead while the answer was awaited.
    pub fn path_down(path: &str) -> Self {
        let message = format!("the path {path} between the gateways went down");
        Self { failure: Failure::PathDown, flag: flag::BROKEN, message, denial: None }
    }

    /// An error of a hyper client after the request was handed over. `unsent` when hyper gave the request back.
    pub fn from_hyper(error: &hyper::Error, unsent: bool, whom: &str) -> Self {
        let message = format!("{whom} failed: {}", chain(error));
        let refused = unsent || h2_error(error).is_some_and(is_unprocessed);
        let failure = if refused { Failure::Refused } else { Failure::Broken };
        let reset = h2_error(error).is_some_and(h2::Error::is_reset);
        let flag = if reset { flag::RESET } else { flag::BROKEN };
        Self { failure, flag, message, denial: None }
    }

    /// A CONNECT that was not answered with success. Bytes of the flow leave only after it is, so all is safe to repeat.
    pub fn from_connect(error: &AnswerError, whom: &str) -> Self {
        if let AnswerError::Refused(parts) = error
            && let Some(fault) = Self::from_answer(parts.status, &parts.headers, whom)
        {
            return fault;
        }
        Self { failure: Failure::Refused, ..Self::connect(format!("{whom}: {}", chain(error))) }
    }

    /// A request that could not be sent at all.
    pub fn from_request(error: &RequestError, whom: &str) -> Self {
        Self::connect(format!("{whom}: {}", chain(error)))
    }

    /// What others than the own workload are told, in Envoy's words: nothing of objects, addresses, clusters and gateways, which
    /// the access log has.
    pub fn outline(&self) -> &'static str {
        match self.denial {
            Some(Denial::PayloadTooLarge) => "Payload Too Large",
            _ if self.status() == StatusCode::FORBIDDEN => "RBAC: access denied",
            _ => match self.flag {
                flag::NONE | flag::NO_ROUTE => "",
                flag::NO_UPSTREAM => "no healthy upstream",
                flag::TIMEOUT => "upstream request timeout",
                flag::OVERFLOW => "upstream connect error or disconnect/reset before headers. reset reason: overflow",
                _ => "upstream connect error or disconnect/reset before headers",
            },
        }
    }

    /// The status of the answer that the client gets.
    pub fn status(&self) -> StatusCode {
        match self.denial {
            Some(Denial::Policy | Denial::SourceMismatch | Denial::MtlsRequired | Denial::MtlsDisabled) => {
                StatusCode::FORBIDDEN
            }
            Some(Denial::NoRoute) => StatusCode::NOT_FOUND,
            Some(Denial::PayloadTooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
            _ if self.flag == flag::NONE => StatusCode::BAD_GATEWAY,
            _ if self.flag == flag::TIMEOUT => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// The HTTP/2 error behind a hyper error, if there is one.
fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref() {
            return Some(error);
        }
        source = cause.source();
    }
    None
}

/// REFUSED_STREAM, and streams above the last one that a graceful GOAWAY admits (RFC 9113 §8.7).
fn is_unprocessed(error: &h2::Error) -> bool {
    error.reason() == Some(h2::Reason::REFUSED_STREAM)
        || (error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR))
}
