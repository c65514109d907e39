//! How a workload that has no certificate yet proves who it is: a secret of its own, whose hash the agent knows.
//!
//! `register` writes both halves: the agent's registration (`<agent data>/bootstrap/<namespace>.<workload>.json`, read
//! anew for each request) and the proxy's credential file. Both are 0600.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::constant_time;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mesh::{ClusterName, NameError, Namespace, ServiceName, SpiffeId, TrustDomain};
use serde::{Deserialize, Serialize};

use crate::bundle::{BundleError, TrustBundle};
use crate::crypto::{self, RandomError, hex, random, sha256};
use crate::files::{self, FileError};

/// What is to be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// `<namespace>/<name>` of the workload or component, such as `default/web-1`.
    pub workload: String,
    /// The namespace of the identity that it gets.
    pub namespace: Namespace,
    /// The service account of the identity that it gets.
    pub service_account: String,
    /// Its cluster.
    pub cluster: ClusterName,
    /// The trust domain of its cluster.
    pub trust_domain: TrustDomain,
    /// The roots of its trust domain, with which it verifies the agent.
    pub roots_pem: String,
    /// Where its agent issues certificates, host:port.
    pub ca_addresses: Vec<String>,
    /// Where its agent serves discovery, host:port.
    pub discovery_addresses: Vec<String>,
    /// Labels of the workload, for one that no EndpointSlice describes.
    pub labels: BTreeMap<String, String>,
    /// `region/zone/subzone`, likewise; empty if unknown.
    pub locality: String,
}

/// A secret text that no `Debug` shows.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, to be sent to the agent and to nobody else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The credential file that a proxy starts with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// `<namespace>/<name>` of the workload.
    pub workload: String,
    /// What proves it.
    pub secret: Secret,
    /// Its cluster.
    pub cluster: ClusterName,
    /// The trust domain of its cluster.
    pub trust_domain: TrustDomain,
    /// The roots of that trust domain, PEM.
    pub roots_pem: String,
    /// Where the agent issues certificates, host:port.
    pub ca_addresses: Vec<String>,
    /// Where the agent serves discovery, host:port.
    pub discovery_addresses: Vec<String>,
}

/// The agent's half of a registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registered {
    /// `<namespace>/<name>` of the workload.
    pub workload: String,
    /// SHA-256 of the secret's text, hexadecimal.
    pub secret_sha256: String,
    /// The namespace of the identity.
    pub namespace: Namespace,
    /// The service account of the identity.
    pub service_account: String,
    /// Labels of the workload, for one that no EndpointSlice describes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `region/zone/subzone`, likewise; empty if unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub locality: String,
}

