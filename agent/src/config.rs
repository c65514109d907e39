//! The agent's configuration file.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh::{ClusterName, MeshId, NameError, TrustDomain};
use serde::Deserialize;
use settings::{ConfigError, Wrong};

/// Validated configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The own cluster.
    pub cluster: ClusterName,
    /// The mesh.
    pub mesh_id: MeshId,
    /// Holds the CA, the bootstrap registrations, `hub.json` and the last-good state.
    pub data_dir: PathBuf,
    /// The manifests.
    pub directory: PathBuf,
    /// Where the agent listens.
    pub listen: Listen,
    /// The east-west gateways of the cluster.
    pub gateways: Vec<GatewayConfig>,
    /// Lifetime of issued SVIDs.
    pub svid_ttl: Duration,
    /// How clusters become known.
    pub acceptance: Acceptance,
    /// Labels that tell groups of exported endpoints apart.
    pub group_labels: BTreeSet<String>,
}

/// Labels that form groups.
const MAX_GROUP_LABELS: usize = 8;

/// Addresses of the listeners.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Delta discovery, mutual TLS.
    pub discovery: SocketAddr,
    /// The certificate authority, TLS.
    pub ca: SocketAddr,
    /// Health, metrics and debug, plain HTTP.
    pub admin: SocketAddr,
}

/// One own gateway.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// Its name.
    pub name: String,
    /// Where own workloads reach it.
    pub hbone: SocketAddr,
    /// `host:port` where gateways of other clusters reach it.
    pub quic: String,
}

/// Who decides that a cluster becomes known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Acceptance {
    /// The hub: whoever it admitted. Later bundles need the signature of the earlier one all the same.
    #[default]
    Auto,
    /// An operator: `<data_dir>/accepted/<cluster>` holds the fingerprint of the cluster's root.
    Manual,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    cluster: String,
    mesh_id: String,
    data_dir: PathBuf,
    source: RawSource,
    listen: Listen,
    #[serde(default)]
    gateways: Vec<GatewayConfig>,
    #[serde(default)]
    svid_ttl_seconds: Option<u64>,
    #[serde(default)]
    acceptance: Acceptance,
    #[serde(default = "default_group_labels")]
    group_labels: Vec<String>,
}

fn default_group_labels() -> Vec<String> {
    ["app", "version"].map(str::to_owned).into()
}

/// Label keys as Kubernetes has them, few: every combination of values is a group of its own.
fn group_labels(keys: Vec<String>) -> Result<BTreeSet<String>, Wrong> {
    let hint = "write at most 8 label keys, such as [app, version, tier]";
    let refuse = |why| Wrong::new("group_labels", why, hint);
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    match keys.iter().find(|key| key.is_empty() || key.len() > 317 || !key.chars().all(allowed)) {
        Some(bad) => Err(refuse(format!("{bad:?} is no label key"))),
        None if keys.len() > MAX_GROUP_LABELS => Err(refuse(format!("{} are too many", keys.len()))),
        None => Ok(keys.into_iter().collect()),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSource {
    directory: PathBuf,
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        settings::load(path, Self::check)
    }

    fn check(raw: Raw) -> Result<Self, Wrong> {
        let name = |field, hint| move |error: NameError| Wrong::new(field, error.to_string(), hint);
        let mut names = BTreeSet::new();
        for gateway in &raw.gateways {
            if gateway.name.is_empty() || !names.insert(&gateway.name) {
                let why = format!("the name {:?} is empty or used twice", gateway.name);
                return Err(Wrong::new("gateways.name", why, "name each gateway once"));
            }
            if !is_host_port(&gateway.quic) {
                let why = format!("{:?} is no address", gateway.quic);
                return Err(Wrong::new("gateways.quic", why, "write host:port"));
            }
        }
        let ttl = raw.svid_ttl_seconds.unwrap_or(3600);
        if !(2..=30 * 24 * 3600).contains(&ttl) {
            let why = format!("{ttl} is out of range");
            return Err(Wrong::new("svid_ttl_seconds", why, "2 seconds to 30 days"));
        }
        Ok(Self {
            cluster: raw.cluster.parse().map_err(name("cluster", "it is the name that the cluster joined with"))?,
            mesh_id: raw.mesh_id.parse().map_err(name("mesh_id", "it is the one that `isthmus-hub init` was given"))?,
            data_dir: raw.data_dir,
            directory: raw.source.directory,
            listen: raw.listen,
            gateways: raw.gateways,
            svid_ttl: Duration::from_secs(ttl),
            acceptance: raw.acceptance,
            group_labels: group_labels(raw.group_labels)?,
        })
    }

    /// The trust domain of a cluster that was given no other one.
    pub fn default_trust_domain(&self) -> TrustDomain {
        TrustDomain::of_cluster(&self.cluster, &self.mesh_id)
    }

    /// Where the last-good state lies.
    pub fn state_dir(&self) -> PathBuf {
        self.data_dir.join("state")
    }
}

/// Whether a text is `host:port` with a port that can be dialled.
pub(crate) fn is_host_port(text: &str) -> bool {
    match text.rsplit_once(':') {
        Some((host, port)) => !host.is_empty() && text.len() <= 300 && port.parse::<u16>().is_ok_and(|port| port > 0),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
cluster: east
mesh_id: demo
data_dir: /tmp/agent
source: {directory: /tmp/manifests}
listen: {discovery: '127.1.0.1:15010', ca: '127.1.0.1:15012', admin: '127.1.0.1:15020'}
gateways: [{name: gateway-1, hbone: '127.1.0.2:15008', quic: '127.1.0.2:15443'}]
";

    fn parse(text: &str) -> Result<Config, ConfigError> {
        settings::parse(text, Path::new("agent.yaml"), Config::check)
    }

    #[test]
    fn a_good_file_is_read_with_defaults() {
        let config = parse(GOOD).expect("valid");
        assert_eq!(config.default_trust_domain().as_str(), "east.demo");
        assert_eq!((config.svid_ttl.as_secs(), config.acceptance), (3600, Acceptance::Auto));
        assert_eq!(config.gateways[0].quic, "127.1.0.2:15443");
        assert_eq!(config.group_labels, ["app", "version"].map(str::to_owned).into());
        let config = parse(&format!("{GOOD}group_labels: [tier]\n")).expect("valid");
        assert_eq!(config.group_labels, ["tier".to_owned()].into());
    }

    #[test]
    fn errors_name_the_field() {
        let cases = [
            (GOOD.replace("cluster: east", "cluster: East"), "cluster"),
            (GOOD.replace("source:", "sauce:"), "sauce"),
            (GOOD.replace("'127.1.0.2:15443'", "nowhere"), "gateways.quic"),
            (format!("{GOOD}svid_ttl_seconds: 0\n"), "svid_ttl_seconds"),
            (format!("{GOOD}acceptance: maybe\n"), "acceptance"),
            (format!("{GOOD}group_labels: ['a b']\n"), "group_labels"),
            (format!("{GOOD}group_labels: [a, b, c, d, e, f, g, h, i]\n"), "group_labels"),
            (GOOD.replace("'127.1.0.1:15010'", "here"), "discovery"),
        ];
        for (text, field) in cases {
            let error = parse(&text).expect_err(field).to_string();
            assert!(error.contains(field), "{field}: {error}");
        }
    }
}
