//! `hub.json`: what a member cluster knows about its hub, written by `join`, kept up to date by the agent.

use std::path::{Path, PathBuf};

use identity::{TrustBundle, files};
use mesh::{ClusterName, MeshId, TrustDomain};
use serde::{Deserialize, Serialize};

/// The content of `<agent data>/hub.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberFile {
    /// The mesh that the cluster joined.
    pub mesh_id: MeshId,
    /// The cluster's own name in it.
    pub cluster: ClusterName,
    /// The cluster's own trust domain.
    pub trust_domain: TrustDomain,
    /// The hub's trust domain.
    pub hub_trust_domain: TrustDomain,
    /// The hub's roots, PEM.
    pub hub_roots_pem: String,
    /// `host:port` of the API listeners, as last learnt.
    pub hub_addresses: Vec<String>,
}

/// Why `hub.json` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MemberFileError {
    /// It cannot be read or written.
    #[error("hub.json is not usable\nhint: `hubctl join-cluster` writes it")]
    File(#[from] files::FileError),
    /// It is not what it should be.
    #[error("{} is malformed", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where it goes wrong.
        source: serde_json::Error,
    },
    /// Its roots are not certificates.
    #[error("the hub's roots are not usable")]
    Roots(#[from] identity::BundleError),
}

impl MemberFile {
    /// Where the file lies under an agent's data directory.
    pub fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("hub.json")
    }

    /// Reads the file of an agent.
    pub fn load(data_dir: &Path) -> Result<Self, MemberFileError> {
        let path = Self::path(data_dir);
        let text = files::read_text(&path)?;
        serde_json::from_str(&text).map_err(|source| MemberFileError::Malformed { path, source })
    }

    /// Replaces the file of an agent, durably and at once.
    pub fn save(&self, data_dir: &Path) -> Result<(), MemberFileError> {
        let path = Self::path(data_dir);
        let text = match serde_json::to_vec_pretty(self) {
            Ok(text) => text,
            Err(source) => return Err(MemberFileError::Malformed { path, source }),
        };
        Ok(files::write_private(&path, &text)?)
    }

    /// The hub's bundle; its serial is 0, since the hub's root is not announced but pinned.
    pub fn hub_bundle(&self) -> Result<TrustBundle, MemberFileError> {
        Ok(TrustBundle::from_pem(self.hub_trust_domain.clone(), 0, &self.hub_roots_pem)?)
    }
}
