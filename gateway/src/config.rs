//! The gateway's configuration file: raw YAML in, a validated [`Config`] out.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use settings::{ConfigError, Wrong};

use crate::transport::{Congestion, TunnelSettings};

/// The longest drain that a configuration may ask for, in seconds.
const DRAIN_MAX_SECONDS: u64 = 3600;
/// The most connections to one remote gateway; each costs sockets, probes and memory on both sides.
const CONNECTIONS_MAX: u8 = 8;
/// The most packets that a peer may leave unacknowledged.
const ACK_EVERY_MAX: u8 = 64;

/// What a gateway needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The gateway's name, unique in its cluster.
    pub name: String,
    /// The credential file that `identity::bootstrap::register` wrote.
    pub credential: PathBuf,
    /// Directory of the last-good view and of the key of stateless resets.
    pub cache_dir: PathBuf,
    /// TCP: health, metrics and debug pages.
    pub admin: SocketAddr,
    /// How long open flows may go on after SIGTERM.
    pub drain: Duration,
    /// What it is for, and where it listens for that.
    pub role: Role,
}

/// What a gateway is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Carries flows between clusters.
    EastWest {
        /// TCP: HBONE from workloads of the own cluster.
        hbone: SocketAddr,
        /// UDP: QUIC from gateways of other clusters, and to them. TCP: the same tunnel while UDP is blocked.
        quic: SocketAddr,
        /// How tunnels are run.
        tunnel: TunnelSettings,
    },
    /// Serves what Gateways of the configuration say, at the edge of the mesh: ingress and egress do the same.
    Edge {
        /// TCP: mTLS of the mesh, for all ports.
        mtls: SocketAddr,
        /// Where ports of Gateways are bound, unless they say it themselves.
        bind: IpAddr,
        /// The DNS shim that knows hosts outside; `None`: the system's resolver.
        dns: Option<SocketAddr>,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: String,
    #[serde(default)]
    role: RawRole,
    credential: PathBuf,
    cache_dir: PathBuf,
    listen: RawListen,
    bind: Option<IpAddr>,
    dns: Option<SocketAddr>,
    #[serde(default = "default_drain")]
    drain_seconds: u64,
    #[serde(default = "default_true")]
    segmentation_offload: bool,
    #[serde(default)]
    tunnel: RawTunnel,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(deny_unknown_fields, default)]
struct RawTunnel {
    connections: u8,
    congestion: Congestion,
    ack_every: u8,
    fallback: bool,
    datagrams: bool,
    batches: bool,
}

