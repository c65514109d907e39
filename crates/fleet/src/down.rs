//! Takes a fleet down: no process, no file and no claim stays, also when the fleet or its starter crashed half way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use tokio::time::Instant;

use crate::block::{self, Claim};
use crate::handle::Fleet;
use crate::hint::Hint;
use crate::plan::Kind;
use crate::process::{PidRecord, of_instance};
use crate::wait::POLL;

/// How long processes may drain before they are killed.
pub const GRACE: Duration = Duration::from_secs(3);

/// What was taken down.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Downed {
    /// The directory that is gone.
    pub directory: PathBuf,
    /// Processes that were ended.
    pub ended: usize,
    /// Those of them that had to be killed.
    pub killed: usize,
}

/// Ends every process of the fleet in `directory`, then removes the directory and the claim on its addresses.
pub async fn down(directory: &Path, registry: &Path, grace: Duration) -> Result<Downed> {
    let directory = std::path::absolute(directory)?;
    let claim = block::claims(registry).into_iter().find(|claim| claim.directory == directory);
    let (instance, block) = identify(&directory, claim)?;
    let (ended, killed) = end_all(&directory, &instance, grace).await?;
    block::release(registry, block, &instance)?;
    if directory.exists() {
        std::fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    Ok(Downed { directory, ended, killed })
}

/// The instance and its block, from `fleet.json` or, if the starter crashed before it was written, from the claim.
/// Neither: the directory is no fleet and must not be touched.
fn identify(directory: &Path, claim: Option<Claim>) -> Result<(String, u8)> {
    match (Fleet::open(directory), claim) {
        (Ok(fleet), _) => Ok((fleet.state.instance, fleet.state.plan.block)),
        (Err(_), Some(claim)) => Ok((claim.instance, claim.block)),
        (Err(_), None) => {
            let message = format!("{} is not the directory of a fleet", directory.display());
            Err(Hint::error(message, "`hubctl fleet list` shows the fleets"))
        }
    }
}

async fn end_all(directory: &Path, instance: &str, grace: Duration) -> Result<(usize, usize)> {
    let mut seen: BTreeMap<(i32, u64), PidRecord> = BTreeMap::new();
    let mut alive = alive(directory, instance);
    // Namespaces last: what drains still needs its links. They hold nothing and are killed below.
    let holders = holders(directory);
    alive.retain(|record| !holders.contains(record));
    seen.extend(holders.iter().map(|record| ((record.pid, record.start_time), *record)));
    for record in &alive {
        record.signal(Signal::TERM)?;
        // A stopped process sees TERM only once it continues.
        record.signal(Signal::CONT)?;
    }
    seen.extend(alive.iter().map(|record| ((record.pid, record.start_time), *record)));
    let deadline = Instant::now() + grace;
    while !alive.is_empty() && Instant::now() < deadline {
        tokio::time::sleep(POLL / 2).await;
        alive.retain(PidRecord::is_alive);
    }
    let mut killed = 0;
    let deadline = Instant::now() + Duration::from_secs(10);
    // Looked up anew every time: a shell may have started something between the two signals.
    loop {
        let left = self::alive(directory, instance);
        if left.is_empty() {
            return Ok((seen.len(), killed));
        }
        if Instant::now() >= deadline {
            let pids: Vec<_> = left.iter().map(|record| record.pid.to_string()).collect();
            let message = format!("processes {} do not end", pids.join(", "));
            return Err(Hint::error(message, "look at them with `ps`; then run `hubctl fleet down` again"));
        }
        for record in &left {
            seen.insert((record.pid, record.start_time), *record);
            let killed_now = record.signal(Signal::KILL)? && !holders.contains(record);
            killed += usize::from(killed_now);
        }
        let batch = Instant::now() + Duration::from_secs(2);
        while left.iter().any(PidRecord::is_alive) && Instant::now() < batch {
            tokio::time::sleep(POLL / 8).await;
        }
    }
}

/// Those that hold the namespaces of a fleet.
fn holders(directory: &Path) -> Vec<PidRecord> {
    let Ok(fleet) = Fleet::open(directory) else { return Vec::new() };
    let processes = fleet.plan().processes();
    let pauses = processes.iter().filter(|process| process.kind == Kind::Pause);
    pauses.filter_map(|process| fleet.record(&process.name)).filter(PidRecord::is_alive).collect()
}

/// Recorded processes, and those that carry the instance id without a record.
fn alive(directory: &Path, instance: &str) -> Vec<PidRecord> {
    let mut records: Vec<PidRecord> = Vec::new();
    let mut open = vec![directory.join("run")];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else {
                records.extend(PidRecord::load(&path).filter(PidRecord::is_alive));
            }
        }
    }
    for record in of_instance(instance) {
        if !records.contains(&record) {
            records.push(record);
        }
    }
    records
}
