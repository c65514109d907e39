//! Space on the disk. An engine that met a full disk cannot be used any more, and Raft ends with it: so a node stops writing before
//! that, goes on reading, and writes again once there is space, without a restart.
//!
//! Space for Raft's own small writes (votes, blank entries) is kept in a file, the *reserve*, that is removed while space is short.
//! A leader that is short of it withholds its heartbeats for a while, so that a node with space takes over; if none does, it refuses
//! writes itself.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::raft_types::{NodeId, Raft};

const MIB: u64 = 1024 * 1024;
/// With less free than this, beside the reserve, a node writes no more.
const SHORT: u64 = 8 * MIB;
/// The size of the reserve.
const RESERVE: u64 = 16 * MIB;
/// With as much free it writes again: there is space for the reserve and twice of what is short.
const ENOUGH: u64 = RESERVE + 2 * SHORT;
/// Between two looks when nothing is written.
const LOOK: Duration = Duration::from_millis(500);
/// A leader that is short of space lets others take over for this long …
const ASIDE: Duration = Duration::from_secs(4);
/// … and once more after this.
const ASIDE_AGAIN: Duration = Duration::from_secs(30);
/// Without a leader for this long, one that is short of space is better than none: it serves reads.
const LEADERLESS: Duration = Duration::from_secs(5);

/// What a node knows of its disk; clones share it.
#[derive(Clone)]
pub(crate) struct Disk {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    directory: PathBuf,
    short: Mutex<bool>,
    aside: AtomicBool,
    metrics: Metrics,
}

impl Disk {
    /// Looks at the disk of a data directory for the first time.
    pub(crate) fn new(node: NodeId, directory: &Path, metrics: Metrics) -> Self {
        let _ = fs::create_dir_all(directory);
        let inner = Inner {
            node,
            directory: directory.to_owned(),
            short: Mutex::new(false),
            aside: AtomicBool::new(false),
            metrics,
        };
        let disk = Self { inner: Arc::new(inner) };
        if disk.short().is_none() {
            disk.keep_reserve();
        }
        disk
    }

    /// Why nothing may be written now; `None` if there is space. Asks the system, which takes microseconds.
    pub(crate) fn short(&self) -> Option<String> {
        let free = match statvfs(&self.inner.directory) {
            Ok(seen) => seen.f_bavail.saturating_mul(seen.f_frsize),
            // Not knowing is no reason to stop.
            Err(_) => return None,
        };
        let mut short = self.inner.short.lock().unwrap_or_else(PoisonError::into_inner);
        let now = is_short(*short, free);
        if now != *short {
            *short = now;
            self.changed(now, free);
        }
        self.inner.metrics.disk_free.set(i64::try_from(free).unwrap_or(i64::MAX));
        self.inner.metrics.disk_short.set(i64::from(now));
        now.then(|| self.reason(free))
    }

    /// Whether others are being given the chance to lead.
    pub(crate) fn stands_aside(&self) -> bool {
        self.inner.aside.load(Ordering::Relaxed)
    }

    fn reason(&self, free: u64) -> String {
        let (node, path) = (self.inner.node, self.inner.directory.display());
        let (free, enough) = (free / MIB, ENOUGH / MIB);
        format!(
            "the disk of hub node {node} is full: {free} MiB are free; hint: free {enough} MiB where {path} lies; it goes on by itself"
        )
    }

    fn changed(&self, short: bool, free: u64) {
        if short {
            tracing::error!(reason = self.reason(free), "writes stop");
            let _ = fs::remove_file(self.reserve());
        } else {
            tracing::info!(free_mib = free / MIB, "the disk has space again");
            self.keep_reserve();
        }
    }

    fn keep_reserve(&self) {
        let kept = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.reserve())
            .and_then(|file| fallocate(&file, FallocateFlags::empty(), 0, RESERVE).map_err(io::Error::from));
        if let Err(error) = kept {
            let _ = fs::remove_file(self.reserve());
            tracing::warn!(%error, "no space can be kept in reserve");
        }
    }

    fn reserve(&self) -> PathBuf {
        self.inner.directory.join("reserve")
    }

    /// Looks at the disk and says to Raft what follows, until the node ends.
    pub(crate) async fn watch(self, raft: Raft, ended: CancellationToken) {
        let metrics = raft.server_metrics();
        let (mut short_since, mut led_at) = (None, Instant::now());
        while ended.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            let now = Instant::now();
            let leader = metrics.borrow().current_leader;
            led_at = if leader.is_some() { now } else { led_at };
            let leads = leader == Some(self.inner.node);
            short_since = match self.short().is_some() && leads {
                true => short_since.or(Some(now)),
                false => None,
            };
            let short = *self.inner.short.lock().unwrap_or_else(PoisonError::into_inner);
            let seen = Seen { short, leading_short: short_since.map(|since| now - since), leaderless: now - led_at };
            let wish = wish(&seen);
            self.inner.aside.store(!wish.heartbeat, Ordering::Relaxed);
            raft.runtime_config().heartbeat(wish.heartbeat);
            raft.runtime_config().elect(wish.elect);
        }
    }
}

/// Leaving is at once, returning takes more: nothing flaps.
fn is_short(was: bool, free: u64) -> bool {
    free < if was { ENOUGH } else { SHORT }
}

struct Seen {
    short: bool,
    /// For how long it has led while it was short of space.
    leading_short: Option<Duration>,
    leaderless: Duration,
}

#[derive(Debug, PartialEq, Eq)]
struct Wish {
    /// Whether to stand for election.
    elect: bool,
    /// Whether to remind the others that it leads.
    heartbeat: bool,
}

fn wish(seen: &Seen) -> Wish {
    let aside = seen.leading_short.is_some_and(|time| time.as_millis() % ASIDE_AGAIN.as_millis() < ASIDE.as_millis());
    Wish { elect: !seen.short || seen.leaderless >= LEADERLESS, heartbeat: !aside }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_stop_before_the_disk_is_full_and_go_on_with_a_margin() {
        for (was, free_mib, expected) in [
            (false, 9, false),
            (false, 7, true),
            (true, 9, true),
            (true, 24, true),
            (true, 31, true),
            (true, 32, false),
        ] {
            assert_eq!(is_short(was, free_mib * MIB), expected, "{was} {free_mib}");
        }
    }

    #[test]
    fn who_is_short_of_space_leads_only_if_nobody_else_does() {
        let check = |short, leading_short: Option<u64>, leaderless, elect, heartbeat| {
            let leading_short = leading_short.map(Duration::from_secs);
            let seen = Seen { short, leading_short, leaderless: Duration::from_secs(leaderless) };
            assert_eq!(wish(&seen), Wish { elect, heartbeat }, "{short} {leading_short:?} {leaderless}");
        };
        check(false, None, 0, true, true);
        check(false, None, 60, true, true);
        check(true, None, 0, false, true);
        check(true, None, 4, false, true);
        check(true, None, 5, true, true);
        check(true, Some(0), 0, false, false);
        check(true, Some(3), 0, false, false);
        check(true, Some(4), 0, false, true);
        check(true, Some(29), 0, false, true);
        check(true, Some(31), 0, false, false);
    }

    #[test]
    fn a_reserve_is_kept_where_there_is_space() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::new(1, directory.path(), Metrics::default());
        assert_eq!(disk.short(), None);
        assert_eq!(fs::metadata(directory.path().join("reserve")).unwrap().len(), RESERVE);
    }
}
