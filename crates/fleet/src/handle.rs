//! A fleet that exists: opened from its directory, by whichever process, whenever.

mod launch;

pub use launch::{BINARIES, ENV_BIN_DIR, find_binaries};

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::block;
use crate::hint::Hint;
use crate::layout::Layout;
use crate::plan::{ClusterPlan, Kind, Plan, PodPlan, ProcessPlan};
use crate::process::{PidRecord, ProcessState, spawn};
use crate::raise;
use crate::wait::{POLL, is_ready, until_ready};

/// What `fleet.json` keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Unique to this run of the fleet; every process carries it.
    pub instance: String,
    /// Where the executables are.
    pub binaries: PathBuf,
    /// The registry of claimed address blocks.
    pub registry: PathBuf,
    /// The plan.
    pub plan: Plan,
}

/// An existing fleet.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// Its files.
    pub layout: Layout,
    /// What `fleet.json` says.
    pub state: State,
}

/// One row of `fleet status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The process.
    pub process: String,
    /// Its pid, if it was started.
    pub pid: Option<i32>,
    /// What the kernel says.
    pub state: ProcessState,
    /// Whether it serves.
    pub ready: bool,
    /// What it lacks, if it runs and does not serve.
    pub lacks: Option<String>,
    /// Its main listener.
    pub address: String,
}

impl Fleet {
    /// Opens the fleet in a directory.
    pub fn open(directory: &Path) -> Result<Self> {
        let directory = std::path::absolute(directory)?;
        let layout = Layout::new(directory);
        let text = std::fs::read(layout.state()).map_err(|_| {
            let hint = "start one with `hubctl fleet up -f deploy/fleets/two-clusters.yaml`";
            Hint::error(format!("there is no fleet in {}", layout.root().display()), hint)
        })?;
        let state = serde_json::from_slice(&text).with_context(|| format!("{}", layout.state().display()))?;
        Ok(Self { layout, state })
    }

    /// Opens the only fleet that the calling user runs.
    pub fn only() -> Result<Self> {
        let mut directories = running();
        match (directories.pop(), directories.len()) {
            (Some(directory), 0) => Self::open(&directory),
            (Some(last), _) => {
                directories.push(last);
                let names: Vec<_> = directories.iter().map(|path| path.display().to_string()).collect();
                let hint = format!("choose one with --fleet: {}", names.join(", "));
                Err(Hint::error("several fleets run", hint))
            }
            (None, _) => {
                let hint =
                    "start one with `hubctl fleet up -f deploy/fleets/two-clusters.yaml`, or name it with --fleet";
                Err(Hint::error("no fleet runs", hint))
            }
        }
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.state.plan
    }

    /// A cluster by name.
    pub fn cluster(&self, name: &str) -> Result<&ClusterPlan> {
        self.plan().cluster(name).ok_or_else(|| {
            let names: Vec<_> = self.plan().clusters.iter().map(|cluster| cluster.name.as_str()).collect();
            Hint::error(format!("there is no cluster {name:?}"), format!("the clusters are {}", names.join(", ")))
        })
    }

    /// A pod by `<cluster>/<workload>` or `<cluster>/<pod>`.
    pub fn pod(&self, reference: &str) -> Result<(&ClusterPlan, &PodPlan)> {
        self.plan().pod(reference).ok_or_else(|| {
            let name = |cluster: &ClusterPlan, pod: &PodPlan| format!("{}/{}", cluster.name, pod.workload);
            let clusters = self.plan().clusters.iter();
            let mut names: Vec<_> =
                clusters.flat_map(|cluster| cluster.pods.iter().map(move |pod| name(cluster, pod))).collect();
            names.dedup();
            Hint::error(format!("there is no workload {reference:?}"), format!("there are {}", names.join(", ")))
        })
    }

    /// The same, with a sidecar.
    pub fn meshed_pod(&self, reference: &str) -> Result<(&ClusterPlan, &PodPlan)> {
        let (cluster, pod) = self.pod(reference)?;
        if !pod.mesh {
            let hint = "choose a workload with `mesh: true` in the fleet file";
            return Err(Hint::error(format!("{reference} has no sidecar"), hint));
        }
        Ok((cluster, pod))
    }

