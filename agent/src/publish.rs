//! Compiles snapshots when anything changed and gives them a revision that grows over restarts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use config::Finding;
use discovery::server::Snapshot;
use identity::bootstrap::Registered;
use mesh::MeshInfo;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::compile::{Inputs, Registration, compile, imported, unmeshed_ports, with_registered};
use crate::config::GatewayConfig;
use crate::facts::Facts;
use crate::listeners::Ledger;
use crate::metrics::Metrics;
use crate::source::Content;
use crate::state::{self, StateError};

/// How often the registrations are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Revisions that are reserved on disk at a time.
const RESERVE: u64 = 1000;

/// Gives out revisions; on disk is the end of the reserved range, so that a restart continues above it.
#[derive(Debug)]
pub(crate) struct Revisions {
    path: PathBuf,
    next: u64,
    reserved: u64,
}

impl Revisions {
    pub(crate) fn load(path: &Path) -> Result<Self, StateError> {
        let reserved = state::read(path)?.unwrap_or(0);
        Ok(Self { path: path.to_owned(), next: reserved + 1, reserved })
    }

    /// The next revision. Blocking, once in a while.
    pub(crate) fn take(&mut self) -> u64 {
        let revision = self.next;
        self.next += 1;
        if revision > self.reserved {
            let reserved = revision + RESERVE;
            match state::write(&self.path, &reserved) {
                Ok(()) => self.reserved = reserved,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "revisions are not kept");
                }
            }
        }
        revision
    }
}

/// The task that compiles.
pub(crate) struct Publisher {
    pub(crate) mesh: MeshInfo,
    pub(crate) gateways: Vec<GatewayConfig>,
    pub(crate) data_dir: PathBuf,
    pub(crate) content: watch::Receiver<Arc<Content>>,
    pub(crate) facts: watch::Receiver<Arc<Facts>>,
    pub(crate) snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    /// What is wrong with the configuration.
    pub(crate) findings: watch::Sender<Arc<Vec<Finding>>>,
    /// The files that the newest snapshot was compiled from, with hashes.
    pub(crate) in_force: watch::Sender<Arc<BTreeMap<String, String>>>,
    pub(crate) revisions: Revisions,
    pub(crate) listeners: Ledger,
    pub(crate) metrics: Metrics,
    /// What the newest snapshot was compiled from.
    pub(crate) last: Option<Last>,
}

/// What a snapshot was compiled from. The rest is fixed as long as the agent runs.
pub(crate) struct Last {
    content: Arc<Content>,
    facts: Arc<Facts>,
    registrations: BTreeMap<String, Registration>,
}

impl Last {
    /// Whether the same would come out again. Contents are replaced as a whole, so that equal ones are the same ones.
    fn is(&self, content: &Arc<Content>, facts: &Arc<Facts>, registrations: &BTreeMap<String, Registration>) -> bool {
        Arc::ptr_eq(&self.content, content) && Arc::ptr_eq(&self.facts, facts) && self.registrations == *registrations
    }
}

impl Publisher {
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut timer = tokio::time::interval(LOOK);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut registrations = BTreeMap::new();
        let mut look = true;
        loop {
            if look {
                let directory = self.data_dir.join("bootstrap");
                if let Ok(read) = tokio::task::spawn_blocking(move || read_registrations(&directory)).await {
                    registrations = read;
                }
            }
            self.publish(&registrations);
            look = tokio::select! {
                () = shutdown.cancelled() => return,
                _ = timer.tick() => true,
                changed = self.content.changed() => if changed.is_err() { return } else { false },
                changed = self.facts.changed() => if changed.is_err() { return } else { false },
            };
        }
    }

    /// Compiles if anything is new, and publishes if what comes out is.
    pub(crate) fn publish(&mut self, registrations: &BTreeMap<String, Registration>) {
        let content = Arc::clone(&self.content.borrow_and_update());
        let facts = Arc::clone(&self.facts.borrow_and_update());
        if self.last.as_ref().is_some_and(|last| last.is(&content, &facts, registrations)) {
            return;
        }
        let local = with_registered(&content.local, registrations);
        let imported = imported(&facts.accepted, &self.mesh.cluster);
        let input =
            config::Input { manifests: &content.manifests, local: &local, mesh: &self.mesh, imported: &imported };
        let mut configured = config::compile(&input);
        self.report(std::mem::take(&mut configured.findings));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let listeners = self.listeners.settle(&unmeshed_ports(&configured, &facts.accepted, &self.mesh.cluster), now);
        let inputs = Inputs {
            mesh: &self.mesh,
            gateways: &self.gateways,
            local: &local,
            accepted: &facts.accepted,
            addresses: &facts.side.addresses,
            pods: &facts.side.pods,
            stale: &facts.side.stale,
            shares: &facts.side.draining.iter().map(|(name, drain)| (name.clone(), drain.share_percent)).collect(),
            listeners: &listeners,
            registrations,
            configured: &configured,
        };
        let compiled = compile(&inputs, 0);
        let current = self.snapshots.borrow().clone();
        let same = current.is_some_and(|current| Snapshot { revision: 0, ..Snapshot::clone(&current) } == compiled);
        if !same {
            let revision = self.revisions.take();
            self.metrics.revision(revision);
            self.snapshots.send_replace(Some(Arc::new(Snapshot { revision, ..compiled })));
        }
        // After the snapshot: who sees the file here finds its effect there.
        self.in_force.send_if_modified(|current| {
            let changed = **current != content.digests;
            *current = Arc::new(content.digests.clone());
            changed
        });
        self.last = Some(Last { content, facts, registrations: registrations.clone() });
    }
}

impl Publisher {
    /// Logs what is new, shows everything.
    fn report(&self, findings: Vec<Finding>) {
        let known = Arc::clone(&self.findings.borrow());
        for finding in findings.iter().filter(|finding| !known.contains(finding)) {
            tracing::warn!(object = %finding.object, code = %finding.code, path = finding.path, "{}", finding.message);
        }
        self.findings.send_if_modified(|current| {
            let changed = **current != findings;
            *current = Arc::new(findings);
            changed
        });
    }
}

/// The registered workloads. A file that cannot be read is left out: its workload gets no SVID either.
pub(crate) fn read_registrations(directory: &Path) -> BTreeMap<String, Registration> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let read = |entry: std::fs::DirEntry| {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            return None;
        }
        let registered: Registered = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        let registration = Registration {
            namespace: registered.namespace,
            account: registered.service_account,
            labels: registered.labels,
            locality: registered.locality,
        };
        Some((registered.workload, registration))
    };
    entries.filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_not_compiled_again() {
        let (content, facts) = (Arc::new(Content::default()), Arc::new(Facts::default()));
        let registration = || Registration {
            namespace: mesh::Namespace::new("default").expect("a name"),
            account: "web".into(),
            labels: BTreeMap::new(),
            locality: String::new(),
        };
        let one = BTreeMap::from([("default/web-1".to_owned(), registration())]);
        let last = Last { content: content.clone(), facts: facts.clone(), registrations: one.clone() };
        assert!(last.is(&content, &facts, &one));
        assert!(!last.is(&Arc::new(Content::default()), &facts, &one));
        assert!(!last.is(&content, &Arc::new(Facts::default()), &one));
        assert!(!last.is(&content, &facts, &BTreeMap::new()));
    }

    #[test]
    fn revisions_grow_over_restarts() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("revision.json");
        let mut last = 0;
        for _ in 0..3 {
            let mut revisions = Revisions::load(&path).expect("usable");
            for _ in 0..1500 {
                let revision = revisions.take();
                assert!(revision > last);
                last = revision;
            }
        }
    }
}
