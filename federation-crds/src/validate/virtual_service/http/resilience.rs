//! Faults, mirrors and retries.

use crate::error::FieldErrors;
use crate::istio::GRPC_STATUSES;
use crate::istio::virtual_service::{FaultAbort, FaultDelay, HttpFault, HttpRetry, HttpRoute};
use crate::validate::traffic;

const RETRY_ON: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

pub(super) fn check_fault(path: &str, fault: &Option<HttpFault>, errors: &mut FieldErrors) {
    let Some(fault) = fault else { return };
    if fault.delay.is_none() && fault.abort.is_none() {
        errors.add(path, "delay or abort is required", "add one of them, or remove fault");
    }
    if let Some(delay) = &fault.delay {
        check_delay(&format!("{path}.delay"), delay, errors);
    }
    if let Some(abort) = &fault.abort {
        check_abort(&format!("{path}.abort"), abort, errors);
    }
}

fn check_delay(path: &str, delay: &FaultDelay, errors: &mut FieldErrors) {
    if let Some(percentage) = &delay.percentage {
        traffic::percent(format!("{path}.percentage.value"), percentage.value, errors);
    }
    if let Some(percent) = delay.percent.filter(|percent| !(0..=100).contains(percent)) {
        errors.add(
            format!("{path}.percent"),
            format!("{percent} must be a percentage, 0 to 100"),
            "write a whole number; for parts of a percent use percentage.value",
        );
    }
    traffic::duration(format!("{path}.fixedDelay"), &delay.fixed_delay, errors);
    if delay.exponential_delay.is_some() {
        errors.add(format!("{path}.exponentialDelay"), "is not supported", "use fixedDelay instead");
    } else if delay.fixed_delay.is_none() {
        errors.add(format!("{path}.fixedDelay"), "is required", "add fixedDelay, such as 2s");
    }
}

fn check_abort(path: &str, abort: &FaultAbort, errors: &mut FieldErrors) {
    if let Some(percentage) = &abort.percentage {
        traffic::percent(format!("{path}.percentage.value"), percentage.value, errors);
    }
    if let Some(status) = abort.http_status.filter(|status| !(200..=599).contains(status)) {
        errors.add(
            format!("{path}.httpStatus"),
            format!("{status} must be a status, 200 to 599"),
            "write the status to answer with, such as 503",
        );
    }
    if let Some(status) = abort.grpc_status.as_deref().filter(|status| !GRPC_STATUSES.contains(status)) {
        let message = format!("{status:?} is no gRPC status");
        errors.add(format!("{path}.grpcStatus"), message, format!("one of {}", GRPC_STATUSES.join(", ")));
    }
    if abort.http2_error.is_some() {
        let hint = "use httpStatus or grpcStatus instead";
        errors.add(format!("{path}.http2Error"), "is not supported", hint);
    }
    if abort.http_status.is_some() && abort.grpc_status.is_some() {
        errors.add(
            path,
            "only one of httpStatus and grpcStatus may be given",
            "keep httpStatus for HTTP, or grpcStatus for gRPC",
        );
    }
}

pub(super) fn check_mirrors(path: &str, route: &HttpRoute, errors: &mut FieldErrors) {
    if let Some(mirror) = &route.mirror {
        traffic::destination(&format!("{path}.mirror"), mirror, errors);
        if !route.mirrors.is_empty() {
            errors.add(format!("{path}.mirrors"), "must be absent beside mirror", "move mirror into mirrors");
        }
    }
    let old = [("mirrorPercent", route.mirror_percent), ("mirror_percent", route.mirror_percent_snake)];
    for (field, percent) in old {
        if let Some(percent) = percent.filter(|percent| !(0..=100).contains(percent)) {
            errors.add(
                format!("{path}.{field}"),
                format!("{percent} must be a percentage, 0 to 100"),
                "write a whole number; for parts of a percent use mirrorPercentage.value",
            );
        }
    }
    if let Some(percentage) = &route.mirror_percentage {
        traffic::percent(format!("{path}.mirrorPercentage.value"), percentage.value, errors);
    }
    for (index, mirror) in route.mirrors.iter().enumerate() {
        let path = format!("{path}.mirrors[{index}]");
        match &mirror.destination {
            Some(destination) => traffic::destination(&format!("{path}.destination"), destination, errors),
            None => errors.add(format!("{path}.destination"), "is required", "add destination: {host: …}"),
        }
        if let Some(percentage) = &mirror.percentage {
            traffic::percent(format!("{path}.percentage.value"), percentage.value, errors);
        }
    }
}

pub(super) fn check_retries(path: &str, retries: &Option<HttpRetry>, errors: &mut FieldErrors) {
    let Some(retries) = retries else { return };
    traffic::count(format!("{path}.attempts"), retries.attempts, errors);
    let more =
        retries.per_try_timeout.is_some() || !retries.retry_on.is_empty() || retries.retry_remote_localities.is_some();
    if retries.attempts == 0 && more {
        let hint = "give attempts a number, or remove the other fields";
        errors.add(format!("{path}.attempts"), "0 switches retries off, so nothing else may be given", hint);
    }
    traffic::duration(format!("{path}.perTryTimeout"), &retries.per_try_timeout, errors);
    traffic::duration(format!("{path}.backoff"), &retries.backoff, errors);
    if retries.retry_on.is_empty() {
        return;
    }
    for word in retries.retry_on.split(',') {
        let status = word.parse::<u16>().is_ok_and(is_status);
        if !status && !RETRY_ON.contains(&word) {
            let message = format!("{word:?} is no condition");
            let hint = format!("statuses, and {}; separated by commas without spaces", RETRY_ON.join(", "));
            errors.add(format!("{path}.retryOn"), message, hint);
        }
    }
}

/// Statuses that are registered (IANA), as Go's `http.StatusText` knows them.
fn is_status(status: u16) -> bool {
    matches!(status, 100..=103 | 200..=208 | 226 | 300..=305 | 307 | 308 | 400..=418 | 421..=426 | 428 | 429 | 431 | 451
        | 500..=508 | 510 | 511)
}
