//! From an untyped value to a [`FleetFile`], reporting every mistake on the way.

use std::collections::{BTreeMap, BTreeSet};

use mesh::{ClusterName, MeshId, Namespace};
use serde_json::Value;

use super::edge::edges;
use super::read::{Problem, Reader, name, report, text};
use crate::ground::Ground;

use super::wans;
use super::{ClusterSpec, Export, FleetFile, GATEWAYS_MAX, PODS_MAX, PortProtocol, PortSpec, WorkloadSpec};

/// Ports that Isthmus listens on beside a workload (see the port table in ARCHITECTURE.md).
const RESERVED: [u16; 6] = [15001, 15002, 15006, 15008, 15020, 15021];
/// From here on the application behind a sidecar listens.
pub(crate) const APP_PORTS: std::ops::RangeInclusive<u16> = 30000..=30999;

type Problems = Vec<Problem>;

/// Validates the whole file. `None` only if problems were reported.
pub(super) fn fleet(value: &Value, problems: &mut Problems) -> Option<FleetFile> {
    let reader = Reader::open("", value, &["name", "mesh", "ground", "hub", "clusters", "wan"], problems)?;
    let fleet_name = label(&reader, "name", problems);
    if reader.get("name").is_none() {
        reader.missing("name", "for example `name: demo`", problems);
    }
    let mesh = reader.text("mesh", problems).unwrap_or_else(|| "demo".to_owned());
    let mesh = name(&reader.at("mesh"), MeshId::new(mesh), problems);
    let ground = ground(&reader, problems);
    let hub_nodes = hub(&reader, problems);
    let listed = reader.list("clusters", problems);
    if listed.is_empty() {
        reader.missing("clusters", "list at least one cluster, for example `- name: east`", problems);
    }
    let clusters: Vec<_> = listed.iter().filter_map(|(path, value)| cluster(path, value, problems)).collect();
    across_clusters(&clusters, problems);
    let wan = wans::read(&reader, &clusters, problems);
    Some(FleetFile { name: fleet_name?, mesh: mesh?, ground, hub_nodes, clusters, wan })
}

fn ground(reader: &Reader<'_>, problems: &mut Problems) -> Ground {
    let Some(named) = reader.text("ground", problems) else { return Ground::default() };
    Ground::parse(&named).unwrap_or_else(|| {
        let hint = format!("use one of {}", Ground::ALL.map(Ground::as_str).join(", "));
        report(problems, &reader.at("ground"), format!("unknown ground {named:?}"), hint);
        Ground::default()
    })
}

fn hub(reader: &Reader<'_>, problems: &mut Problems) -> u64 {
    let Some(value) = reader.get("hub") else { return 3 };
    let Some(hub) = Reader::open(&reader.at("hub"), value, &["nodes"], problems) else { return 3 };
    let nodes = hub.number("nodes", (1, 5), problems).unwrap_or(3);
    if nodes % 2 == 0 {
        let hint = "use 1, 3 or 5: an even number of voters survives no more failures than one less".to_owned();
        report(problems, &hub.at("nodes"), format!("{nodes} is not an odd number of voters"), hint);
    }
    nodes
}

fn cluster(path: &str, value: &Value, problems: &mut Problems) -> Option<ClusterSpec> {
    let reader = Reader::open(path, value, &["name", "gateways", "ingress", "egress", "workloads"], problems)?;
    if reader.get("name").is_none() {
        reader.missing("name", "for example `name: east`", problems);
    }
    let named = reader.text("name", problems);
    let named = named.and_then(|text| name(&reader.at("name"), ClusterName::new(text), problems));
    if named.as_ref().is_some_and(|name| name.as_str() == "hub") {
        let hint = "choose another name: hub.<mesh> is the hub's own trust domain".to_owned();
        report(problems, &reader.at("name"), "a cluster cannot be called hub".to_owned(), hint);
    }
    let gateways = reader.number("gateways", (1, GATEWAYS_MAX), problems).unwrap_or(1);
    let listed = reader.list("workloads", problems);
    let workloads: Vec<_> = listed.iter().filter_map(|(path, value)| workload(path, value, problems)).collect();
    in_cluster(&reader, &workloads, problems);
    let edges = edges(&reader, problems);
    Some(ClusterSpec { name: named?, gateways, edges, workloads })
}

const WORKLOAD_FIELDS: [&str; 12] = [
    "name",
    "namespace",
    "serviceAccount",
    "labels",
    "annotations",
    "locality",
    "replicas",
    "mesh",
    "ports",
    "command",
    "service",
    "export",
];

