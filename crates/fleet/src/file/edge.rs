//! Ingress and egress gateways of a fleet file, with the names, labels and ports of Istio's.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::read::{Problem, Reader, report};
use super::validate::{check_labels, label};

/// The most ingress and egress gateways per cluster: `.10` to `.19` of the cluster's addresses.
pub const EDGES_MAX: usize = 10;
/// Ports that a gateway itself listens on.
const RESERVED: [u16; 2] = [15008, 15020];
/// Names of other components of a cluster, and of directories beside theirs.
const TAKEN: [&str; 4] = ["agent", "dns", "manifests", "workloads"];

/// One ingress or egress gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeSpec {
    /// Its name and its Service's; default `istio-ingressgateway` or `istio-egressgateway`.
    pub name: String,
    /// What it is for.
    pub role: EdgeRole,
    /// Labels that Gateways select; default `istio: ingressgateway` or `istio: egressgateway`, and `app: <name>`.
    pub labels: BTreeMap<String, String>,
    /// Ports of its Service: 80 and 443, and those that the file adds.
    pub ports: Vec<EdgePort>,
}

/// One port of a gateway's Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgePort {
    /// Its name, which declares its protocol.
    pub name: String,
    /// The number that Gateways name (`servers[].port.number`).
    pub port: u16,
    /// The number that the process binds.
    pub target: u16,
}

/// What a gateway is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EdgeRole {
    /// Traffic that enters the mesh.
    Ingress,
    /// Traffic that leaves it.
    Egress,
}

impl EdgeRole {
    /// The name used in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// The gateways of a cluster, ingress first.
pub(super) fn edges(cluster: &Reader<'_>, problems: &mut Vec<Problem>) -> Vec<EdgeSpec> {
    let mut edges = Vec::new();
    for role in [EdgeRole::Ingress, EdgeRole::Egress] {
        let listed = cluster.list(role.as_str(), problems);
        edges.extend(listed.iter().filter_map(|(path, value)| edge(path, value, role, problems)));
    }
    if edges.len() > EDGES_MAX {
        let hint = "spread them over more clusters".to_owned();
        let message = format!("{} ingress and egress gateways do not fit, {EDGES_MAX} do", edges.len());
        report(problems, &cluster.at("ingress"), message, hint);
    }
    let mut names = BTreeSet::new();
    for edge in edges.iter().filter(|edge| !names.insert(edge.name.as_str())) {
        let message = format!("gateway {:?} is listed twice", edge.name);
        report(problems, &cluster.at(edge.role.as_str()), message, "give every gateway its own `name`".to_owned());
    }
    edges
}

fn edge(path: &str, value: &Value, role: EdgeRole, problems: &mut Vec<Problem>) -> Option<EdgeSpec> {
    let reader = Reader::open(path, value, &["name", "labels", "ports"], problems)?;
    let usual = format!("istio-{}gateway", role.as_str());
    let name = label(&reader, "name", problems).unwrap_or(usual);
    if TAKEN.contains(&name.as_str()) || name.starts_with("gateway-") {
        let hint = format!("choose another name, for example istio-{}gateway-2", role.as_str());
        report(problems, &reader.at("name"), format!("{name:?} is the name of another component"), hint);
    }
    let labels = reader.texts("labels", problems).unwrap_or_else(|| {
        let istio = format!("{}gateway", role.as_str());
        BTreeMap::from([("app".to_owned(), name.clone()), ("istio".to_owned(), istio)])
    });
    check_labels(&reader, &labels, problems);
    Some(EdgeSpec { ports: ports(&reader, problems), name, role, labels })
}

/// 80 and 443 are always there; an entry of the file with the same number takes their place.
fn ports(reader: &Reader<'_>, problems: &mut Vec<Problem>) -> Vec<EdgePort> {
    let listed = reader.list("ports", problems);
    let given: Vec<_> = listed.iter().filter_map(|(path, value)| port(path, value, problems)).collect();
    let usual = [(80, 8080), (443, 8443)];
    let usual = usual.into_iter().filter(|(number, _)| given.iter().all(|port| port.port != *number));
    let mut ports: Vec<_> = usual.map(|(port, target)| EdgePort { name: usual_name(port), port, target }).collect();
    ports.extend(given);
    let (mut numbers, mut targets, mut names) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for port in &ports {
        let path = reader.at("ports");
        if !numbers.insert(port.port) || !targets.insert(port.target) || !names.insert(&port.name) {
            let message = format!("port {} ({} to {}) is listed twice", port.name, port.port, port.target);
            let hint = "give every port its own name, `port` and `targetPort`; 80 to 8080 and 443 to 8443 are there";
            report(problems, &path, message, hint.to_owned());
        }
        if RESERVED.contains(&port.target) {
            let hint = "15008 and 15020 belong to the gateway itself: choose another `targetPort`".to_owned();
            report(problems, &path, format!("port {} is taken", port.target), hint);
        }
    }
    ports
}

fn port(path: &str, value: &Value, problems: &mut Vec<Problem>) -> Option<EdgePort> {
    let reader = Reader::open(path, value, &["name", "port", "targetPort"], problems)?;
    if reader.get("port").is_none() {
        reader.missing("port", "for example `{port: 31400, targetPort: 31400}`", problems);
    }
    let number = |field, problems: &mut _| {
        reader.number(field, (1, 65535), problems).and_then(|number| u16::try_from(number).ok())
    };
    let port = number("port", problems)?;
    let target = number("targetPort", problems);
    let name = label(&reader, "name", problems).unwrap_or_else(|| usual_name(port));
    Some(EdgePort { name, port, target: target.unwrap_or(port) })
}

fn usual_name(port: u16) -> String {
    match port {
        80 => "http2".to_owned(),
        443 => "https".to_owned(),
        other => format!("tcp-{other}"),
    }
}
