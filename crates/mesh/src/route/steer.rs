//! What a request says itself of its timeouts and retries: `grpc-timeout`, and the headers that applications of a mesh
//! steer Envoy by.
//!
//! Envoy, "Router", HTTP headers consumed; Istio, "Request Timeouts": a service may override a route's timeout by
//! `x-envoy-upstream-rq-timeout-ms`. Only the own workload is listened to: what a client outside of the mesh says at a
//! gateway is left unread.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Entry;
use super::decision::{RouteDecision, RouteOutcome};
use crate::reason::Reason;
use crate::request::HttpRequest;
use crate::retry::{RetryCondition, RetryPolicy};

const TIMEOUT: &str = "x-envoy-upstream-rq-timeout-ms";
const TRY_TIMEOUT: &str = "x-envoy-upstream-rq-per-try-timeout-ms";
const MAX_RETRIES: &str = "x-envoy-max-retries";
const RETRY_ON: &str = "x-envoy-retry-on";
const RETRY_GRPC_ON: &str = "x-envoy-retry-grpc-on";
const STATUSES: &str = "x-envoy-retriable-status-codes";

/// The headers that steer: they are for the first proxy, and go no further.
pub const STEERING_HEADERS: [&str; 6] = [TIMEOUT, TRY_TIMEOUT, MAX_RETRIES, RETRY_ON, RETRY_GRPC_ON, STATUSES];

/// How the names of headers begin that Envoys, and we as they do, say to each other and to applications: what steers, what a path
/// was before it was rewritten, who the client is, … A stranger has nothing to say in any of them.
pub const PROXIES_HEADERS: &str = "x-envoy-";

/// What Envoy retries without a route that says how often.
const RETRIES_BY_HEADER: u32 = 1;

/// Changes what was decided as the request wants it.
pub(super) fn steer(http: &HttpRequest<'_>, entry: Entry, decision: &mut RouteDecision) {
    if !matches!(decision.outcome, RouteOutcome::Forward { .. } | RouteOutcome::Passthrough) {
        return;
    }
    if let Some(wanted) = grpc_timeout(http) {
        // Istio makes the rule's timeout the most that a gRPC client may ask for (`max_grpc_timeout`); none is no limit.
        decision.timeout = Some(decision.timeout.map_or(wanted, |most| most.min(wanted)));
        note("grpc-timeout", decision);
    }
    if entry == Entry::Workload && http.headers.keys().any(|name| name.as_str().starts_with(PROXIES_HEADERS)) {
        timeouts(http, decision);
        retries(http, decision);
    }
}

fn timeouts(http: &HttpRequest<'_>, decision: &mut RouteDecision) {
    let millis = |name: &str| number(http, name).map(|millis| Duration::from_millis(millis.into()));
    let positive = |timeout: Duration| Some(timeout).filter(|timeout| !timeout.is_zero());
    if let Some(timeout) = millis(TIMEOUT) {
        decision.timeout = positive(timeout);
        note(TIMEOUT, decision);
    }
    if let Some(timeout) = millis(TRY_TIMEOUT) {
        decision.retry.per_try_timeout = positive(timeout);
        note(TRY_TIMEOUT, decision);
    }
    // Of two equal ones that of the whole request counts.
    let most = decision.timeout;
    decision.retry.per_try_timeout = decision.retry.per_try_timeout.filter(|one| most.is_none_or(|most| *one < most));
}

fn retries(http: &HttpRequest<'_>, decision: &mut RouteDecision) {
    let conditions: BTreeSet<RetryCondition> = words(http, RETRY_ON)
        .iter()
        .chain(&words(http, RETRY_GRPC_ON))
        .filter_map(|word| RetryCondition::parse(word))
        .collect();
    if !conditions.is_empty() {
        let policy = &mut decision.retry;
        if policy.attempts == 0 {
            // The rule wants no retries: only what the request names is retried.
            *policy = RetryPolicy {
                on: BTreeSet::new(),
                statuses: BTreeSet::new(),
                attempts: RETRIES_BY_HEADER,
                ..policy.clone()
            };
        }
        policy.configured = true;
        policy.on.extend(conditions);
        note(RETRY_ON, decision);
    }
    let statuses: BTreeSet<u16> = words(http, STATUSES).iter().filter_map(|word| word.parse().ok()).collect();
    if !statuses.is_empty() && decision.retry.on.contains(&RetryCondition::RetriableStatusCodes) {
        decision.retry.statuses.extend(statuses);
        note(STATUSES, decision);
    }
    if let Some(most) = number(http, MAX_RETRIES).filter(|_| decision.retry.attempts > 0) {
        decision.retry.attempts = most;
        note(MAX_RETRIES, decision);
    }
}

fn note(header: &str, decision: &mut RouteDecision) {
    decision.reasons.push(Reason::Note { text: format!("the request says {header}") });
}

fn text<'a>(http: &HttpRequest<'a>, name: &str) -> Option<&'a str> {
    http.headers.get(name)?.to_str().ok()
}

/// What is no number is as good as absent.
fn number(http: &HttpRequest<'_>, name: &str) -> Option<u32> {
    text(http, name)?.trim().parse().ok()
}

