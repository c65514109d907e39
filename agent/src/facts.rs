//! From the hub's watch to what is believed: a mirror of the hub, and the pure function that reads it.

mod draining;
pub(crate) mod pods;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::hub::{Address, Key, Kind, Lease, Resource, WatchResponse};
use mesh::{ClusterName, ServiceName, TrustDomain};
use prost::Message;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Acceptance;
use crate::imports::{Accepted, Policy, Refusal, accept, store, withdraw};
use crate::metrics::Metrics;
use crate::state::{self, StateError};
use draining::{Draining, draining, now_ms};

/// How often files that operators write (acceptance) are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What the hub shows, at a revision.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mirror {
    /// As of this revision; 0 before the first message.
    pub(crate) revision: u64,
    /// By kind, cluster and name: bundles come before what rests on them.
    pub(crate) resources: BTreeMap<(i32, String, String), Resource>,
}

impl Mirror {
    /// Applies a message of the watch.
    pub(crate) fn handle_message(&mut self, message: WatchResponse) {
        if message.snapshot {
            self.resources.clear();
        }
        for key in &message.deleted {
            self.resources.remove(&index(key));
        }
        for resource in message.put {
            if let Some(key) = &resource.key {
                self.resources.insert(index(key), resource);
            }
        }
        self.revision = message.revision;
    }

    /// The resources of one kind.
    pub(crate) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&Key, &Resource)> {
        let of_kind = self.resources.values().filter_map(|it| Some((it.key.as_ref()?, it)));
        of_kind.filter(move |(key, _)| key.kind() == kind)
    }
}

fn index(key: &Key) -> (i32, String, String) {
    (key.kind, key.cluster.clone(), key.name.clone())
}

/// A refusal and the hub's revision of what was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) refusal: Refusal,
    pub(crate) revision: u64,
}

/// What is believed of the world outside the cluster.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Facts {
    pub(crate) accepted: Accepted,
    pub(crate) side: Side,
    /// What the hub shows and is not believed.
    pub(crate) refused: Vec<Refused>,
    /// Revision of the hub that this reflects.
    pub(crate) hub_revision: u64,
}

/// Unsigned facts of the hub itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Side {
    /// Clusterset addresses; never forgotten, since they never change.
    pub(crate) addresses: BTreeMap<ServiceName, Vec<IpAddr>>,
    /// Clusters whose lease ran out, and since when (Unix milliseconds).
    pub(crate) stale: BTreeMap<ClusterName, u64>,
    /// Clusters that drain or leave.
    #[serde(default)]
    pub(crate) draining: BTreeMap<ClusterName, Draining>,
    /// Numbers of pods of other clusters' headless services; see [`pods`].
    #[serde(default)]
    pub(crate) pods: pods::PodNumbers,
}

/// Reads the mirror: what of it is believed, on top of what was. `now_ms` is the own clock, in Unix milliseconds.
pub(crate) fn import(previous: &Facts, policy: &Policy, mirror: &Mirror, now_ms: u64) -> Facts {
    let mut facts = Facts { refused: Vec::new(), hub_revision: mirror.revision, ..previous.clone() };
    for resource in mirror.resources.values() {
        match accept(&facts.accepted, policy, resource) {
            Ok(accepted) => facts.accepted = accepted,
            Err(refusal) => facts.refused.push(Refused { refusal, revision: resource.revision }),
        }
    }
    for key in present_keys(&facts.accepted) {
        if !mirror.resources.contains_key(&index(&key)) {
            facts.accepted = withdraw(&facts.accepted, &key);
        }
    }
    facts.side.add_addresses(mirror);
    facts.side.pods = pods::number(&facts.side.pods, &facts.accepted);
    facts.side.stale = mirror.of_kind(Kind::Lease).filter_map(|(_, resource)| stale(resource)).collect();
    let drains = mirror.of_kind(Kind::Drain);
    facts.side.draining =
        drains.filter_map(|(_, resource)| draining(&previous.side.draining, resource, now_ms)).collect();
    facts
}

impl Side {
    /// Nobody signs addresses, and they decide where clients send: one that is known stays what it is, and a new one is
    /// of the range that no network uses and belongs to nobody else. So the hub cannot point a name, or the address of
    /// another service, at a place of its choice.
    fn add_addresses(&mut self, mirror: &Mirror) {
        let mut taken: BTreeSet<IpAddr> = self.addresses.values().flatten().copied().collect();
        for (key, resource) in mirror.of_kind(Kind::Address) {
            let Ok(name) = key.name.parse::<ServiceName>() else { continue };
            let Ok(address) = Address::decode(resource.value.as_slice()) else { continue };
            let texts = [address.ipv4, address.ipv6];
            let addresses: Vec<IpAddr> =
                texts.iter().filter_map(|text| text.parse().ok()).filter(is_clusterset_address).collect();
            if addresses.is_empty() || self.addresses.contains_key(&name) {
                continue;
            }
            if addresses.iter().any(|address| taken.contains(address)) {
                tracing::debug!(service = %name, "the hub gave it the address of another service");
                continue;
            }
            taken.extend(&addresses);
            self.addresses.insert(name, addresses);
        }
    }
}

