//! Which port of the gateways unmeshed clients dial for which service port.
//!
//! [`Ports`] is pure; [`Ledger`] keeps it on disk, so that a port means the same after a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use mesh::ServiceName;
use serde::{Deserialize, Serialize};

use crate::state::{self, StateError};

/// What gateways listen on for unmeshed clients.
pub const LISTENER_PORTS: RangeInclusive<u16> = 20_000..=27_999;
/// How long a port that is no longer wanted is given to nobody else: clients may still have it in their tables. Seconds.
pub const REST: u64 = 24 * 3600;

/// A service and its port.
pub type ServicePortKey = (ServiceName, u16);

/// One port that is or was given away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    service: String,
    service_port: u16,
    port: u16,
    /// Unix seconds since when nobody wants it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    released_at: Option<u64>,
}

/// Who has which port. **Invariant:** no two have the same, and none is given to another before it rested.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    held: Vec<Held>,
}

impl Ports {
    /// Gives every wanted one a port, the one that it had if it is still held, and lets go of those that are not wanted
    /// and have rested. Returns what is wanted and has no port, because all are taken. `now` is in Unix seconds; a clock
    /// that goes back makes ports rest longer, never shorter.
    pub fn settle(&mut self, wanted: &BTreeSet<ServicePortKey>, now: u64) -> Vec<ServicePortKey> {
        let by_name = |(service, port): &ServicePortKey| (service.to_string(), *port);
        let names: BTreeSet<(String, u16)> = wanted.iter().map(by_name).collect();
        for held in &mut self.held {
            let is_wanted = names.contains(&(held.service.clone(), held.service_port));
            held.released_at = if is_wanted { None } else { Some(held.released_at.unwrap_or(now)) };
        }
        self.held.retain(|held| held.released_at.is_none_or(|at| now.saturating_sub(at) < REST));
        let have: BTreeSet<(String, u16)> =
            self.held.iter().map(|held| (held.service.clone(), held.service_port)).collect();
        let taken: BTreeSet<u16> = self.held.iter().map(|held| held.port).collect();
        let mut free = LISTENER_PORTS.filter(|port| !taken.contains(port));
        let mut without = Vec::new();
        for key in wanted.iter().filter(|key| !have.contains(&by_name(key))) {
            let (service, service_port) = by_name(key);
            match free.next() {
                Some(port) => self.held.push(Held { service, service_port, port, released_at: None }),
                None => without.push(key.clone()),
            }
        }
        without
    }

    /// The ports in use.
    pub fn in_use(&self) -> BTreeMap<ServicePortKey, u16> {
        let used = self.held.iter().filter(|held| held.released_at.is_none());
        used.filter_map(|held| Some(((held.service.parse().ok()?, held.service_port), held.port))).collect()
    }
}

/// The ports on disk.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    ports: Ports,
}

impl Ledger {
    pub(crate) fn load(path: &Path) -> Result<Self, StateError> {
        Ok(Self { path: path.to_owned(), ports: state::read(path)?.unwrap_or_default() })
    }

    /// Settles and writes before anybody is told. What cannot be written is not given away. Blocking where something
    /// changed.
    pub(crate) fn settle(&mut self, wanted: &BTreeSet<ServicePortKey>, now: u64) -> BTreeMap<ServicePortKey, u16> {
        let mut next = self.ports.clone();
        for (service, port) in next.settle(wanted, now) {
            tracing::error!(%service, port, "no port is left for unmeshed clients; hint: allow them for fewer services");
        }
        if next != self.ports {
            match state::write(&self.path, &next) {
                Ok(()) => self.ports = next,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "ports for unmeshed clients are not kept");
                }
            }
        }
        let mut used = self.ports.in_use();
        used.retain(|key, _| wanted.contains(key));
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &[&str]) -> BTreeSet<ServicePortKey> {
        names.iter().map(|name| (format!("default/{name}").parse().expect("a name"), 80)).collect()
    }

    fn port(ports: &Ports, name: &str) -> Option<u16> {
        let key = keys(&[name]).pop_first().expect("one");
        ports.in_use().get(&key).copied()
    }

    #[test]
    fn a_port_stays_and_is_given_to_another_only_after_a_day() {
        let mut ports = Ports::default();
        assert!(ports.settle(&keys(&["a", "b"]), 0).is_empty());
        let (a, b) = (port(&ports, "a"), port(&ports, "b"));
        assert_eq!((a, b), (Some(20_000), Some(20_001)));
        /// Name, at which second, wanted, the ports of c and of a.
        type Step = (&'static str, u64, &'static [&'static str], [Option<u16>; 2]);
        let steps: [Step; 6] = [
            ("a goes", 10, &["b"], [None, None]),
            ("c comes and does not get it", 20, &["b", "c"], [Some(20_002), None]),
            ("a returns to its own", 30, &["a", "b", "c"], [Some(20_002), a]),
            ("a goes again", 40, &["b", "c"], [Some(20_002), None]),
            ("nobody may have it yet", 40 + REST - 1, &["b", "c", "d"], [Some(20_002), None]),
            ("a comes after a day, and so does e", 40 + REST, &["a", "b", "c", "d", "e"], [Some(20_002), Some(20_000)]),
        ];
        for (name, now, wanted, [of_c, of_a]) in steps {
            assert!(ports.settle(&keys(wanted), now).is_empty(), "{name}");
            assert_eq!((port(&ports, "c"), port(&ports, "a"), port(&ports, "b")), (of_c, of_a, b), "{name}");
        }
        assert_eq!((port(&ports, "d"), port(&ports, "e")), (Some(20_003), Some(20_004)));
    }

    #[test]
    fn a_rested_port_is_another_ones() {
        let mut ports = Ports::default();
        ports.settle(&keys(&["a"]), 0);
        ports.settle(&keys(&[]), 5);
        ports.settle(&keys(&["b"]), 5 + REST);
        assert_eq!(port(&ports, "b"), Some(20_000));
    }

    #[test]
    fn there_are_no_more_than_there_are() {
        let mut ports = Ports::default();
        let names: Vec<String> = (0..8_003).map(|number| format!("s{number:05}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let without = ports.settle(&keys(&names), 0);
        assert_eq!((without.len(), ports.in_use().len()), (3, 8_000));
        let distinct: BTreeSet<u16> = ports.in_use().into_values().collect();
        assert_eq!((distinct.len(), distinct.first(), distinct.last()), (8_000, Some(&20_000), Some(&27_999)));
        // Those that have one keep it, whoever else comes first in the order.
        let before = ports.in_use();
        let mut more = keys(&names);
        more.extend(keys(&["aaa"]));
        assert_eq!(ports.settle(&more, 1).len(), 4);
        assert_eq!(ports.in_use(), before);
    }

    #[test]
    fn ports_survive_a_restart() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("listeners.json");
        let first = Ledger::load(&path).expect("empty").settle(&keys(&["b"]), 0);
        let again = Ledger::load(&path).expect("written").settle(&keys(&["a", "b"]), 1);
        let b = keys(&["b"]).pop_first().expect("one");
        assert_eq!(first[&b], again[&b]);
    }
}
