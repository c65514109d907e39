//! `dns.yaml`: read as it is written, then checked.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use settings::{ConfigError, Wrong, address};

use crate::forward::CacheLimits;
use crate::serve::TcpLimits;

/// The longest time that may be configured, in seconds.
const LONGEST: u64 = 604_800;

/// The shim's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The proxy credential file.
    pub credential: PathBuf,
    /// Where the last-good view is kept.
    pub cache_dir: PathBuf,
    /// The DNS listener, UDP and TCP.
    pub listen_dns: SocketAddr,
    /// The admin listener.
    pub listen_admin: SocketAddr,
    /// Who answers what is not ours; none = such names are refused.
    pub forward: Vec<Upstream>,
    /// The shim is the cluster's only DNS and answers `cluster.local` and the reverse names of its addresses.
    pub serve_cluster_domain: bool,
    /// The bounds of the cache of forwarded answers.
    pub cache: CacheLimits,
    /// The bounds of the TCP listener.
    pub tcp: TcpLimits,
}

/// Where questions are forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstream {
    /// The name servers in `/etc/resolv.conf`, as they are when the shim starts.
    ResolvConf,
    /// One server.
    Server(SocketAddr),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    credential: PathBuf,
    cache_dir: PathBuf,
    listen: RawListen,
    forward: Option<Vec<String>>,
    #[serde(default)]
    serve_cluster_domain: bool,
    #[serde(default)]
    cache: RawCache,
    #[serde(default)]
    tcp: RawTcp,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCache {
    max_entries: Option<u64>,
    max_bytes: Option<u64>,
    min_ttl_seconds: Option<u64>,
    max_ttl_seconds: Option<u64>,
    max_negative_ttl_seconds: Option<u64>,
    serve_stale_seconds: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTcp {
    max_connections: Option<usize>,
    max_connections_per_client: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawListen {
    dns: String,
    admin: String,
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        settings::load(path, Self::check)
    }

    fn check(raw: RawConfig) -> Result<Self, Wrong> {
        let listen_dns = address("listen.dns", &raw.listen.dns)?;
        let forward = raw.forward.unwrap_or_else(|| vec!["resolv.conf".to_owned()]);
        let forward = forward
            .iter()
            .enumerate()
            .map(|(index, text)| upstream(index, text, listen_dns))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            credential: raw.credential,
            cache_dir: raw.cache_dir,
            listen_dns,
            listen_admin: address("listen.admin", &raw.listen.admin)?,
            forward,
            serve_cluster_domain: raw.serve_cluster_domain,
            cache: cache(&raw.cache)?,
            tcp: tcp(&raw.tcp)?,
        })
    }
}

fn cache(raw: &RawCache) -> Result<CacheLimits, Wrong> {
    let default = CacheLimits::default();
    let seconds = |field: &str, value: Option<u64>, default: Duration| match value {
        Some(value) if value > LONGEST => {
            Err(Wrong::new(format!("cache.{field}"), format!("{value} s is too long"), "a week, 604800, is the most"))
        }
        Some(value) => Ok(Duration::from_secs(value)),
        None => Ok(default),
    };
    let limits = CacheLimits {
        entries: raw.max_entries.unwrap_or(default.entries),
        bytes: raw.max_bytes.unwrap_or(default.bytes),
        min_ttl: seconds("min_ttl_seconds", raw.min_ttl_seconds, default.min_ttl)?,
        max_ttl: seconds("max_ttl_seconds", raw.max_ttl_seconds, default.max_ttl)?,
        max_negative_ttl: seconds("max_negative_ttl_seconds", raw.max_negative_ttl_seconds, default.max_negative_ttl)?,
        stale: seconds("serve_stale_seconds", raw.serve_stale_seconds, default.stale)?,
    };
    if limits.min_ttl > limits.max_ttl {
        let hint = "leave it out: records say how long they live";
        return Err(Wrong::new("cache.min_ttl_seconds", "it is more than cache.max_ttl_seconds", hint));
    }
    Ok(limits)
}

fn tcp(raw: &RawTcp) -> Result<TcpLimits, Wrong> {
    let default = TcpLimits::default();
    let count = |field: &str, value: Option<usize>, default: usize| match value {
        Some(0) => Err(Wrong::new(
            format!("tcp.{field}"),
            "0 leaves no way for answers that are too long for UDP",
            "leave it out for the default",
        )),
        value => Ok(value.unwrap_or(default)),
    };
    Ok(TcpLimits {
        connections: count("max_connections", raw.max_connections, default.connections)?,
        per_client: count("max_connections_per_client", raw.max_connections_per_client, default.per_client)?,
    })
}

fn upstream(index: usize, text: &str, own: SocketAddr) -> Result<Upstream, Wrong> {
    let wrong = |why: String, hint| Wrong::new(format!("forward[{index}]"), why, hint);
    if text == "resolv.conf" {
        return Ok(Upstream::ResolvConf);
    }
    let with_port = || text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
    let address = text.parse().or_else(|_| with_port()).map_err(|_| {
        wrong(format!("{text:?} is no name server"), "write ip, ip:port, or resolv.conf for those of the system")
    })?;
    if address == own {
        return Err(wrong(format!("{address} is the shim itself"), "name the server that the shim stands in front of"));
    }
    Ok(Upstream::Server(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(listen: &str, rest: &str) -> Result<Config, ConfigError> {
        let text = format!("credential: /c\ncache_dir: /d\nlisten: {listen}\n{rest}");
        settings::parse(&text, Path::new("dns.yaml"), Config::check)
    }

    #[test]
    fn a_configuration_is_read_or_its_field_is_named() {
        let good = "{dns: 127.1.0.2:15053, admin: 127.1.0.2:15020}";
        let upstreams = |rest| parse(good, rest).unwrap().forward;
        assert_eq!(upstreams(""), [Upstream::ResolvConf]);
        assert_eq!(upstreams("forward: []"), []);
        assert_eq!(
            upstreams("forward: [9.9.9.9, \"[::1]:54\"]"),
            [Upstream::Server("9.9.9.9:53".parse().unwrap()), Upstream::Server("[::1]:54".parse().unwrap())]
        );
        assert!(!parse(good, "").unwrap().serve_cluster_domain);
        assert!(parse(good, "serve_cluster_domain: true").unwrap().serve_cluster_domain);
        let cases = [
            (good, "forward: [127.1.0.2:15053]", "forward[0]: 127.1.0.2:15053 is the shim itself"),
            (good, "forward: [dns.example]", "forward[0]: \"dns.example\" is no name server"),
            (good, "forwards: []", "forwards"),
            (good, "cache: {min_ttl_seconds: 9, max_ttl_seconds: 8}", "cache.min_ttl_seconds: it is more than"),
            (good, "cache: {serve_stale_seconds: 99999999}", "cache.serve_stale_seconds: 99999999 s is too long"),
            (good, "tcp: {max_connections: 0}", "tcp.max_connections: 0 leaves"),
            ("{dns: localhost, admin: 127.0.0.1:1}", "", "listen.dns: \"localhost\" is not an address"),
        ];
        for (listen, rest, expected) in cases {
            let error = parse(listen, rest).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
