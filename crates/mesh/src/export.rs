//! What the exports of one service amount to, and what they disagree on (KEP-1645, "Constraints and Conflict Resolution").

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::model::{Labels, ServicePort};
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
    /// `sessionAffinity: ClientIP` there: seconds without a request after which a client may get another endpoint.
    pub session_affinity: Option<u32>,
    /// `spec.exportedLabels` of the ServiceExport.
    pub labels: Labels,
    /// `spec.exportedAnnotations` of the ServiceExport.
    pub annotations: Labels,
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
    /// Some send a client to the same endpoint again, others do not.
    #[serde(rename = "SessionAffinityConflict")]
    SessionAffinity,
    /// All of those do, for different times.
    #[serde(rename = "SessionAffinityConfigConflict")]
    SessionAffinityConfig,
    /// Not all export the same labels.
    #[serde(rename = "LabelsConflict")]
    Labels,
    /// Not all export the same annotations.
    #[serde(rename = "AnnotationsConflict")]
    Annotations,
}

impl Conflict {
    /// The reason of the condition.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Port => "PortConflict",
            Self::Type => "TypeConflict",
            Self::SessionAffinity => "SessionAffinityConflict",
            Self::SessionAffinityConfig => "SessionAffinityConfigConflict",
            Self::Labels => "LabelsConflict",
            Self::Annotations => "AnnotationsConflict",
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
    /// The union: of two ports with one name, or one number of TCP or of UDP, the older export's.
    pub ports: Vec<ServicePort>,
    /// As the oldest says; `None` for a headless service, whose clients choose for themselves.
    pub session_affinity: Option<u32>,
    /// As the oldest says.
    pub labels: Labels,
    /// As the oldest says.
    pub annotations: Labels,
    /// What they disagree on, and how many clusters do.
    pub conflicts: BTreeMap<Conflict, usize>,
    /// How many clusters export the service.
    pub clusters: usize,
}

