//! Small files under `data_dir/state`: replaced whole, fsynced, private.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a state file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is damaged. Serials seen before would be forgotten without it, so it is never ignored.
    #[error(
        "{} is damaged\nhint: restore it from a backup; if you remove it, announcements older than those seen before are believed again",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It cannot be written.
    #[error("{} cannot be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: identity::files::FileError,
    },
}

/// Reads a JSON file; `None` if there is none.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StateError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StateError::Read { path: path.to_owned(), source }),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(path, &error))
}

/// Replaces a JSON file.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> Result<(), StateError> {
    let bytes = serde_json::to_vec(value).map_err(|error| damaged(path, &error))?;
    identity::files::write_private(path, &bytes).map_err(|source| StateError::Write { path: path.to_owned(), source })
}

pub(crate) fn damaged(path: &Path, why: &dyn std::fmt::Display) -> StateError {
    StateError::Damaged { path: path.to_owned(), why: why.to_string() }
}
