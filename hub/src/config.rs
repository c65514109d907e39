//! `hub.yaml`: read as it is written, then checked into a [`Config`] that cannot be wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh::MeshId;
use serde::Deserialize;
use settings::{ConfigError, Wrong, address};

use crate::raft_types::HubNode;

const LEASE_TTL_DEFAULT_MS: u64 = 10_000;
/// Below this a short pause of the leader would expire every cluster.
const LEASE_TTL_MIN_MS: u64 = 500;

/// A node's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// This node's id, one of the members.
    pub node_id: u64,
    /// The mesh; the hub's trust domain is `hub.<mesh-id>`.
    pub mesh_id: MeshId,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// The API listener.
    pub listen_api: SocketAddr,
    /// The join listener.
    pub listen_join: SocketAddr,
    /// The admin listener.
    pub listen_admin: SocketAddr,
    /// The members that the mesh begins with.
    pub members: BTreeMap<u64, Member>,
    /// How long a cluster may be silent before what it announced counts as stale.
    pub lease_ttl: Duration,
    /// Log entries between two snapshots.
    pub snapshot_every: u64,
}

/// Where a member is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// `host:port` of its API listener.
    pub api: String,
    /// `host:port` of its join listener.
    pub join: String,
}

impl From<&Member> for HubNode {
    fn from(member: &Member) -> Self {
        Self { api: member.api.clone(), join: member.join.clone() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    node_id: u64,
    mesh_id: String,
    data_dir: PathBuf,
    listen: RawListen,
    members: Vec<RawMember>,
    lease_ttl_ms: Option<u64>,
    snapshot_every: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawListen {
    api: String,
    join: String,
    admin: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMember {
    id: u64,
    api: String,
    join: String,
}

impl Config {
    /// Log entries between two snapshots, if the file does not say.
    pub const SNAPSHOT_EVERY: u64 = 5000;

    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        settings::load(path, Self::check)
    }

    fn check(raw: Raw) -> Result<Self, Wrong> {
        let lease_ttl_ms = raw.lease_ttl_ms.unwrap_or(LEASE_TTL_DEFAULT_MS);
        if lease_ttl_ms < LEASE_TTL_MIN_MS {
            return Err(Wrong::new("lease_ttl_ms", format!("{lease_ttl_ms} is too short"), "use at least 500"));
        }
        let snapshot_every = raw.snapshot_every.unwrap_or(Self::SNAPSHOT_EVERY);
        if snapshot_every == 0 {
            return Err(Wrong::new("snapshot_every", "0 is no interval", "leave it out"));
        }
        let mesh_id = MeshId::new(raw.mesh_id).map_err(|error| {
            Wrong::new("mesh_id", error.to_string(), "it is the one that `isthmus-hub init` was given")
        })?;
        Ok(Self {
            node_id: raw.node_id,
            mesh_id,
            data_dir: raw.data_dir,
            listen_api: address("listen.api", &raw.listen.api)?,
            listen_join: address("listen.join", &raw.listen.join)?,
            listen_admin: address("listen.admin", &raw.listen.admin)?,
            members: members(raw.node_id, raw.members)?,
            lease_ttl: Duration::from_millis(lease_ttl_ms),
            snapshot_every,
        })
    }
}

fn members(node_id: u64, raw: Vec<RawMember>) -> Result<BTreeMap<u64, Member>, Wrong> {
    let mut members = BTreeMap::new();
    let mut addresses = BTreeSet::new();
    for RawMember { id, api, join } in raw {
        for address in [&api, &join] {
            let has_port = address
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0));
            if !has_port {
                return Err(Wrong::new("members", format!("{address:?} is not host:port"), "write host:port"));
            }
            if !addresses.insert(address.clone()) {
                return Err(Wrong::new("members", format!("{address} is there twice"), "each listener has its own"));
            }
        }
        if members.insert(id, Member { api, join }).is_some() {
            return Err(Wrong::new("members", format!("id {id} is there twice"), "each node has its own id"));
        }
    }
    // A node that is added to a running hub is not among those that it began with.
    if members.is_empty() || node_id == 0 {
        return Err(Wrong::new("members", "the list is empty, or node_id is 0", "ids begin at 1"));
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
node_id: 1
mesh_id: demo
data_dir: /tmp/hub-1
listen: {api: '127.9.0.1:7443', join: '127.9.0.1:7444', admin: '127.9.0.1:15020'}
members:
- {id: 1, api: '127.9.0.1:7443', join: '127.9.0.1:7444'}
- {id: 2, api: '127.9.0.2:7443', join: '127.9.0.2:7444'}
";

    fn parse(text: &str) -> Result<Config, ConfigError> {
        settings::parse(text, Path::new("hub.yaml"), Config::check)
    }

    #[test]
    fn a_good_file_is_read_with_defaults() {
        let config = parse(GOOD).unwrap();
        assert_eq!(config.lease_ttl, Duration::from_secs(10));
        assert_eq!(config.members.len(), 2);
    }

    #[test]
    fn an_error_names_the_field() {
        let check = |from: &str, to: &str, expect: &str| {
            let error = parse(&GOOD.replace(from, to)).expect_err("it is wrong").to_string();
            assert!(error.contains(expect), "{error}");
        };
        check("mesh_id: demo", "mesh_id: Demo", "mesh_id: mesh id \"Demo\"");
        check(
            "api: '127.9.0.1:7443', join: '127.9.0.1:7444', admin",
            "api: nowhere, join: '127.9.0.1:7444', admin",
            "listen.api",
        );
        check("id: 2", "id: 1", "members: id 1 is there twice");
        check("node_id: 1", "node_id: 1\nnode_name: x", "node_name");
        check("node_id: 1", "node_id: 1\nlease_ttl_ms: 1", "lease_ttl_ms: 1 is too short");
        check("node_id: 1\n", "", "node_id");
    }
}