impl Merged {
    /// `spec.type` of the ServiceImport.
    pub fn kind(&self) -> &'static str {
        if self.headless { "Headless" } else { "ClusterSetIP" }
    }

    /// `reason` of the condition `Conflict`.
    pub fn reason(&self) -> String {
        let reasons: Vec<&str> = self.conflicts.keys().map(|conflict| conflict.reason()).collect();
        if reasons.is_empty() { "NoConflicts".to_owned() } else { reasons.join(",") }
    }

    /// The message of the condition; empty without a conflict.
    pub fn message(&self) -> String {
        let kind = self.kind();
        let affinity = if self.session_affinity.is_some() { "ClientIP" } else { "None" };
        let line = |(conflict, disagree): (&Conflict, &usize)| {
            let what = match conflict {
                Conflict::Port => "Conflicting ports. Using their union, and where two differ the one".to_owned(),
                Conflict::Type => format!("Conflicting type. Using \"{kind}\""),
                Conflict::SessionAffinity => format!("Conflicting session affinity. Using \"{affinity}\""),
                Conflict::SessionAffinityConfig => {
                    format!("Conflicting session affinity config. Using {} s", self.session_affinity.unwrap_or(0))
                }
                Conflict::Labels => "Conflicting exported labels. Using those".to_owned(),
                Conflict::Annotations => "Conflicting exported annotations. Using those".to_owned(),
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
        // A TCP and a UDP port of one number are two ports, as with DNS.
        let same_number =
            |known: &ServicePort| known.number == port.number && known.protocol.is_udp() == port.protocol.is_udp();
        let clashes = |known: &ServicePort| same_number(known) || (!port.name.is_empty() && known.name == port.name);
        if !ports.iter().any(clashes) {
            ports.push(port.clone());
        }
    }
    ports.sort_by_key(|port| (port.number, port.protocol.is_udp()));
    let set = |export: &Constituent| {
        export.ports.iter().map(|port| (port.number, port.name.clone(), port.protocol)).collect::<BTreeSet<_>>()
    };
    let differing = |differs: &dyn Fn(&Constituent) -> bool| by_age.iter().filter(|export| differs(export)).count();
    // The API server gives a headless Service no affinity of use: only those with an address can differ.
    let affinity = |export: &Constituent| export.session_affinity.filter(|_| !export.headless);
    let addressed = |export: &Constituent| !export.headless && !oldest.headless;
    let counts = [
        (Conflict::Port, differing(&|export| set(export) != set(oldest))),
        (Conflict::Type, differing(&|export| export.headless != oldest.headless)),
        (
            Conflict::SessionAffinity,
            differing(&|export| addressed(export) && affinity(export).is_some() != affinity(oldest).is_some()),
        ),
        (
            Conflict::SessionAffinityConfig,
            differing(&|export| affinity(export).zip(affinity(oldest)).is_some_and(|(one, other)| one != other)),
        ),
        (Conflict::Labels, differing(&|export| export.labels != oldest.labels)),
        (Conflict::Annotations, differing(&|export| export.annotations != oldest.annotations)),
    ];
    Some(Merged {
        oldest: oldest.cluster.clone(),
        headless: oldest.headless,
        ports,
        session_affinity: affinity(oldest),
        labels: oldest.labels.clone(),
        annotations: oldest.annotations.clone(),
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
        Constituent {
            cluster: cluster(name),
            created_at,
            headless,
            ports: ports.iter().map(port).collect(),
            session_affinity: None,
            labels: Labels::new(),
            annotations: Labels::new(),
        }
    }

    #[test]
    fn what_else_exports_say_is_the_oldests() {
        let base = |name: &str, created_at| export(name, created_at, false, &[("http", 80)]);
        let label = |value: &str| Labels::from([("team".to_owned(), value.to_owned())]);
        let cases: Vec<(&str, Constituent, Constituent, &str, &str)> = vec![
            (
                "affinity of one only",
                Constituent { session_affinity: Some(10), ..base("a", 1) },
                base("b", 2),
                "SessionAffinityConflict",
                "Conflicting session affinity. Using \"ClientIP\" from oldest service export in \"a\". 1/2 clusters disagree.",
            ),
            (
                "two times",
                Constituent { session_affinity: Some(10), ..base("a", 1) },
                Constituent { session_affinity: Some(20), ..base("b", 2) },
                "SessionAffinityConfigConflict",
                "Conflicting session affinity config. Using 10 s from oldest service export in \"a\". 1/2 clusters disagree.",
            ),
            (
                "labels",
                Constituent { labels: label("x"), ..base("a", 1) },
                Constituent { labels: label("y"), ..base("b", 2) },
                "LabelsConflict",
                "Conflicting exported labels. Using those from oldest service export in \"a\". 1/2 clusters disagree.",
            ),
            (
                "annotations",
                Constituent { annotations: label("x"), ..base("a", 1) },
                base("b", 2),
                "AnnotationsConflict",
                "Conflicting exported annotations. Using those from oldest service export in \"a\". 1/2 clusters disagree.",
            ),
            (
                "affinity of a headless one does not count",
                Constituent { session_affinity: Some(10), headless: true, ..base("a", 1) },
                Constituent { headless: true, ..base("b", 2) },
                "NoConflicts",
                "",
            ),
        ];
        for (name, oldest, other, reason, message) in cases {
            let merged = merge_exports(&[other, oldest.clone()]).unwrap();
            assert_eq!((merged.reason().as_str(), merged.message().as_str()), (reason, message), "{name}");
            assert_eq!((&merged.labels, &merged.annotations), (&oldest.labels, &oldest.annotations), "{name}");
            assert_eq!(merged.session_affinity, oldest.session_affinity.filter(|_| !oldest.headless), "{name}");
        }
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
    fn a_number_may_be_a_port_of_tcp_and_of_udp() {
        let dns = |cluster, created_at, protocols: &[(&str, Protocol)]| Constituent {
            ports: protocols
                .iter()
                .map(|(name, protocol)| ServicePort { name: (*name).into(), number: 53, protocol: *protocol })
                .collect(),
            ..export(cluster, created_at, false, &[])
        };
        let exports = [
            dns("a", 1, &[("dns", Protocol::Udp)]),
            dns("b", 2, &[("dns-tcp", Protocol::Tcp), ("names", Protocol::Udp)]),
        ];
        let merged = merge_exports(&exports).unwrap();
        let found: Vec<(&str, bool)> =
            merged.ports.iter().map(|port| (port.name.as_str(), port.protocol.is_udp())).collect();
        assert_eq!((found, merged.reason().as_str()), (vec![("dns-tcp", false), ("dns", true)], "PortConflict"));
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