/// In 243.0.0.0/8 (class E) or fd49:5354:484d::/96, from which the hub allocates.
fn is_clusterset_address(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[0] == 243,
        IpAddr::V6(address) => address.segments()[..6] == [0xfd49, 0x5354, 0x484d, 0, 0, 0],
    }
}

fn stale(resource: &Resource) -> Option<(ClusterName, u64)> {
    let lease = Lease::decode(resource.value.as_slice()).ok()?;
    if lease.live { None } else { Some((lease.cluster.parse().ok()?, lease.changed_at_ms.max(1))) }
}

fn present_keys(accepted: &Accepted) -> Vec<Key> {
    let mut keys = Vec::new();
    for (cluster, member) in &accepted.members {
        let key = |kind: Kind, name: String| Key { kind: kind.into(), cluster: cluster.to_string(), name };
        keys.extend(member.bundle.present.then(|| key(Kind::Bundle, String::new())));
        keys.extend(member.gateways.iter().filter(|it| it.present).map(|_| key(Kind::Gateways, String::new())));
        let exports = member.exports.iter().filter(|(_, fact)| fact.present);
        keys.extend(exports.map(|(name, _)| key(Kind::Export, name.to_string())));
    }
    keys
}

/// The task that keeps the facts.
pub(crate) struct Importer {
    pub(crate) own: ClusterName,
    pub(crate) own_trust_domain: TrustDomain,
    pub(crate) hub_trust_domain: TrustDomain,
    pub(crate) acceptance: Acceptance,
    pub(crate) data_dir: PathBuf,
    pub(crate) mirror: watch::Receiver<Option<Arc<Mirror>>>,
    pub(crate) facts: watch::Sender<Arc<Facts>>,
    pub(crate) metrics: Metrics,
}

fn imports_path(data_dir: &Path) -> PathBuf {
    data_dir.join("state/imports.json")
}

fn side_path(data_dir: &Path) -> PathBuf {
    data_dir.join("state/hub.json")
}

/// What was believed when the agent last ran.
pub(crate) fn load(data_dir: &Path) -> Result<Facts, StateError> {
    let accepted = store::load(&imports_path(data_dir))?;
    let side = state::read(&side_path(data_dir))?.unwrap_or_default();
    Ok(Facts { accepted, side, ..Facts::default() })
}

impl Importer {
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut timer = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = timer.tick() => {}
                changed = self.mirror.changed() => if changed.is_err() { return },
            }
            let mirror = self.mirror.borrow_and_update().clone();
            if let Some(mirror) = mirror {
                self.reconcile(mirror).await;
            }
        }
    }

    /// Brings the facts in line with the mirror. What is to be believed is on disk before anybody sees it.
    async fn reconcile(&self, mirror: Arc<Mirror>) {
        let previous = Arc::clone(&self.facts.borrow());
        let policy = self.policy();
        let data_dir = self.data_dir.clone();
        let before = Arc::clone(&previous);
        let imported = tokio::task::spawn_blocking(move || {
            let facts = import(&before, &policy, &mirror, now_ms());
            if facts.accepted != before.accepted {
                store::save(&imports_path(&data_dir), &facts.accepted)?;
            }
            if facts.side != before.side {
                state::write(&side_path(&data_dir), &facts.side)?;
            }
            Ok::<_, StateError>(facts)
        });
        match imported.await {
            Ok(Ok(facts)) => {
                self.report(&previous, &facts);
                self.facts.send_if_modified(|current| {
                    let changed = **current != facts;
                    *current = Arc::new(facts);
                    changed
                });
            }
            Ok(Err(error)) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "imports are not believed before they are kept"
                );
            }
            Err(_) => {}
        }
    }

    fn report(&self, previous: &Facts, facts: &Facts) {
        for refused in facts.refused.iter().filter(|refused| !previous.refused.contains(refused)) {
            self.metrics.refused(&refused.refusal);
            tracing::error!(refusal = %refused.refusal, revision = refused.revision, "a fact from the hub is refused");
        }
    }

    fn policy(&self) -> Policy {
        let fingerprints = match self.acceptance {
            Acceptance::Auto => None,
            Acceptance::Manual => Some(fingerprints(&self.data_dir.join("accepted"))),
        };
        let reserved = BTreeSet::from([self.own_trust_domain.clone(), self.hub_trust_domain.clone()]);
        Policy { own: self.own.clone(), reserved, fingerprints }
    }
}

