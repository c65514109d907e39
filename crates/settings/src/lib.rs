//! The configuration file of a process: YAML that is read as it is written, then checked by whoever it is for.
//!
//! What it is not: the configuration of the mesh, which is `crates/config`.
//!
//! Invariant: whatever is wrong, the error names the file and, from the shape on, the field; what a check refuses has a
//! hint too.
//!
//! Start reading at [`load`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{}: {why}\nhint: pass the configuration file with --config", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// It is no YAML of the expected shape.
    #[error("{}: {why}", path.display())]
    Shape {
        /// Which file.
        path: PathBuf,
        /// Field and position.
        why: String,
    },
    /// A field has a value that cannot be.
    #[error("{}: {wrong}", path.display())]
    Field {
        /// Which file.
        path: PathBuf,
        /// Which field.
        wrong: Wrong,
    },
}

/// A field with a value that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}\nhint: {hint}")]
pub struct Wrong {
    field: String,
    why: String,
    hint: &'static str,
}

impl Wrong {
    /// `field` is the whole way to it, such as `listen.admin`; `why` what is wrong; `hint` what to write instead.
    pub fn new(field: impl Into<String>, why: impl Into<String>, hint: &'static str) -> Self {
        Self { field: field.into(), why: why.into(), hint }
    }
}

/// Reads a file, and checks what it says.
pub fn load<R: DeserializeOwned, C>(path: &Path, check: impl FnOnce(R) -> Result<C, Wrong>) -> Result<C, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|why| ConfigError::Read { path: path.to_owned(), why })?;
    parse(&text, path, check)
}

/// Checks a text; `path` goes into errors.
pub fn parse<R: DeserializeOwned, C>(
    text: &str,
    path: &Path,
    check: impl FnOnce(R) -> Result<C, Wrong>,
) -> Result<C, ConfigError> {
    let raw = serde_saphyr::from_str(text)
        .map_err(|error| ConfigError::Shape { path: path.to_owned(), why: error.to_string() })?;
    check(raw).map_err(|wrong| ConfigError::Field { path: path.to_owned(), wrong })
}

/// An address to listen at or to dial.
pub fn address(field: impl Into<String>, text: &str) -> Result<SocketAddr, Wrong> {
    let hint = "write ip:port, such as 127.0.0.1:15020 or [::1]:15020";
    text.parse().map_err(|_| Wrong::new(field, format!("{text:?} is not an address"), hint))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Raw {
        listen: String,
    }

    fn check(raw: Raw) -> Result<SocketAddr, Wrong> {
        address("listen", &raw.listen)
    }

    #[test]
    fn errors_name_the_file_the_field_and_what_to_do() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display().to_string();
        for (text, expected) in [
            ("listen: here", format!("{path}: listen: \"here\" is not an address\nhint: write ip:port")),
            ("listens: '[::1]:1'", format!("{path}: ")),
            ("listens: '[::1]:1'", "listens".to_owned()),
            ("listens: '[::1]:1'", "line 1".to_owned()),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = load(file.path(), check).unwrap_err().to_string();
            assert!(error.contains(&expected), "{error}");
        }
        std::fs::write(&file, "listen: '[::1]:1'").unwrap();
        assert_eq!(load(file.path(), check).unwrap(), "[::1]:1".parse().unwrap());
        let error = load(Path::new("/nowhere"), check).unwrap_err().to_string();
        assert!(error.contains("/nowhere: ") && error.contains("\nhint: "), "{error}");
    }
}
