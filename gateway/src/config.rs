//! The gateway's configuration file: raw YAML in, a validated [`Config`] out.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

/// The longest drain that a configuration may ask for, in seconds.
const DRAIN_MAX_SECONDS: u64 = 3600;

/// What a gateway needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The gateway's name, unique in its cluster.
    pub name: String,
    /// The credential file that `identity::bootstrap::register` wrote.
    pub credential: PathBuf,
    /// Directory of the last-good view and of the key of stateless resets.
    pub cache_dir: PathBuf,
    /// Where it listens.
    pub listen: Listen,
    /// How long open flows may go on after SIGTERM.
    pub drain: Duration,
    /// Whether the kernel may segment datagrams (GSO). Off helps behind rate limiters that drop bursts.
    pub segmentation_offload: bool,
}

/// The listeners.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// TCP: HBONE from workloads of the own cluster.
    pub hbone: SocketAddr,
    /// UDP: QUIC from gateways of other clusters, and to them.
    pub quic: SocketAddr,
    /// TCP: health, metrics and debug pages.
    pub admin: SocketAddr,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}; hint: pass the gateway's YAML file with --config", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not the YAML that it should be; the source names the field.
    #[error("{path} is not a gateway configuration; hint: fields are name, credential, cache_dir, listen, drain_seconds, segmentation_offload", path = path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        source: Box<serde_saphyr::Error>,
    },
    /// A field has a value that makes no sense.
    #[error("{field}: {why}; hint: {hint}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong.
        why: String,
        /// What to do.
        hint: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: String,
    credential: PathBuf,
    cache_dir: PathBuf,
    listen: Listen,
    #[serde(default = "default_drain")]
    drain_seconds: u64,
    #[serde(default = "default_offload")]
    segmentation_offload: bool,
}

fn default_drain() -> u64 {
    5
}

fn default_offload() -> bool {
    true
}

impl Config {
    /// Reads and checks a configuration file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let raw: Raw = serde_saphyr::from_str(&text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        Self::validate(raw)
    }

    fn validate(raw: Raw) -> Result<Self, ConfigError> {
        let valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if raw.name.is_empty() || raw.name.len() > 63 || !raw.name.bytes().all(valid) {
            let why = format!("{:?} is no name", raw.name);
            return Err(ConfigError::Field { field: "name", why, hint: "1 to 63 of a-z, 0-9 and '-'" });
        }
        if raw.drain_seconds > DRAIN_MAX_SECONDS {
            let why = format!("{} s is too long", raw.drain_seconds);
            return Err(ConfigError::Field { field: "drain_seconds", why, hint: "at most 3600" });
        }
        if raw.listen.quic.ip().is_unspecified() != raw.listen.hbone.ip().is_unspecified() {
            tracing::debug!("one listener is bound to all addresses and the other is not");
        }
        Ok(Self {
            name: raw.name,
            credential: raw.credential,
            cache_dir: raw.cache_dir,
            listen: raw.listen,
            drain: Duration::from_secs(raw.drain_seconds),
            segmentation_offload: raw.segmentation_offload,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name: gateway-1\ncredential: /c.json\ncache_dir: /cache\nlisten: {hbone: '127.0.0.1:1', quic: \
                        '127.0.0.1:2', admin: '127.0.0.1:3'}\n";

    fn load(text: &str) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::load(file.path()).map_err(|error| match error {
            ConfigError::Parse { source, .. } => source.to_string(),
            other => other.to_string(),
        })
    }

    #[test]
    fn a_file_needs_no_more_than_names_and_addresses() {
        let config = load(GOOD).unwrap();
        assert_eq!((config.drain, config.segmentation_offload), (Duration::from_secs(5), true));
    }

    #[test]
    fn errors_name_the_field() {
        for (change, expected) in [
            ("drain_secs: 4\n", "drain_secs"),
            ("drain_seconds: 4000\n", "drain_seconds"),
            ("segmentation_offload: maybe\n", "segmentation_offload"),
        ] {
            let error = load(&format!("{GOOD}{change}")).expect_err(change);
            assert!(error.contains(expected) || error.contains("bool"), "{error}");
        }
        assert!(load(&GOOD.replace("gateway-1", "Gateway_1")).expect_err("name").starts_with("name:"));
    }
}
