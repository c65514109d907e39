//! Many requests, and what chance allows.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use fleet::call::Call;
use fleet::echo::{Answer, Seen};
use fleet::file::PortProtocol;
use fleet::load::Record;
use http::HeaderMap;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Scenario;

/// One request and what came of it.
#[derive(Debug, Clone)]
pub struct Shot {
    /// The status; 0 without an answer.
    pub status: u16,
    /// The headers of the answer.
    pub headers: HeaderMap,
    /// What the echo server said, if the answer was its own.
    pub answer: Answer,
    /// The body as text.
    pub body: String,
    /// From the connection to the end of the answer.
    pub took: Duration,
}

impl Shot {
    /// The value of a header of the answer; empty without one.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The value of a header of the request as the server saw it.
    pub fn seen(&self, name: &str) -> &str {
        self.answer.headers.get(name).map_or("", String::as_str)
    }

    /// The version of who answered.
    pub fn version(&self) -> &str {
        &self.answer.whoami.version
    }
}

/// Makes a call.
pub async fn shoot(call: &Call) -> Shot {
    let started = Instant::now();
    let reply = call.send().await;
    let took = started.elapsed();
    match reply {
        Ok(reply) => Shot {
            status: reply.status.map_or(0, |status| status.as_u16()),
            answer: serde_json::from_slice(&reply.body).unwrap_or_default(),
            body: String::from_utf8_lossy(&reply.body).into_owned(),
            headers: reply.headers,
            took,
        },
        Err(error) => {
            Shot { status: 0, headers: HeaderMap::new(), answer: Answer::default(), body: format!("{error:#}"), took }
        }
    }
}

/// Makes a call so many times, at most `at_once` at a time.
pub async fn volley(call: &Call, count: usize, at_once: usize) -> Vec<Shot> {
    let places = Arc::new(Semaphore::new(at_once));
    let mut shots = JoinSet::new();
    for _ in 0..count {
        let (call, places) = (call.clone(), places.clone());
        shots.spawn(async move {
            let _place = places.acquire().await.expect("the semaphore is never closed");
            shoot(&call).await
        });
    }
    shots.join_all().await
}

/// How many shots there are of each kind.
pub fn tally<K: Ord>(shots: &[Shot], key: impl Fn(&Shot) -> K) -> BTreeMap<K, usize> {
    let mut tally = BTreeMap::new();
    for shot in shots {
        *tally.entry(key(shot)).or_default() += 1;
    }
    tally
}

/// How seldom a right share may fail a test: once in a billion runs.
const UNLIKELY: f64 = 1e-9;

/// Fails unless `hits` of `total` is what chance allows for a probability: neither tail of the binomial distribution may be
/// less likely than [`UNLIKELY`].
#[track_caller]
pub fn assert_share(what: &str, hits: usize, total: usize, probability: f64) {
    let mean = real(total) * probability;
    let (less, more) = (tail(0, hits, total, probability), tail(hits, total, total, probability));
    println!("{what}: {hits} of {total}, expected {mean:.1}; chance of so few {less:.2e}, of so many {more:.2e}");
    assert!(less > UNLIKELY && more > UNLIKELY, "{what}: {hits} of {total}, expected {mean:.1}");
}

/// Fails when `hits` of `total` is more than chance allows for a probability of at most this.
#[track_caller]
pub fn assert_at_most(what: &str, hits: usize, total: usize, probability: f64) {
    let more = tail(hits, total, total, probability);
    println!("{what}: {hits} of {total}, at most {:.1} expected; chance {more:.2e}", real(total) * probability);
    assert!(more > UNLIKELY, "{what}: {hits} of {total} for a probability of at most {probability:.3}");
}

/// The probability of `from..=to` hits in `total` independent draws.
fn tail(from: usize, to: usize, total: usize, probability: f64) -> f64 {
    let (hit, miss) = (probability.ln(), (-probability).ln_1p());
    let log_factorial = |n: usize| (2..=n).map(|k| real(k).ln()).sum::<f64>();
    let chance = |hits: usize| {
        let ways = log_factorial(total) - log_factorial(hits) - log_factorial(total - hits);
        (ways + real(hits) * hit + real(total - hits) * miss).exp()
    };
    (from..=to).map(chance).sum()
}

#[expect(clippy::cast_precision_loss, reason = "counts of a test")]
fn real(count: usize) -> f64 {
    count as f64
}

impl Scenario {
    /// A GET of a workload.
    pub fn call_from(&self, workload: &str, url: &str) -> Call {
        Call::get(self.proxy(workload), url).expect("a URL")
    }

    /// A GET of a workload with headers, each `name: value`.
    pub fn with(&self, workload: &str, url: &str, headers: &[&str]) -> Call {
        let mut call = self.call_from(workload, url);
        for header in headers {
            call.header(header).expect("a header");
        }
        call
    }

    /// Makes one GET of a workload.
    pub async fn shot(&self, workload: &str, url: &str, headers: &[&str]) -> Shot {
        shoot(&self.with(workload, url, headers)).await
    }

    /// Asks the application of a pod itself, past its sidecar; see `fleet::echo`.
    pub async fn control(&self, pod: &str, path: &str) -> Shot {
        let address = self.application(pod);
        let shot = shoot(&Call::get(address, &format!("http://{address}/control/{path}")).expect("a URL")).await;
        assert_eq!(shot.status, 200, "{pod} {path}: {}", shot.body);
        shot
    }

    /// What the application of a pod has seen.
    pub async fn saw(&self, pod: &str) -> Seen {
        serde_json::from_str(&self.control(pod, "seen").await.body).expect("the echo server answers JSON")
    }

    /// Where the application of a pod listens: its first HTTP port.
    pub fn application(&self, pod: &str) -> SocketAddr {
        let pod = self.fleet.pod(pod).expect("the pod exists").1;
        let http = pod.ports.iter().find(|port| port.protocol == PortProtocol::Http).expect("an HTTP port");
        SocketAddr::from((pod.ip, http.app))
    }
}

/// What a kill of a server's sidecar, or of a gateway on the way, may cost: an answer that had begun breaks off, and nothing may
/// repeat that request. Requests may fail only if they were under way at the kill, and of those hardly any: two, or one in ten
/// where a busy machine has many under way.
pub fn assert_only_in_flight_failed(records: &[Record], kill: &Range<Duration>, logs: &str) {
    let met = |record: &&Record| record.due <= kill.end && record.due + record.latency >= kill.start;
    let failed: Vec<_> = records.iter().filter(|record| record.is_failed()).collect();
    let most = (records.iter().filter(met).count() / 10).max(2);
    let in_flight = failed.iter().all(met) && failed.len() <= most;
    assert!(in_flight, "killed at {kill:?}, {most} may fail: {failed:?}\n{logs}");
    println!("{} requests, {} under way failed with their server", records.len(), failed.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_those_of_the_binomial_distribution() {
        for (from, to, total, probability, expected) in [
            (0, 10, 10, 0.3, 1.0),
            (0, 0, 10, 0.5, 1.0 / 1024.0),
            (10, 10, 10, 0.5, 1.0 / 1024.0),
            (2, 2, 4, 0.5, 0.375),
        ] {
            let chance = tail(from, to, total, probability);
            assert!((chance - expected).abs() < 1e-12, "{from}..={to} of {total} at {probability}: {chance}");
        }
        assert!(tail(160, 1000, 1000, 0.1) < 1e-8 && tail(0, 100, 1000, 0.1) > 0.5);
    }
}
