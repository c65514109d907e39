//! What the exports of one service amount to, and what they disagree on (KEP-1645, "Constraints and Conflict Resolution").

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::model::ServicePort;
use crate::names::ClusterName;

/// One cluster's export of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constituent {
    /// The cluster.
    pub cluster: ClusterName,
    /// Unix seconds of the ServiceExport's creation.
    pub created_at: u64,
    /// Headless there.
    pub headless: bool,
    /// Its ports there.
    pub ports: Vec<ServicePort>,
}

/// What exports can disagree on. The reasons are those of the MCS API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Conflict {
    /// Not all have the same ports; each port leads to the clusters that have it.
    #[serde(rename = "PortConflict")]
    Port,
    /// Some are headless.
    #[serde(rename = "TypeConflict")]
    Type,
}

impl Conflict {
    /// The reason of the condition.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Port => "PortConflict",
            Self::Type => "TypeConflict",
        }
    }
}

/// All exports of one service as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The oldest export; it wins. Of equally old ones the first by the cluster's name.
    pub oldest: ClusterName,
    /// As the oldest says.
    pub headless: bool,
    /// The union: of two ports with one name, or one number, the older export's.
    pub ports: Vec<ServicePort>,
    /// What they disagree on, and how many clusters do.
    pub conflicts: BTreeMap<Conflict, usize>,
    /// How many clusters export the service.
    pub clusters: usize,
}

impl Merged {
    /// The message of the condition; empty without a conflict.
    pub fn message(&self) -> String {
        let kind = if self.headless { "Headless" } else { "ClusterSetIP" };
        let line = |(conflict, disagree): (&Conflict, &usize)| {
            let what = match conflict {
                Conflict::Port => "Conflicting ports. Using their union, and where two differ the one".to_owned(),
                Conflict::Type => format!("Conflicting type. Using \"{kind}\""),
            };
            format!(
                "{what} from oldest service export in \"{}\". {disagree}/{} clusters disagree.",
                self.oldest, self.clusters
            )
        };
        self.conflicts.iter().map(line).collect::<Vec<_>>().join(" ")
    }
}

/// Merges the exports of one service; `None` when there are none. Their order does not matter.
pub fn merge_exports(exports: &[Constituent]) -> Option<Merged> {
    let mut by_age: Vec<&Constituent> = exports.iter().collect();
    by_age.sort_by_key(|export| (export.created_at, export.cluster.clone()));
    let oldest = *by_age.first()?;
    let mut ports: Vec<ServicePort> = Vec::new();
    for port in by_age.iter().flat_map(|export| &export.ports) {
        let clashes =
            |known: &ServicePort| known.number == port.number || (!port.name.is_empty() && known.name == port.name);
        if !ports.iter().any(clashes) {
            ports.push(port.clone());
        }
    }
    ports.sort_by_key(|port| port.number);
    let set = |export: &Constituent| {
        export.ports.iter().map(|port| (port.number, port.name.clone(), port.protocol)).collect::<BTreeSet<_>>()
    };
    let differing = |differs: &dyn Fn(&Constituent) -> bool| by_age.iter().filter(|export| differs(export)).count();
    let counts = [
        (Conflict::Port, differing(&|export| set(export) != set(oldest))),
        (Conflict::Type, differing(&|export| export.headless != oldest.headless)),
    ];
    Some(Merged {
        oldest: oldest.cluster.clone(),
        headless: oldest.headless,
        ports,
        conflicts: counts.into_iter().filter(|(_, count)| *count > 0).collect(),
        clusters: exports.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::cluster;
    use crate::model::Protocol;

    fn export(name: &str, created_at: u64, headless: bool, ports: &[(&str, u16)]) -> Constituent {
        let port = |(name, number): &(&str, u16)| ServicePort {
            name: (*name).into(),
            number: *number,
            protocol: Protocol::Tcp,
        };
        Constituent { cluster: cluster(name), created_at, headless, ports: ports.iter().map(port).collect() }
    }

    #[test]
    fn the_oldest_export_wins_and_ports_are_united() {
        type Case = (&'static str, Vec<Constituent>, &'static str, Vec<(&'static str, u16)>, Vec<&'static str>);
        let http = [("http", 80)];
        let cases: Vec<Case> = vec![
            ("one", vec![export("west", 5, false, &http)], "west", vec![("http", 80)], vec![]),
            (
                "equal ones",
                vec![export("west", 5, false, &http), export("east", 6, false, &http)],
                "west",
                vec![("http", 80)],
                vec![],
            ),
            (
                "equally old",
                vec![export("west", 5, false, &http), export("east", 5, false, &http)],
                "east",
                vec![("http", 80)],
                vec![],
            ),
            (
                "another port",
                vec![export("west", 5, false, &http), export("east", 4, false, &[("http", 80), ("admin", 81)])],
                "east",
                vec![("http", 80), ("admin", 81)],
                vec!["PortConflict"],
            ),
            (
                "one name, two numbers",
                vec![export("west", 5, false, &http), export("east", 4, false, &[("http", 8080)])],
                "east",
                vec![("http", 8080)],
                vec!["PortConflict"],
            ),
            (
                "one number, two names",
                vec![export("west", 3, false, &http), export("east", 4, false, &[("web", 80)])],
                "west",
                vec![("http", 80)],
                vec!["PortConflict"],
            ),
            (
                "headless and not",
                vec![export("west", 3, true, &http), export("east", 4, false, &http)],
                "west",
                vec![("http", 80)],
                vec!["TypeConflict"],
            ),
        ];
        for (name, exports, oldest, ports, conflicts) in cases {
            let mut turned = exports.clone();
            turned.reverse();
            let merged = merge_exports(&exports).unwrap();
            assert_eq!(merge_exports(&turned), Some(merged.clone()), "{name}: the order does not matter");
            let found: Vec<(&str, u16)> = merged.ports.iter().map(|port| (port.name.as_str(), port.number)).collect();
            let reasons: Vec<&str> = merged.conflicts.keys().map(|conflict| conflict.reason()).collect();
            assert_eq!((merged.oldest.as_str(), found, reasons), (oldest, ports, conflicts), "{name}");
        }
        assert_eq!(merge_exports(&[]), None);
    }

    #[test]
    fn the_message_is_that_of_the_standard() {
        let ports = [("http", 80)];
        let exports = [export("b", 2, true, &ports), export("a", 1, false, &ports), export("c", 3, true, &ports)];
        let expected =
            "Conflicting type. Using \"ClusterSetIP\" from oldest service export in \"a\". 2/3 clusters disagree.";
        assert_eq!(merge_exports(&exports).unwrap().message(), expected);
    }
}
