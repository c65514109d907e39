//! Where a fleet keeps what, under its one directory.

use std::path::{Path, PathBuf};

/// A pod's annotations, beside its sidecar's configuration.
pub(crate) const ANNOTATIONS: &str = "annotations.yaml";

/// The paths of one fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout under a directory.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Plan, instance id and where the binaries are; what makes a directory a fleet.
    pub fn state(&self) -> PathBuf {
        self.root.join("fleet.json")
    }

    /// The operator's credential, 0600.
    pub fn operator(&self) -> PathBuf {
        self.root.join("operator.json")
    }

    /// Data and configuration of a hub node.
    pub fn hub(&self, id: u64) -> PathBuf {
        self.root.join(format!("hub-{id}"))
    }

    /// Everything of a cluster.
    pub fn cluster(&self, cluster: &str) -> PathBuf {
        self.root.join(cluster)
    }

    /// The directory source of a cluster's agent.
    pub fn manifests(&self, cluster: &str) -> PathBuf {
        self.cluster(cluster).join("manifests")
    }

    /// The agent's data directory.
    pub fn agent(&self, cluster: &str) -> PathBuf {
        self.cluster(cluster).join("agent")
    }

    /// A gateway's or the DNS shim's directory: configuration, credential, cache.
    pub fn component(&self, cluster: &str, name: &str) -> PathBuf {
        self.cluster(cluster).join(name)
    }

    /// The same for the sidecar of a pod.
    pub fn pod(&self, cluster: &str, pod: &str) -> PathBuf {
        self.cluster(cluster).join("workloads").join(pod)
    }

    /// The setup script of a network namespace, and the files that are mounted in it.
    pub fn namespace(&self, name: &str) -> PathBuf {
        self.root.join("net").join(name)
    }

    /// The control socket of an emulated link. Short: the kernel takes 108 bytes.
    pub fn control(&self, name: &str) -> PathBuf {
        self.root.join("net").join(format!("{}.sock", name.replace('/', "-")))
    }

    /// Standard output and error of a process; `name` is the process' name with its slashes.
    pub fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    /// The pid record of a process.
    pub fn pid(&self, name: &str) -> PathBuf {
        self.root.join("run").join(format!("{name}.json"))
    }
}
