//! `sidecar.yaml`: read as it is written, then checked.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh::Protocol;
use proxy::inbound::AppPort;
use serde::Deserialize;

/// The sidecar's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The proxy credential file.
    pub credential: PathBuf,
    /// Where the last-good view is kept.
    pub cache_dir: PathBuf,
    /// The explicit proxy for the workload: HTTP and SOCKS5.
    pub listen_outbound: SocketAddr,
    /// The mTLS port for peers and gateways.
    pub listen_mtls: SocketAddr,
    /// The admin listener.
    pub listen_admin: SocketAddr,
    /// The address on which the workload's own ports are owned.
    pub bind: IpAddr,
    /// The workload's ports.
    pub ports: Vec<AppPort>,
    /// How long draining waits for what runs.
    pub drain: Duration,
    /// The cluster's DNS shim, which is asked for hosts outside the mesh; none = the machine's resolver is.
    pub dns: Option<SocketAddr>,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is no YAML of the expected shape.
    #[error("{} is not a configuration of the sidecar: {why}", path.display())]
    Shape {
        /// Which file.
        path: PathBuf,
        /// Field and position.
        why: String,
    },
    /// A field has a value that cannot be.
    #[error("{field}: {why}\nhint: {hint}")]
    Field {
        /// Which field.
        field: String,
        /// What is wrong with it.
        why: String,
        /// What to do.
        hint: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    credential: PathBuf,
    cache_dir: PathBuf,
    listen: RawListen,
    bind: String,
    #[serde(default)]
    ports: Vec<RawPort>,
    #[serde(default = "default_drain")]
    drain_seconds: u64,
    dns: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawListen {
    outbound: String,
    mtls: String,
    admin: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPort {
    number: u16,
    app: String,
    #[serde(default = "default_protocol")]
    protocol: String,
}

fn default_drain() -> u64 {
    5
}

fn default_protocol() -> String {
    Protocol::Auto.as_str().to_owned()
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Checks a text; `path` goes into the errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let raw: RawConfig = serde_saphyr::from_str(text)
            .map_err(|error| ConfigError::Shape { path: path.to_owned(), why: error.without_snippet().to_string() })?;
        let bind = raw.bind.parse().map_err(|_| {
            wrong(
                "bind",
                format!("{:?} is not an IP address", raw.bind),
                "write the workload's address, without a port",
            )
        })?;
        let ports =
            raw.ports.iter().enumerate().map(|(index, port)| check_port(index, port)).collect::<Result<Vec<_>, _>>()?;
        let mut seen = BTreeSet::new();
        if let Some(index) = ports.iter().position(|port| !seen.insert(port.number)) {
            let field = format!("ports[{index}].number");
            return Err(wrong(&field, "the number is there twice".into(), "give each port once"));
        }
        Ok(Self {
            credential: raw.credential,
            cache_dir: raw.cache_dir,
            listen_outbound: address("listen.outbound", &raw.listen.outbound)?,
            listen_mtls: address("listen.mtls", &raw.listen.mtls)?,
            listen_admin: address("listen.admin", &raw.listen.admin)?,
            bind,
            ports,
            drain: Duration::from_secs(raw.drain_seconds),
            dns: raw.dns.as_deref().map(|text| address("dns", text)).transpose()?,
        })
    }
}

fn check_port(index: usize, raw: &RawPort) -> Result<AppPort, ConfigError> {
    let field = |name: &str| format!("ports[{index}].{name}");
    if raw.number == 0 {
        return Err(wrong(&field("number"), "0 is no port".into(), "write the number that peers dial"));
    }
    let protocol = Protocol::from_wire(&raw.protocol).ok_or_else(|| {
        let why = format!("{:?} is no protocol", raw.protocol);
        wrong(&field("protocol"), why, "write http, http2, grpc, tcp, tcp-server-first or auto")
    })?;
    Ok(AppPort { number: raw.number, app: address(&field("app"), &raw.app)?, protocol })
}

fn address(field: &str, text: &str) -> Result<SocketAddr, ConfigError> {
    text.parse()
        .map_err(|_| wrong(field, format!("{text:?} is not an address"), "write ip:port, such as 127.1.0.9:15001"))
}

fn wrong(field: &str, why: String, hint: &'static str) -> ConfigError {
    ConfigError::Field { field: field.to_owned(), why, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(ports: &str, rest: &str) -> Result<Config, ConfigError> {
        let text = format!(
            "credential: /c\ncache_dir: /d\nlisten: {{outbound: 127.0.0.9:15001, mtls: 127.0.0.9:15008, admin: 127.0.0.9:15020}}\nbind: 127.0.0.9\nports: {ports}\n{rest}"
        );
        Config::parse(&text, Path::new("sidecar.yaml"))
    }

    #[test]
    fn a_configuration_is_read_or_its_field_is_named() {
        let config = parse("[{number: 9080, app: 127.0.0.9:39080, protocol: grpc}]", "drain_seconds: 1").unwrap();
        let port = AppPort { number: 9080, app: "127.0.0.9:39080".parse().unwrap(), protocol: Protocol::Grpc };
        assert_eq!((config.ports, config.drain), (vec![port], Duration::from_secs(1)));
        let cases = [
            ("[{number: 1, app: 127.0.0.9:1, protocol: quic}]", "", "ports[0].protocol: \"quic\" is no protocol"),
            ("[{number: 1, app: here}]", "", "ports[0].app: \"here\" is not an address"),
            ("[{number: 0, app: 127.0.0.9:1}]", "", "ports[0].number: 0 is no port"),
            ("[{number: 1, app: 127.0.0.9:1}, {number: 1, app: 127.0.0.9:2}]", "", "ports[1].number"),
            ("[]", "drain: 1", "drain"),
            ("[]", "dns: shim", "dns: \"shim\" is not an address"),
        ];
        for (ports, rest, expected) in cases {
            let error = parse(ports, rest).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
