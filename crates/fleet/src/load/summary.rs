//! What a load's records say.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::Record;

/// Figures over some records. Times in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    /// How many requests.
    pub requests: usize,
    /// How many failed.
    pub failed: usize,
    /// Median latency.
    pub p50_ms: f64,
    /// 99th percentile of the latency.
    pub p99_ms: f64,
    /// The longest wait for an answer or a failure.
    pub longest_ms: f64,
    /// Requests by who served them.
    pub by_pod: BTreeMap<String, usize>,
    /// Failures by what happened.
    pub errors: BTreeMap<String, usize>,
}

/// Summarises records.
pub fn summarize<'a>(records: impl IntoIterator<Item = &'a Record>) -> Summary {
    let mut summary = Summary::default();
    let mut latencies = Vec::new();
    for record in records {
        summary.requests += 1;
        latencies.push(record.latency);
        if !record.pod.is_empty() {
            *summary.by_pod.entry(format!("{}/{}", record.cluster, record.pod)).or_default() += 1;
        }
        if record.is_failed() {
            summary.failed += 1;
            let error = match &record.outcome {
                Ok(status) => format!("status {status}"),
                Err(error) => error.clone(),
            };
            *summary.errors.entry(error).or_default() += 1;
        }
    }
    latencies.sort_unstable();
    summary.p50_ms = quantile(&latencies, 50);
    summary.p99_ms = quantile(&latencies, 99);
    summary.longest_ms = latencies.last().map_or(0.0, |latency| millis(*latency));
    summary
}

/// How service came back after an event.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recovery {
    /// From the event until the last disturbed request was over. Zero: nobody noticed.
    pub recovery_ms: f64,
    /// Requests that were due in the two seconds after the event.
    pub requests_in_2s: usize,
    /// How many of these failed.
    pub failed_in_2s: usize,
    /// Failures among the requests that were due later.
    pub failed_later: usize,
}

/// Judges the records of requests that were due from `event` (a time of [`super::Running::elapsed`]) on. Disturbed is a request
/// that failed or took longer than `slow`.
pub fn recovery(records: &[Record], event: Duration, slow: Duration) -> Recovery {
    let after: Vec<&Record> = records.iter().filter(|record| record.due >= event).collect();
    let soon = |record: &&&Record| record.due < event + Duration::from_secs(2);
    // A request in flight at the event counts as disturbed too.
    let disturbed = records.iter().filter(|record| record.due + record.latency >= event);
    let disturbed = disturbed.filter(|record| record.is_failed() || record.latency > slow);
    let last = disturbed.map(|record| record.due + record.latency).max();
    Recovery {
        recovery_ms: last.map_or(0.0, |last| millis(last.saturating_sub(event))),
        requests_in_2s: after.iter().filter(soon).count(),
        failed_in_2s: after.iter().filter(soon).filter(|record| record.is_failed()).count(),
        failed_later: after.iter().filter(|record| !soon(record)).filter(|record| record.is_failed()).count(),
    }
}

fn quantile(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(rank).map_or(0.0, |latency| millis(*latency))
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(due: u64, latency: u64, outcome: Result<u16, String>) -> Record {
        Record {
            due: Duration::from_millis(due),
            latency: Duration::from_millis(latency),
            outcome,
            pod: "web-1".into(),
            cluster: "east".into(),
        }
    }

    #[test]
    fn quantiles_and_failures_are_counted() {
        let mut records: Vec<Record> = (1..=99).map(|n| record(n, n, Ok(200))).collect();
        records.push(record(100, 500, Ok(503)));
        let summary = summarize(&records);
        assert_eq!((summary.requests, summary.failed), (100, 1));
        assert_eq!((summary.p50_ms, summary.p99_ms, summary.longest_ms), (50.0, 99.0, 500.0));
        assert_eq!(summary.errors, BTreeMap::from([("status 503".to_owned(), 1)]));
    }

    #[test]
    fn recovery_ends_with_the_last_disturbed_request() {
        let gone = Err("gone".to_owned());
        let records = [
            record(0, 5, Ok(200)),
            record(1000, 300, gone.clone()),
            record(1500, 700, Ok(200)),
            record(1600, 5, Ok(200)),
            record(3200, 5, gone),
        ];
        let judged = recovery(&records, Duration::from_millis(1000), Duration::from_millis(500));
        let expected = Recovery { recovery_ms: 2205.0, requests_in_2s: 3, failed_in_2s: 1, failed_later: 1 };
        assert_eq!(judged, expected);
        let calm = recovery(&records[..1], Duration::from_millis(1000), Duration::from_millis(500));
        assert_eq!(calm.recovery_ms, 0.0);
    }
}