fn workload(path: &str, value: &Value, problems: &mut Problems) -> Option<WorkloadSpec> {
    let reader = Reader::open(path, value, &WORKLOAD_FIELDS, problems)?;
    if reader.get("name").is_none() {
        reader.missing("name", "for example `name: web`", problems);
    }
    let named = label(&reader, "name", problems);
    let or_name = |given: Option<String>| given.or_else(|| named.clone()).unwrap_or_default();
    let namespace = reader.text("namespace", problems).unwrap_or_else(|| "default".to_owned());
    let namespace = name(&reader.at("namespace"), Namespace::new(namespace), problems);
    let service_account = or_name(label(&reader, "serviceAccount", problems));
    let service = or_name(label(&reader, "service", problems));
    let labels = reader.texts("labels", problems).unwrap_or_else(|| BTreeMap::from([("app".into(), or_name(None))]));
    check_labels(&reader, &labels, problems);
    let annotations = reader.texts("annotations", problems).unwrap_or_default();
    let locality = locality(&reader, problems);
    let mesh = reader.flag("mesh", problems).unwrap_or(true);
    if !mesh && !annotations.is_empty() {
        let hint = "remove them: they say what a sidecar captures".to_owned();
        report(
            problems,
            &reader.at("annotations"),
            "a workload without a sidecar has no use for them".to_owned(),
            hint,
        );
    }
    let ports = ports(&reader, mesh, problems);
    let export = export(&reader, problems);
    if export != Export::No && ports.is_empty() && reader.get("ports").is_none() {
        let hint = "give it ports, or remove `export`".to_owned();
        report(problems, &reader.at("export"), "a workload without ports has no Service to export".to_owned(), hint);
    }
    Some(WorkloadSpec {
        replicas: reader.number("replicas", (1, PODS_MAX as u64), problems).unwrap_or(1),
        command: command(&reader, problems),
        name: named?,
        namespace: namespace?,
        service_account,
        labels,
        annotations,
        locality,
        mesh,
        ports,
        service,
        export,
    })
}

fn locality(reader: &Reader<'_>, problems: &mut Problems) -> String {
    let locality = reader.text("locality", problems).unwrap_or_default();
    let parts: Vec<_> = locality.split('/').collect();
    let plain = |part: &&str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    if !locality.is_empty() && (parts.len() > 3 || !parts.iter().all(plain)) {
        let hint = "write region/zone/subzone, for example eu-west/eu-west-1a; zone and subzone may be left out";
        report(problems, &reader.at("locality"), format!("{locality:?} is no locality"), hint.to_owned());
    }
    locality
}

pub(super) fn check_labels(reader: &Reader<'_>, labels: &BTreeMap<String, String>, problems: &mut Problems) {
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b));
    for (key, value) in labels {
        let wrong = match (plain(key), plain(value) && !value.contains('/')) {
            (false, _) => format!("label key {key:?} is not valid"),
            (true, false) => format!("label value {value:?} is not valid"),
            (true, true) => continue,
        };
        let hint = "Kubernetes allows letters, digits, '-', '_' and '.'".to_owned();
        report(problems, &reader.at(&format!("labels.{key}")), wrong, hint);
    }
}

/// An RFC 1123 label, borrowed from the rules for namespaces.
pub(super) fn label(reader: &Reader<'_>, field: &str, problems: &mut Problems) -> Option<String> {
    let value = reader.text(field, problems)?;
    let parsed = Namespace::new(value).map_err(|mut error| {
        error.what = "name";
        error
    });
    name(&reader.at(field), parsed, problems).map(String::from)
}

fn ports(reader: &Reader<'_>, mesh: bool, problems: &mut Problems) -> Vec<PortSpec> {
    let listed = reader.list("ports", problems);
    let ports: Vec<_> = listed.iter().filter_map(|(path, value)| port(path, value, problems)).collect();
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for port in &ports {
        if !names.insert(&port.name) || !numbers.insert(port.port) {
            let message = format!("port {} ({}) is listed twice", port.name, port.port);
            report(problems, &reader.at("ports"), message, "give every port its own name and number".to_owned());
        }
        if mesh && (RESERVED.contains(&port.port) || APP_PORTS.contains(&port.port)) {
            let hint = "15001, 15002, 15006, 15008, 15020 and 15021 belong to the sidecar, 30000 to 30999 to the application behind it";
            report(problems, &reader.at("ports"), format!("port {} is taken", port.port), hint.to_owned());
        }
    }
    ports
}