/// Why a registration or a credential is not usable.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The workload's or the account's name is not valid.
    #[error("the registration names no valid workload identity")]
    Name(#[source] NameError),
    /// Nobody registered the workload.
    #[error("the workload {0} is not registered")]
    NotRegistered(String),
    /// The file is of another form or another workload.
    #[error("{} is not a valid file of its kind", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The file is about another workload than its name says.
    #[error("{} is about the workload {found}", path.display())]
    WrongWorkload {
        /// Which file.
        path: PathBuf,
        /// Whom it is about.
        found: String,
    },
    /// The roots are not a bundle.
    #[error("the roots of the trust domain are not usable")]
    Roots(#[source] BundleError),
    /// A file cannot be read or written.
    #[error("the bootstrap files are not usable")]
    File(#[from] FileError),
    /// No secret could be made.
    #[error("cannot make a secret")]
    Random(#[from] RandomError),
}

/// Registers a workload with the agent whose data directory this is and writes the workload's credential file. Doing it
/// again makes a new secret; the old one is void at once.
pub fn register(
    agent_dir: &Path,
    registration: &Registration,
    credential_path: &Path,
) -> Result<Credential, BootstrapError> {
    let path = registered_path(agent_dir, &registration.workload)?;
    // The identity must be one that can be issued.
    SpiffeId::new(
        registration.trust_domain.clone(),
        registration.namespace.clone(),
        registration.service_account.as_str(),
    )
    .map_err(BootstrapError::Name)?;
    TrustBundle::from_pem(registration.trust_domain.clone(), 0, &registration.roots_pem)
        .map_err(BootstrapError::Roots)?;

    let secret = Secret(URL_SAFE_NO_PAD.encode(random::<32>()?));
    let registered = Registered {
        workload: registration.workload.clone(),
        secret_sha256: hex(&sha256(secret.reveal().as_bytes())),
        namespace: registration.namespace.clone(),
        service_account: registration.service_account.clone(),
        labels: registration.labels.clone(),
        locality: registration.locality.clone(),
    };
    let credential = Credential {
        workload: registration.workload.clone(),
        secret,
        cluster: registration.cluster.clone(),
        trust_domain: registration.trust_domain.clone(),
        roots_pem: registration.roots_pem.clone(),
        ca_addresses: registration.ca_addresses.clone(),
        discovery_addresses: registration.discovery_addresses.clone(),
    };
    if let Some(directory) = path.parent() {
        files::create_private_dir(directory)?;
    }
    if let Some(directory) = credential_path.parent() {
        files::create_private_dir(directory)?;
    }
    write_json(&path, &registered)?;
    write_json(credential_path, &credential)?;
    Ok(credential)
}

/// Removes a workload's registration; its secret is void at once. One that is not there is no error.
pub fn unregister(agent_dir: &Path, workload: &str) -> Result<(), BootstrapError> {
    let path = registered_path(agent_dir, workload)?;
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(FileError { action: "remove", path, source }.into())
        }
        _ => Ok(()),
    }
}

impl Credential {
    /// Reads a credential file.
    pub fn load(path: &Path) -> Result<Self, BootstrapError> {
        read_json(path)
    }

    /// The bundle with which the agent is verified, at serial 0: every later one is newer.
    pub fn bundle(&self) -> Result<TrustBundle, BootstrapError> {
        TrustBundle::from_pem(self.trust_domain.clone(), 0, &self.roots_pem).map_err(BootstrapError::Roots)
    }
}

impl Registered {
    /// Reads the registration of `workload`, which may come from anybody: a text that is no `<namespace>/<name>` never
    /// becomes a path.
    pub fn load(agent_dir: &Path, workload: &str) -> Result<Self, BootstrapError> {
        let path = registered_path(agent_dir, workload)?;
        let registered: Self = match read_json(&path) {
            Err(BootstrapError::File(error)) if error.is_not_found() => {
                return Err(BootstrapError::NotRegistered(workload.to_owned()));
            }
            other => other?,
        };
        if registered.workload != workload {
            return Err(BootstrapError::WrongWorkload { path, found: registered.workload });
        }
        Ok(registered)
    }

    /// Whether this is the workload's secret, in a time that does not depend on where they differ.
    pub fn check(&self, secret: &str) -> bool {
        let presented = hex(&crypto::sha256(secret.as_bytes()));
        constant_time::verify_slices_are_equal(presented.as_bytes(), self.secret_sha256.as_bytes()).is_ok()
    }

    /// The identity that the workload gets in a trust domain.
    pub fn spiffe_id(&self, trust_domain: &TrustDomain) -> Result<SpiffeId, BootstrapError> {
        SpiffeId::new(trust_domain.clone(), self.namespace.clone(), self.service_account.as_str())
            .map_err(BootstrapError::Name)
    }
}

/// Namespaces and names are RFC 1123 labels, so the file name has exactly one dot between them and no separator.
fn registered_path(agent_dir: &Path, workload: &str) -> Result<PathBuf, BootstrapError> {
    let name = workload.parse::<ServiceName>().map_err(BootstrapError::Name)?;
    // A service may be a host with dots; a workload may not. The rules for namespaces are those for labels.
    Namespace::new(name.name()).map_err(BootstrapError::Name)?;
    Ok(agent_dir.join("bootstrap").join(format!("{}.{}.json", name.namespace(), name.name())))
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), BootstrapError> {
    let failed = |source| BootstrapError::Format { path: path.to_owned(), source };
    let mut text = serde_json::to_vec_pretty(value).map_err(failed)?;
    text.push(b'\n');
    Ok(files::write_private(path, &text)?)
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, BootstrapError> {
    let text = files::read_text(path)?;
    serde_json::from_str(&text).map_err(|source| BootstrapError::Format { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
