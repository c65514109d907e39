//! What a test may ask of an echo server beside a request: to fail for a while, and what it has seen.
//!
//! `/control` is asked at the application's own address, past every sidecar:
//! * `/control/seen` – how many requests were served and what the last one looked like;
//! * `/control/fail/<n>/<status>` – the next *n* requests are answered with *status* (`/control/fail/0/0`: no more).
//!
//! A single request steers its own answer with headers: `x-echo-status: <status>`, `x-echo-delay: <milliseconds>` and
//! `x-echo-header: <name>=<value>`, which is added to the answer.
//!
//! gRPC calls are counted, fail and wait in the same way; an HTTP status then stands for the gRPC status of the same
//! meaning (503: UNAVAILABLE, 504: DEADLINE_EXCEEDED, …).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use super::answer::{Answer, Whoami};

/// What one echo server knows, shared by its ports.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Who serves.
    pub(super) whoami: Whoami,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    seen: Seen,
    failing: Option<Failing>,
}

#[derive(Debug, Clone, Copy)]
struct Failing {
    left: u64,
    status: StatusCode,
}

/// The answer of `/control/seen`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Requests served since the start, `/control` apart.
    pub requests: u64,
    /// The last of them.
    pub last: Option<Answer>,
}

impl State {
    pub(super) fn new(whoami: Whoami) -> Self {
        Self { whoami, memory: Mutex::default() }
    }

    /// Counts a request; gives the status with which it must fail, if it must.
    pub(super) fn count(&self, answer: &Answer) -> Option<StatusCode> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.seen.requests += 1;
        memory.seen.last = Some(answer.clone());
        let failing = memory.failing.as_mut().filter(|failing| failing.left > 0)?;
        failing.left -= 1;
        Some(failing.status)
    }

    /// What was seen so far.
    pub(super) fn seen(&self) -> Seen {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).seen.clone()
    }

    /// Makes the next requests fail. `false`: that is no number or no status.
    pub(super) fn fail(&self, count: &str, status: &str) -> bool {
        let Ok(left) = count.parse() else { return false };
        let status = if left == 0 { Some(StatusCode::OK) } else { parse_status(status) };
        let Some(status) = status else { return false };
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).failing = Some(Failing { left, status });
        true
    }
}

/// A final status.
pub(super) fn parse_status(text: &str) -> Option<StatusCode> {
    let code = text.parse().ok().filter(|code| *code >= 200)?;
    StatusCode::from_u16(code).ok()
}

/// What a request's headers ask for.
#[derive(Debug, Default)]
pub(super) struct Wish {
    pub(super) status: Option<StatusCode>,
    pub(super) delay: Duration,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Wish {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let header = |value: &HeaderValue| {
            let (name, value) = value.to_str().ok()?.split_once('=')?;
            Some((name.parse().ok()?, value.parse().ok()?))
        };
        Self {
            status: text("x-echo-status").and_then(parse_status),
            delay: Duration::from_millis(text("x-echo-delay").and_then(|millis| millis.parse().ok()).unwrap_or(0)),
            headers: headers.get_all("x-echo-header").iter().filter_map(header).collect(),
        }
    }
}