fn port(path: &str, value: &Value, problems: &mut Problems) -> Option<PortSpec> {
    let reader = Reader::open(path, value, &["name", "port", "protocol"], problems)?;
    if reader.get("port").is_none() {
        reader.missing("port", "for example `port: 9080`", problems);
    }
    let number = reader.number("port", (1, 65535), problems).and_then(|number| u16::try_from(number).ok());
    let protocol = reader.text("protocol", problems).unwrap_or_else(|| "http".to_owned());
    let parsed = PortProtocol::parse(&protocol);
    if parsed.is_none() {
        let known = PortProtocol::ALL.map(PortProtocol::as_str).join(", ");
        report(
            problems,
            &reader.at("protocol"),
            format!("unknown protocol {protocol:?}"),
            format!("use one of {known}"),
        );
    }
    let named = label(&reader, "name", problems).or_else(|| Some(parsed?.as_str().to_owned()));
    Some(PortSpec { name: named?, port: number?, protocol: parsed? })
}

fn command(reader: &Reader<'_>, problems: &mut Problems) -> Option<Vec<String>> {
    reader.get("command")?;
    let listed = reader.list("command", problems);
    let words: Vec<_> = listed.iter().filter_map(|(path, value)| text(path, value, problems)).collect();
    if words.is_empty() {
        let hint = "for example [python3, -m, http.server, \"{port}\"], or remove the field for the echo server";
        report(problems, &reader.at("command"), "the command is empty".to_owned(), hint.to_owned());
    }
    Some(words)
}

fn export(reader: &Reader<'_>, problems: &mut Problems) -> Export {
    match reader.get("export") {
        None | Some(Value::Bool(false)) => Export::No,
        Some(Value::Bool(true)) => Export::All,
        Some(Value::Array(_)) => {
            let parse = |(path, value): &(String, &Value)| {
                let given = text(path, value, problems)?;
                name(path, ClusterName::new(given), problems)
            };
            let names: Vec<_> = reader.list("export", &mut Vec::new()).iter().filter_map(parse).collect();
            if names.is_empty() { Export::No } else { Export::To(names) }
        }
        Some(_) => {
            let hint = "write true (every member), false, or a list of clusters such as [west]".to_owned();
            report(problems, &reader.at("export"), "expected true, false or a list of clusters".to_owned(), hint);
            Export::No
        }
    }
}

/// What must hold between the workloads of one cluster.
fn in_cluster(reader: &Reader<'_>, workloads: &[WorkloadSpec], problems: &mut Problems) {
    let path = reader.at("workloads");
    let pods: usize = workloads.iter().map(|workload| usize::try_from(workload.replicas).unwrap_or(usize::MAX)).sum();
    if pods > PODS_MAX {
        let hint = "spread them over more clusters".to_owned();
        report(problems, &path, format!("{pods} pods do not fit, {PODS_MAX} do"), hint);
    }
    let mut names = BTreeSet::new();
    for workload in workloads.iter().filter(|workload| !names.insert(workload.name.as_str())) {
        let hint = "use other names; workloads that serve together share `service: <name>`".to_owned();
        report(problems, &path, format!("workload {:?} is listed twice", workload.name), hint);
    }
    let mut services: BTreeMap<(&Namespace, &str), &WorkloadSpec> = BTreeMap::new();
    for workload in workloads.iter().filter(|workload| !workload.ports.is_empty()) {
        let first = services.entry((&workload.namespace, &workload.service)).or_insert(workload);
        if first.ports != workload.ports || first.export != workload.export {
            let message = format!("workloads {:?} and {:?} share a service but differ", first.name, workload.name);
            report(problems, &path, message, "give both the same `ports` and `export`".to_owned());
        }
    }
}

/// What must hold between clusters.
fn across_clusters(clusters: &[ClusterSpec], problems: &mut Problems) {
    let mut names = BTreeSet::new();
    for cluster in clusters.iter().filter(|cluster| !names.insert(&cluster.name)) {
        let message = format!("cluster {:?} is listed twice", cluster.name.as_str());
        report(problems, "clusters", message, "give every cluster its own name".to_owned());
    }
    for (index, cluster) in clusters.iter().enumerate() {
        for (at, workload) in cluster.workloads.iter().enumerate() {
            let Export::To(targets) = &workload.export else { continue };
            for target in targets.iter().filter(|target| !names.contains(target)) {
                let field = format!("clusters[{index}].workloads[{at}].export");
                let hint = "name clusters of this file, or write true for every member".to_owned();
                report(problems, &field, format!("there is no cluster {:?}", target.as_str()), hint);
            }
        }
    }
    if clusters.len() > 200 {
        report(problems, "clusters", "more than 200 clusters".to_owned(), "use fewer".to_owned());
    }
}