impl Default for RawTunnel {
    fn default() -> Self {
        let TunnelSettings { connections, congestion, ack_every, fallback, datagrams, batches, .. } =
            TunnelSettings::default();
        Self { connections, congestion, ack_every, fallback, datagrams, batches }
    }
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum RawRole {
    #[default]
    EastWest,
    Ingress,
    Egress,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawListen {
    hbone: Option<SocketAddr>,
    quic: Option<SocketAddr>,
    mtls: Option<SocketAddr>,
    admin: SocketAddr,
}

fn default_drain() -> u64 {
    5
}

fn default_true() -> bool {
    true
}

impl Config {
    /// Reads and checks a configuration file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        settings::load(path, Self::check)
    }

    fn check(raw: Raw) -> Result<Self, Wrong> {
        let valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if raw.name.is_empty() || raw.name.len() > 63 || !raw.name.bytes().all(valid) {
            let why = format!("{:?} is no name", raw.name);
            return Err(Wrong::new("name", why, "1 to 63 of a-z, 0-9 and '-'"));
        }
        if raw.drain_seconds > DRAIN_MAX_SECONDS {
            let why = format!("{} s is too long", raw.drain_seconds);
            return Err(Wrong::new("drain_seconds", why, "at most 3600"));
        }
        let role = role(&raw)?;
        Ok(Self {
            name: raw.name,
            credential: raw.credential,
            cache_dir: raw.cache_dir,
            admin: raw.listen.admin,
            drain: Duration::from_secs(raw.drain_seconds),
            role,
        })
    }
}

/// The listeners of the role; those of another one are a mistake that would stay unnoticed.
fn role(raw: &Raw) -> Result<Role, Wrong> {
    let needed = |field: &str, hint| Wrong::new(field, "the role needs it", hint);
    let foreign = |field: &str, hint| Wrong::new(field, "it belongs to another role", hint);
    match raw.role {
        RawRole::EastWest => {
            if raw.listen.mtls.is_some() {
                return Err(foreign("listen.mtls", "remove it, or write role: ingress or role: egress"));
            }
            Ok(Role::EastWest {
                hbone: raw.listen.hbone.ok_or_else(|| needed("listen.hbone", "for example 10.0.0.2:15008"))?,
                quic: raw.listen.quic.ok_or_else(|| needed("listen.quic", "for example 10.0.0.2:15443"))?,
                tunnel: tunnel(raw)?,
            })
        }
        RawRole::Ingress | RawRole::Egress => {
            if raw.listen.hbone.is_some() || raw.listen.quic.is_some() {
                return Err(foreign("listen", "remove hbone and quic, or write role: east-west"));
            }
            let mtls = raw.listen.mtls.ok_or_else(|| needed("listen.mtls", "for example 10.0.0.2:15008"))?;
            Ok(Role::Edge { mtls, bind: raw.bind.unwrap_or(mtls.ip()), dns: raw.dns })
        }
    }
}

fn tunnel(raw: &Raw) -> Result<TunnelSettings, Wrong> {
    let RawTunnel { connections, congestion, ack_every, fallback, datagrams, batches } = raw.tunnel;
    if !(1..=CONNECTIONS_MAX).contains(&connections) {
        let why = format!("{connections} connections to each gateway");
        return Err(Wrong::new("tunnel.connections", why, "1 to 8; 3 is the default"));
    }
    if !(2..=ACK_EVERY_MAX).contains(&ack_every) {
        let why = format!("an acknowledgement every {ack_every} packets");
        return Err(Wrong::new("tunnel.ack_every", why, "2 to 64; 2 is the default"));
    }
    let segmentation_offload = raw.segmentation_offload;
    Ok(TunnelSettings { connections, congestion, ack_every, fallback, datagrams, batches, segmentation_offload })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name: gateway-1\ncredential: /c.json\ncache_dir: /cache\nlisten: {hbone: '127.0.0.1:1', quic: \
                        '127.0.0.1:2', admin: '127.0.0.1:3'}\n";

    fn load(text: &str) -> Result<Config, String> {
        settings::parse(text, Path::new("gateway.yaml"), Config::check).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_needs_no_more_than_names_and_addresses() {
        let config = load(GOOD).unwrap();
        assert_eq!(config.drain, Duration::from_secs(5));
        assert!(
            matches!(config.role, Role::EastWest { tunnel, .. } if tunnel == TunnelSettings::default()),
            "{:?}",
            config.role
        );
    }

    #[test]
    fn a_gateway_of_the_edge_needs_one_address() {
        let text = "name: istio-ingressgateway\nrole: ingress\ncredential: /c.json\ncache_dir: /cache\n\
                    listen: {mtls: '127.0.0.1:15008', admin: '127.0.0.1:3'}\n";
        let edge =
            Role::Edge { mtls: "127.0.0.1:15008".parse().unwrap(), bind: "127.0.0.1".parse().unwrap(), dns: None };
        assert_eq!(load(text).unwrap().role, edge);
        let cases = [
            (text.replace("mtls: '127.0.0.1:15008', ", ""), "listen.mtls:"),
            (text.replace("mtls:", "hbone:"), "listen:"),
            (text.replace("role: ingress\n", ""), "listen.mtls:"),
            (GOOD.replace("hbone: '127.0.0.1:1', ", ""), "listen.hbone:"),
        ];
        for (text, field) in cases {
            let error = load(&text).expect_err(field);
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn errors_name_the_field() {
        for (change, expected) in [
            ("drain_secs: 4\n", "drain_secs"),
            ("drain_seconds: 4000\n", "drain_seconds"),
            ("segmentation_offload: maybe\n", "segmentation_offload"),
            ("tunnel: {connections: 9}\n", "tunnel.connections"),
            ("tunnel: {connections: 0}\n", "tunnel.connections"),
            ("tunnel: {ack_every: 1}\n", "tunnel.ack_every"),
            ("tunnel: {congestion: vegas}\n", "vegas"),
            ("tunnel: {batches: sometimes}\n", "batches"),
            ("tunnel: {conections: 2}\n", "conections"),
        ] {
            let error = load(&format!("{GOOD}{change}")).expect_err(change);
            assert!(error.contains(expected) || error.contains("bool"), "{error}");
        }
        assert!(load(&GOOD.replace("gateway-1", "Gateway_1")).expect_err("name").contains(": name:"));
    }
}