    /// A process by name.
    pub fn process(&self, name: &str) -> Result<ProcessPlan> {
        self.plan().process(name).ok_or_else(|| {
            Hint::error(format!("there is no process {name:?}"), "`hubctl fleet status` lists the processes")
        })
    }

    /// The pid record of a process, if it was ever started.
    pub fn record(&self, name: &str) -> Option<PidRecord> {
        PidRecord::load(&self.layout.pid(name))
    }

    /// Starts a process that does not run.
    pub fn spawn(&self, process: &ProcessPlan) -> Result<PidRecord> {
        if let Some(record) = self.record(&process.name).filter(PidRecord::is_alive) {
            let hint = format!("end it first with `hubctl fleet kill {}`", process.name);
            return Err(Hint::error(format!("{} runs already as {}", process.name, record.pid), hint));
        }
        spawn(&self.launch(process)?)
    }

    /// Starts a process and waits until it serves.
    pub async fn start(&self, name: &str, within: Duration) -> Result<PidRecord> {
        let process = self.process(name)?;
        self.check_claim()?;
        if let (Kind::Pause, Some(namespace)) = (process.kind, &process.namespace) {
            raise::disconnect(self, namespace).await?;
        }
        let record = self.spawn(&process)?;
        let deadline = Instant::now() + within;
        until_ready(&self.layout, &process, deadline).await?;
        if let (Kind::Pause, Some(namespace)) = (process.kind, &process.namespace) {
            raise::reconnect(self, namespace).await?;
        }
        Ok(record)
    }

    /// The addresses must still be ours: a claim of which nothing runs may be taken over by another fleet.
    fn check_claim(&self) -> Result<()> {
        let claims = block::claims(&self.state.registry);
        let holder = claims.into_iter().find(|claim| claim.block == self.state.plan.block);
        match holder {
            Some(claim) if claim.instance != self.state.instance => {
                let message = format!("the fleet's addresses were taken over by {}", claim.directory.display());
                Err(Hint::error(message, "remove this fleet with `hubctl fleet down` and start it anew"))
            }
            _ => Ok(()),
        }
    }

    /// Sends a signal to a process; after KILL, waits until it is gone.
    pub async fn signal(&self, name: &str, signal: Signal) -> Result<PidRecord> {
        let process = self.process(name)?;
        let record = self.record(&process.name).filter(PidRecord::is_alive).ok_or_else(|| {
            Hint::error(format!("{name} does not run"), format!("start it with `hubctl fleet start {name}`"))
        })?;
        record.signal(signal)?;
        let deadline = Instant::now() + Duration::from_secs(5);
        while signal == Signal::KILL && record.is_alive() && Instant::now() < deadline {
            tokio::time::sleep(POLL / 8).await;
        }
        Ok(record)
    }

    /// Every process with what the kernel and the process itself say about it.
    pub async fn status(&self) -> Vec<Status> {
        let look = |process: ProcessPlan| async move {
            let record = self.record(&process.name);
            let state = record.map_or(ProcessState::Dead, |record| record.state());
            let ready = match state {
                ProcessState::Running => is_ready(&self.layout, &process).await,
                _ => Err(String::new()),
            };
            Status {
                pid: record.map(|record| record.pid),
                state,
                ready: ready.is_ok(),
                lacks: ready.err().filter(|lacks| !lacks.is_empty()),
                address: process.address.to_string(),
                process: process.name,
            }
        };
        let mut rows = Vec::new();
        for process in self.plan().processes() {
            rows.push(look(process).await);
        }
        rows
    }
}

/// Directories of the fleets that the calling user has started and not taken down.
pub fn running() -> Vec<PathBuf> {
    let claims = block::claims(&block::registry());
    claims.into_iter().map(|claim| claim.directory).filter(|path| Layout::new(path).state().exists()).collect()
}
