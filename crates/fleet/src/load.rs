//! An open-loop load generator: requests start when they are due, whether or not earlier ones were answered, so that a
//! stall shows as waiting requests and not as a lower rate ("coordinated omission").

mod connections;
mod summary;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use connections::Connections;
pub use connections::SendError;
pub use summary::{Recovery, Summary, recovery, summarize};

/// What to send.
#[derive(Debug, Clone)]
pub struct Load {
    /// The sidecar's explicit proxy.
    pub proxy: SocketAddr,
    /// What to get.
    pub url: Uri,
    /// Requests per second.
    pub rate: u32,
    /// After this long no request starts any more; `None`: until [`Running::stop`].
    pub duration: Option<Duration>,
    /// How long one request may take.
    pub timeout: Duration,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Record {
    /// When it was due, since the start of the load.
    pub due: Duration,
    /// From when it was due to the end of its answer.
    pub latency: Duration,
    /// Status, or why there is none.
    pub outcome: Result<u16, String>,
    /// Who served, if the answer says so.
    pub pod: String,
    /// Where.
    pub cluster: String,
}

impl Record {
    /// Whether the request failed: no answer, or a status of 500 and above.
    pub fn is_failed(&self) -> bool {
        !matches!(self.outcome, Ok(status) if status < 500)
    }
}

/// A running load.
#[derive(Debug)]
pub struct Running {
    started: Instant,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<Vec<Record>>,
}

impl Load {
    /// Starts sending.
    pub fn start(self) -> Running {
        let (stop, stopped) = watch::channel(false);
        let started = Instant::now();
        Running { started, stop, task: tokio::spawn(run(self, started, stopped)) }
    }
}

impl Running {
    /// Time since the start of the load: the clock of [`Record::due`].
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Starts no more requests, waits for those in flight, and gives all records in the order in which they were due.
    pub async fn stop(self) -> Vec<Record> {
        self.stop.send_replace(true);
        self.finish().await
    }

    /// Waits until the load's duration is over.
    pub async fn finish(self) -> Vec<Record> {
        // Only a panic or the end of the runtime makes the task fail; nothing was measured then.
        self.task.await.unwrap_or_default()
    }
}

async fn run(load: Load, started: Instant, mut stopped: watch::Receiver<bool>) -> Vec<Record> {
    let connections = Arc::new(Connections::new(load.proxy, load.url.clone()));
    let mut ticks = tokio::time::interval_at(started, Duration::from_secs(1) / load.rate.max(1));
    // Late ticks come at once: the rate is a promise about starts, not about pauses.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut in_flight = JoinSet::new();
    let mut records = Vec::new();
    loop {
        let due = tokio::select! {
            due = ticks.tick() => due,
            _ = stopped.wait_for(|stopped| *stopped) => break,
            Some(done) = in_flight.join_next() => {
                records.extend(done.ok());
                continue;
            }
        };
        if load.duration.is_some_and(|duration| due.duration_since(started) >= duration) {
            break;
        }
        let connections = connections.clone();
        in_flight.spawn(one(connections, started, due, load.timeout));
    }
    while let Some(done) = in_flight.join_next().await {
        records.extend(done.ok());
    }
    records.sort_by_key(|record| record.due);
    records
}

async fn one(connections: Arc<Connections>, started: Instant, due: Instant, timeout: Duration) -> Record {
    let outcome = match tokio::time::timeout_at(due + timeout, connections.send()).await {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} ms", timeout.as_millis())),
    };
    let latency = due.elapsed();
    let (outcome, served) = match outcome {
        Ok((status, answer)) => (Ok(status), answer),
        Err(error) => (Err(error), crate::echo::Whoami::default()),
    };
    Record { due: due.duration_since(started), latency, outcome, pod: served.pod, cluster: served.cluster }
}
