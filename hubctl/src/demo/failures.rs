//! The second half: part after part is killed under load, and what clients saw is counted.

use std::time::Duration;

use anyhow::{Context as _, Result};
use fleet::call::parse_url;
use fleet::load::{Load, recovery, summarize};
use fleet::plan::Kind;
use fleet::{Fleet, converge, process};
use hub_client::OperatorCredential;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::story::{FROM, HOST};
use super::{Clock, Figures};
use crate::output::{self, Table};

/// Load before the kill, so that pools are warm.
const BEFORE: Duration = Duration::from_millis(1500);
/// Load after it.
const AFTER: Duration = Duration::from_secs(4);
/// A request that takes longer was disturbed.
const SLOW: Duration = Duration::from_millis(250);
/// How long what was killed may take to serve again, and the mesh to converge.
const RESTART: Duration = Duration::from_secs(30);

/// What clients saw of one kill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Figure {
    /// What was killed.
    killed: String,
    /// Requests in all.
    requests: usize,
    /// How many of them failed.
    failed: usize,
    /// Requests due in the two seconds after the kill.
    requests_in_2s: usize,
    /// Failures among them.
    failed_in_2s: usize,
    /// Failures among later ones.
    failed_later: usize,
    /// The longest that one request waited.
    longest_wait_ms: f64,
    /// From the kill until the last disturbed request was over.
    recovery_ms: f64,
}

pub(super) async fn run(fleet: &Fleet, rate: u32, clock: Clock, figures: &mut Figures) -> Result<()> {
    clock.say(&format!("now under {rate} requests per second from {FROM} to {HOST}"));
    let hub: Vec<String> =
        fleet.plan().processes().into_iter().filter(|p| p.kind == Kind::Hub).map(|p| p.name).collect();
    let leader = leader(fleet).await?;
    let one = |name: &str| vec![name.to_owned()];
    let kills = [
        ("a gateway of east".to_owned(), one("east/gateway-1")),
        ("a gateway of west".to_owned(), one("west/gateway-1")),
        (format!("the hub's leader, {leader}"), one(&leader)),
        ("the whole hub".to_owned(), hub),
    ];
    for (what, processes) in kills {
        let figure = kill(fleet, rate, &what, &processes, clock).await?;
        figures.failures.push(figure);
    }
    let mut table = Table::new(&["KILLED", "REQUESTS", "FAILED", "LONGEST WAIT", "RECOVERY"]);
    for figure in &figures.failures {
        let recovery = match figure.recovery_ms {
            0.0 => format!("none needed: no request over {} ms", SLOW.as_millis()),
            ms => format!("{ms:.0} ms"),
        };
        table.row([
            figure.killed.clone(),
            figure.requests.to_string(),
            figure.failed.to_string(),
            format!("{:.0} ms", figure.longest_wait_ms),
            recovery,
        ]);
    }
    output::text(&table.render())
}

/// The process that leads the hub now.
async fn leader(fleet: &Fleet) -> Result<String> {
    let hub = OperatorCredential::load(&fleet.layout.operator())?.client()?;
    let status = hub.status().await.context("the hub's leader is unknown")?;
    Ok(format!("hub-{}", status.leader_id))
}

async fn kill(fleet: &Fleet, rate: u32, what: &str, processes: &[String], clock: Clock) -> Result<Figure> {
    let (_, pod) = fleet.meshed_pod(FROM)?;
    let load = Load {
        proxy: pod.proxy(),
        url: parse_url(&format!("http://{HOST}/load"))?,
        rate,
        duration: None,
        timeout: Duration::from_secs(10),
    };
    let running = load.start();
    tokio::time::sleep(BEFORE).await;
    clock.say(&format!("killing {what} (SIGKILL)"));
    let event = running.elapsed();
    let kill = process::parse_signal("KILL").context("no such signal")?;
    for process in processes {
        fleet.signal(process, kill).await?;
    }
    tokio::time::sleep(AFTER).await;
    let records = running.stop().await;
    let summary = summarize(&records);
    let judged = recovery(&records, event, SLOW);
    clock.say(&format!(
        "{} requests, {} failed, longest wait {:.0} ms, recovered after {:.0} ms; starting it again",
        summary.requests, summary.failed, summary.longest_ms, judged.recovery_ms
    ));
    for (error, count) in summary.errors.iter().take(3) {
        clock.say(&format!("  {count} × {error}"));
    }
    restart(fleet, processes).await?;
    Ok(Figure {
        killed: what.to_owned(),
        requests: summary.requests,
        failed: summary.failed,
        requests_in_2s: judged.requests_in_2s,
        failed_in_2s: judged.failed_in_2s,
        failed_later: judged.failed_later,
        longest_wait_ms: summary.longest_ms,
        recovery_ms: judged.recovery_ms,
    })
}

/// Starts all at once (hub nodes are ready only together), then waits for each and for the mesh.
async fn restart(fleet: &Fleet, processes: &[String]) -> Result<()> {
    let mut started = Vec::new();
    for name in processes {
        let process = fleet.process(name)?;
        fleet.spawn(&process)?;
        started.push(process);
    }
    let deadline = Instant::now() + RESTART;
    fleet::wait::until_all_ready(&fleet.layout, &started, deadline).await?;
    converge::wait_converged(fleet, deadline).await
}
