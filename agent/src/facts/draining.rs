//! Drains of other clusters, carried out: each cluster lowers the share on a clock of its own.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use api::hub::{Drain, Resource};
use mesh::ClusterName;
use prost::Message;
use serde::{Deserialize, Serialize};

/// A drain as this cluster carries it out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Draining {
    /// When this cluster heard of it, in Unix milliseconds of its own clock: the hub's may be another one.
    pub(super) since_ms: u64,
    /// When the hub took the wish; another one is another drain.
    wished_at_ms: u64,
    /// The time that it takes.
    over_ms: u64,
    /// What is left of the cluster's share, in percent.
    pub(crate) share_percent: u32,
}

/// A drain of another cluster, as far as it has come.
pub(super) fn draining(
    known: &BTreeMap<ClusterName, Draining>,
    resource: &Resource,
    now_ms: u64,
) -> Option<(ClusterName, Draining)> {
    let drain = Drain::decode(resource.value.as_slice()).ok()?;
    let cluster: ClusterName = drain.cluster.parse().ok()?;
    let same = known.get(&cluster).filter(|known| known.wished_at_ms == drain.started_at_ms);
    let since_ms = same.map_or(now_ms, |known| known.since_ms);
    let over_ms = if drain.leaving { 0 } else { drain.over_ms };
    let share_percent = mesh::drain_share(since_ms, over_ms, now_ms);
    Some((cluster, Draining { since_ms, wished_at_ms: drain.started_at_ms, over_ms, share_percent }))
}

/// The own clock, in Unix milliseconds.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_goes_on_from_when_it_was_heard_of() {
        let share = |known: &mut BTreeMap<ClusterName, Draining>, started_at_ms, leaving, now_ms| {
            let drain = Drain { cluster: "west".into(), started_at_ms, over_ms: 10_000, leaving };
            let resource = Resource { key: None, revision: 1, value: drain.encode_to_vec() };
            known.extend(draining(known, &resource, now_ms));
            known[&"west".parse::<ClusterName>().expect("valid")].share_percent
        };
        let known = &mut BTreeMap::new();
        let shares = [1_000_000, 1_004_000, 1_010_000].map(|now| share(known, 77, false, now));
        assert_eq!(shares, [100, 60, 0]);
        assert_eq!(share(known, 78, false, 1_011_000), 100, "another wish begins anew");
        assert_eq!(share(known, 79, true, 1_011_000), 0, "who leaves is drained at once");
    }
}