fn words<'a>(http: &HttpRequest<'a>, name: &str) -> Vec<&'a str> {
    text(http, name).into_iter().flat_map(|text| text.split(',')).map(str::trim).collect()
}

/// gRPC over HTTP/2, "Timeout": at most eight digits and a unit. Parts of a millisecond count as a whole one.
fn grpc_timeout(http: &HttpRequest<'_>) -> Option<Duration> {
    if !text(http, "content-type")?.starts_with("application/grpc") {
        return None;
    }
    let text = text(http, "grpc-timeout")?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    let millis = match unit {
        "H" => count * 3_600_000,
        "M" => count * 60_000,
        "S" => count * 1000,
        "m" => count,
        "u" => count.div_ceil(1000),
        "n" => count.div_ceil(1_000_000),
        _ => return None,
    };
    // Zero would be no timeout at all.
    Some(Duration::from_millis(millis.max(1)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{language, question::Asked};

    /// What a request to `reviews` gets: timeout, timeout of a try, retries, and whether they are configured.
    #[track_caller]
    fn check(rule: &str, request: &str, expected: &str) {
        let options = if rule.is_empty() { String::new() } else { format!(" ; {rule}") };
        let view = language::view(&format!("service reviews v1\nvs reviews\n  -> reviews{options}"));
        let (decision, _) = Asked::parse(&format!("GET reviews/ {request}")).decide(&view);
        let millis = |time: Option<std::time::Duration>| time.map_or("-".into(), |time| time.as_millis().to_string());
        let retry = &decision.retry;
        let on: Vec<String> =
            retry.on.iter().map(|on| serde_json::to_value(on).unwrap().as_str().unwrap().into()).collect();
        let names = if retry.configured { on.join(",") } else { "default".into() };
        let text = format!("{} {} {} {names}", millis(decision.timeout), millis(retry.per_try_timeout), retry.attempts);
        assert_eq!(text, expected, "{rule}: {request}");
    }

    #[test]
    fn requests_say_how_long_they_may_take() {
        check("", "", "- - 2 default");
        check("timeout=3", "", "3000 - 2 default");
        check("timeout=3", "x-envoy-upstream-rq-timeout-ms=50", "50 - 2 default");
        check("", "x-envoy-upstream-rq-timeout-ms=5000", "5000 - 2 default");
        check("timeout=3", "x-envoy-upstream-rq-timeout-ms=0", "- - 2 default");
        check("timeout=3", "x-envoy-upstream-rq-timeout-ms=soon", "3000 - 2 default");
        check("timeout=3", "x-envoy-upstream-rq-per-try-timeout-ms=40", "3000 40 2 default");
        check("timeout=3", "x-envoy-upstream-rq-per-try-timeout-ms=3000", "3000 - 2 default");
    }

    #[test]
    fn requests_say_what_is_tried_again() {
        let default = "connect-failure,refused-stream,retriable-4xx,cancelled,unavailable";
        check("", "x-envoy-retry-on=retriable-4xx", &format!("- - 2 {default}"));
        check("", "x-envoy-max-retries=7", "- - 7 default");
        check("", "x-envoy-max-retries=0", "- - 0 default");
        check(
            "",
            "x-envoy-retry-on=never,5xx x-envoy-max-retries=4",
            "- - 4 5xx,connect-failure,refused-stream,cancelled,unavailable",
        );
        check("retry=0", "x-envoy-retry-on=5xx", "- - 1 5xx");
        check("retry=0", "x-envoy-retry-grpc-on=internal x-envoy-max-retries=3", "- - 3 internal");
        check("retry=0", "x-envoy-max-retries=3", "- - 0 connect-failure,refused-stream,cancelled,unavailable");
    }

    #[test]
    fn a_grpc_client_may_ask_for_less_than_the_rule_allows() {
        let grpc = "content-type=application/grpc";
        check("", &format!("{grpc} grpc-timeout=2S"), "2000 - 2 default");
        check("timeout=3", &format!("{grpc} grpc-timeout=2S"), "2000 - 2 default");
        check("timeout=3", &format!("{grpc} grpc-timeout=1H"), "3000 - 2 default");
        check("timeout=3", &format!("{grpc} grpc-timeout=1500u"), "2 - 2 default");
        check("timeout=3", &format!("{grpc} grpc-timeout=0n"), "1 - 2 default");
        for wrong in ["S", "", "123456789S", "1", "1s", "-1S", "1é"] {
            check("timeout=3", &format!("{grpc} grpc-timeout={wrong}"), "3000 - 2 default");
        }
        check("timeout=3", "grpc-timeout=2S", "3000 - 2 default");
    }

    #[test]
    fn clients_of_a_gateway_do_not_steer() {
        let config = "service reviews v1\nserver gw 80 http *\nvs * gateways=gw\n  -> reviews ; timeout=3";
        let view = language::view(config);
        let (decision, _) = Asked::parse("GET a.example/ x-envoy-upstream-rq-timeout-ms=50 @80").decide(&view);
        assert_eq!(decision.timeout.map(|timeout| timeout.as_secs()), Some(3), "{decision:?}");
    }
}
