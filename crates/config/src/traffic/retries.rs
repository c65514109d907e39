//! `retries`.

use std::collections::BTreeSet;

use federation_crds::istio::virtual_service::HttpRetry;
use mesh::{RetryCondition, RetryPolicy};

use super::objects::Notes;
use super::pool::duration;
use crate::analyze::codes;

/// A rule's own retries. What it leaves out is as in the default policy; no attempts means no retries.
pub(super) fn retries(found: &HttpRetry, path: &str, notes: &mut Notes<'_>) -> RetryPolicy {
    let default = RetryPolicy { configured: true, ..RetryPolicy::default() };
    let mut policy = RetryPolicy {
        attempts: u32::try_from(found.attempts).unwrap_or(0),
        per_try_timeout: duration(&found.per_try_timeout, &format!("{path}.perTryTimeout"), notes),
        backoff: duration(&found.backoff, &format!("{path}.backoff"), notes).unwrap_or(default.backoff),
        avoid_previous: found.retry_ignore_previous_hosts,
        remote_localities: found.retry_remote_localities.unwrap_or(default.remote_localities),
        ..default
    };
    if !found.retry_on.is_empty() {
        (policy.on, policy.statuses) = conditions(&found.retry_on, path, notes);
    }
    policy
}

/// `retryOn`: Envoy's words, and statuses.
fn conditions(retry_on: &str, path: &str, notes: &mut Notes<'_>) -> (BTreeSet<RetryCondition>, BTreeSet<u16>) {
    let (mut on, mut statuses) = (BTreeSet::new(), BTreeSet::new());
    for word in retry_on.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        if let Ok(status) = word.parse() {
            statuses.insert(status);
            on.insert(RetryCondition::RetriableStatusCodes);
            continue;
        }
        // There is no way in Istio to say which headers, so the condition never holds there either.
        if word == "retriable-headers" {
            let hint = "name statuses instead, such as 503";
            notes.add(codes::WITHOUT_EFFECT, format!("{path}.retryOn"), "retriable-headers has no effect", hint);
            continue;
        }
        if word == "http3-post-connect-failure" {
            let hint = "remove it: servers are not spoken to in HTTP/3";
            notes.add(codes::WITHOUT_EFFECT, format!("{path}.retryOn"), format!("{word} has no effect"), hint);
        }
        match RetryCondition::parse(word) {
            Some(condition) => {
                on.insert(condition);
            }
            None => notes.not_compiled(format!("{path}.retryOn"), format!("{word:?} is not supported")),
        }
    }
    if on.contains(&RetryCondition::RetriableStatusCodes) && statuses.is_empty() {
        let hint = "write the statuses beside it, such as retriable-status-codes,503";
        notes.add(codes::WITHOUT_EFFECT, format!("{path}.retryOn"), "retriable-status-codes names no status", hint);
    }
    (on, statuses)
}