/// `accepted/<cluster>` holds the fingerprint of its root.
fn fingerprints(directory: &Path) -> BTreeMap<ClusterName, String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let read = |entry: std::fs::DirEntry| {
        let cluster: ClusterName = entry.file_name().to_str()?.parse().ok()?;
        Some((cluster, std::fs::read_to_string(entry.path()).ok()?.trim().to_ascii_lowercase()))
    };
    entries.filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imports::tests::{Signer, policy};

    fn resource(kind: Kind, cluster: &str, name: &str, value: &impl Message) -> Resource {
        let key = Key { kind: kind.into(), cluster: cluster.into(), name: name.into() };
        Resource { key: Some(key), revision: 1, value: value.encode_to_vec() }
    }

    fn mirror(revision: u64, put: Vec<Resource>) -> Mirror {
        let mut mirror = Mirror::default();
        mirror.handle_message(WatchResponse { revision, snapshot: true, put, ..WatchResponse::default() });
        mirror
    }

    /// What west announced, and what the hub says of it.
    fn good(west: &Signer) -> Mirror {
        let address = Address { ipv4: "243.0.0.1".into(), ipv6: "fd49:5354:484d::1".into() };
        let lease = Lease { cluster: "west".into(), live: false, changed_at_ms: 77 };
        // The order in which they arrive must not matter.
        let put = vec![
            west.export(6),
            west.gateways(5, "127.2.0.2:15443"),
            resource(Kind::Address, "", "default/reviews", &address),
            resource(Kind::Lease, "west", "", &lease),
            west.bundle(1),
        ];
        mirror(10, put)
    }

    #[test]
    fn a_watch_is_mirrored_and_believed() {
        let facts = import(&Facts::default(), &policy(), &good(&Signer::new("west")), 0);
        assert_eq!(facts.refused, []);
        let cluster: ClusterName = "west".parse().expect("valid");
        assert_eq!(facts.accepted.members[&cluster].offered_to(&policy().own).count(), 1);
        assert_eq!(facts.side.stale[&cluster], 77);
        assert_eq!(facts.side.addresses.values().next().expect("an address").len(), 2);
    }

    #[test]
    fn the_hub_can_neither_move_nor_reuse_an_address_nor_choose_one_of_a_network() {
        let address = |name: &str, ipv4: &str| {
            resource(Kind::Address, "", name, &Address { ipv4: ipv4.into(), ipv6: String::new() })
        };
        let facts = import(&Facts::default(), &policy(), &mirror(1, vec![address("default/reviews", "243.0.0.1")]), 0);
        let put = vec![
            address("default/reviews", "243.0.0.9"),
            address("default/copy", "243.0.0.1"),
            address("default/evil", "10.0.0.7"),
            address("default/web", "243.0.0.2"),
        ];
        let side = import(&facts, &policy(), &mirror(2, put), 0).side;
        let known: Vec<String> = side.addresses.iter().map(|(name, at)| format!("{name} {}", at[0])).collect();
        assert_eq!(known, ["default/reviews 243.0.0.1", "default/web 243.0.0.2"]);
    }

    #[test]
    fn a_hub_that_was_emptied_withdraws_but_makes_nothing_forgotten() {
        let west = Signer::new("west");
        let facts = import(&Facts::default(), &policy(), &good(&west), 0);
        let emptied = import(&facts, &policy(), &mirror(11, Vec::new()), 0);
        let cluster: ClusterName = "west".parse().expect("valid");
        assert!(!emptied.accepted.members[&cluster].bundle.present);
        assert_eq!(emptied.side.addresses, facts.side.addresses);

        let directory = tempfile::tempdir().expect("directory");
        std::fs::create_dir(directory.path().join("state")).expect("made");
        store::save(&imports_path(directory.path()), &emptied.accepted).expect("saved");
        let restarted = load(directory.path()).expect("loaded");
        let replay = mirror(12, vec![west.bundle(1), west.gateways(4, "127.6.6.6:1"), west.export(5)]);
        let reasons: Vec<_> =
            import(&restarted, &policy(), &replay, 0).refused.iter().map(|it| it.refusal.reason.as_str()).collect();
        assert_eq!(reasons, ["replayed", "replayed"]);
    }

    #[test]
    fn a_hub_that_swaps_a_bundle_changes_nothing() {
        let (west, attacker) = (Signer::new("west"), Signer::new("west"));
        let facts = import(&Facts::default(), &policy(), &good(&west), 0);
        let put = vec![attacker.bundle(9), attacker.gateways(9, "127.6.6.6:1"), attacker.export(9)];
        let swapped = import(&facts, &policy(), &mirror(11, put), 0);
        assert_eq!(swapped.accepted, facts.accepted);
        assert_eq!(swapped.refused.len(), 3);
    }

    #[test]
    fn deltas_and_resyncs_are_mirrored() {
        let west = Signer::new("west");
        let mut mirror = good(&west);
        let key = west.export(1).key;
        let delta = WatchResponse { revision: 11, deleted: key.into_iter().collect(), ..WatchResponse::default() };
        mirror.handle_message(delta);
        assert_eq!((mirror.revision, mirror.of_kind(Kind::Export).count(), mirror.resources.len()), (11, 0, 4));
        mirror.handle_message(WatchResponse {
            revision: 20,
            snapshot: true,
            put: vec![west.bundle(1)],
            ..Default::default()
        });
        assert_eq!(mirror.resources.len(), 1);
    }
}
