//! Private files and PEM: written whole or not at all, readable by their owner only.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::crypto::{hex, random};

/// A file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct FileError {
    /// What was tried, such as `write`.
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// Whether the file is simply not there.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// Whether the file was there already and must not be overwritten.
    pub fn is_already_there(&self) -> bool {
        self.source.kind() == io::ErrorKind::AlreadyExists
    }
}

/// A text has no usable PEM section of the kind that was looked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no valid {wanted} in the PEM text")]
pub struct PemError {
    /// `certificate` or `private key`.
    pub wanted: &'static str,
}

/// Creates a directory (and those above it) for its owner only, 0700. One that exists is left as it is.
pub fn create_private_dir(path: &Path) -> Result<(), FileError> {
    let failed = |source| FileError { action: "create the directory", path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)
}

/// Writes a file that only its owner can read (0600), replacing one that is there: the bytes are on disk under a
/// temporary name before they get the real one, so a reader sees the old file or the new one and a crash loses neither.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let failed = |source| FileError { action: "write", path: path.to_owned(), source };
    let temporary = write_temporary(path, bytes).map_err(failed)?;
    if let Err(source) = fs::rename(&temporary, path) {
        let _ = fs::remove_file(&temporary);
        return Err(failed(source));
    }
    sync_parent(path).map_err(failed)
}

/// As [`write_private`], but a file that is there already is an error (see [`FileError::is_already_there`]) and stays.
pub fn write_private_new(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let failed = |source| FileError { action: "create", path: path.to_owned(), source };
    let temporary = write_temporary(path, bytes).map_err(failed)?;
    // Unlike a rename, a link never replaces what is there.
    let linked = fs::hard_link(&temporary, path);
    let _ = fs::remove_file(&temporary);
    linked.map_err(failed)?;
    sync_parent(path).map_err(failed)
}

/// Reads a whole text file.
pub fn read_text(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).map_err(|source| FileError { action: "read", path: path.to_owned(), source })
}

/// All certificates in a PEM text, in their order; at least one.
pub fn certs_from_pem(pem: &str) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let wanted = PemError { wanted: "certificate" };
    let certs = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    match certs {
        Ok(certs) if !certs.is_empty() => Ok(certs),
        _ => Err(wanted),
    }
}

/// The first private key in a PEM text.
pub fn key_from_pem(pem: &str) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| PemError { wanted: "private key" })
}

/// Certificates as PEM text, in their order.
pub fn certs_to_pem<'a, C: AsRef<[u8]> + 'a>(certs: impl IntoIterator<Item = &'a C>) -> String {
    certs.into_iter().map(|der| pem("CERTIFICATE", der.as_ref())).collect()
}

/// A PKCS #8 private key as PEM text.
pub(crate) fn key_to_pem(pkcs8: &[u8]) -> String {
    pem("PRIVATE KEY", pkcs8)
}

fn pem(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

/// Writes and syncs a new 0600 file beside `path`.
fn write_temporary(path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let suffix = random::<8>().map_err(io::Error::other)?;
    let mut temporary_name = std::ffi::OsString::from(".");
    temporary_name.push(name);
    temporary_name.push(format!(".{}", hex(&suffix)));
    let temporary = path.with_file_name(temporary_name);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    Ok(temporary)
}

/// Makes a rename or a link in the directory of `path` durable.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}
