//! Where certificates and keys come from: the view's secrets, or files that are read again when they change.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use mesh::{Secret, TlsMaterial, View};

/// Istio's name for a Secret that holds only the roots: the credential's with this suffix.
const CA_SUFFIX: &str = "-cacert";
/// Files that are remembered; beyond that all are read again.
const FILES_MAX: usize = 256;

/// Certificates or keys that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{whose}: {why}")]
pub struct MaterialError {
    /// The Secret as `secret <namespace>/<name>`, or the file.
    pub whose: String,
    /// What is wrong with it.
    pub why: String,
}

impl MaterialError {
    pub(crate) fn new(whose: impl Into<String>, why: impl Into<String>) -> Self {
        Self { whose: whose.into(), why: why.into() }
    }
}

/// Reads material; clones share what they remember of files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Materials(Arc<Mutex<BTreeMap<String, FileState>>>);

/// A file as it was read.
#[derive(Debug, Clone)]
struct FileState {
    stamp: Stamp,
    content: Arc<[u8]>,
}

/// Another stamp means other content. The inode tells a file that was replaced, as mounted Secrets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Materials {
    /// The material as it is now, nothing for [`TlsMaterial::System`]. The name says whose it is, for messages.
    pub(crate) fn load(&self, material: &TlsMaterial, view: &View) -> Result<Arc<Secret>, MaterialError> {
        match material {
            TlsMaterial::System => Ok(Arc::new(Secret { name: "the system's roots".to_owned(), ..Secret::default() })),
            TlsMaterial::Secret(name) => secret(name, view),
            TlsMaterial::Files { certificate, private_key, ca, crl } => {
                let paths = [certificate, private_key, ca, crl];
                let [certificate, private_key, ca, crl] = paths.map(|path| self.read(path.as_deref()));
                let named: Vec<_> = paths.into_iter().flatten().map(String::as_str).collect();
                Ok(Arc::new(Secret {
                    name: named.join(", "),
                    certificate: certificate?,
                    private_key: private_key?,
                    ca: ca?,
                    crl: crl?,
                }))
            }
        }
    }

    fn read(&self, path: Option<&str>) -> Result<Vec<u8>, MaterialError> {
        let Some(path) = path else { return Ok(Vec::new()) };
        let failed = |error: std::io::Error| MaterialError::new(path, error.to_string());
        let metadata = std::fs::metadata(path).map_err(failed)?;
        let stamp = Stamp { modified: metadata.modified().ok(), length: metadata.len(), inode: metadata.ino() };
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = files.get(path).filter(|known| known.stamp == stamp) {
            return Ok(known.content.to_vec());
        }
        let content = std::fs::read(path).map_err(failed)?;
        if files.len() >= FILES_MAX {
            files.clear();
        }
        files.insert(path.to_owned(), FileState { stamp, content: content.as_slice().into() });
        Ok(content)
    }
}

/// A Secret of the view; its roots may stand in a Secret of their own.
fn secret(name: &str, view: &View) -> Result<Arc<Secret>, MaterialError> {
    let Some(secret) = view.secrets.get(name) else {
        return Err(MaterialError::new(format!("secret {name}"), "it is not there, or may not be used here"));
    };
    let mut secret = Secret::clone(secret);
    if secret.ca.is_empty()
        && let Some(roots) = view.secrets.get(&format!("{name}{CA_SUFFIX}"))
    {
        secret.ca.clone_from(&roots.ca);
        secret.crl.clone_from(&roots.crl);
    }
    secret.name = format!("secret {name}");
    Ok(Arc::new(secret))
}
