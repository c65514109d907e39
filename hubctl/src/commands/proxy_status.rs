//! `hubctl proxy-status`: every proxy of a fleet, and how far it has come with what its agent tells it.

use anyhow::Result;
use fleet::file::EdgeRole;
use fleet::http::{get, get_json};
use fleet::plan::{ClusterPlan, EDGE_NAMESPACE, at, port};
use serde::Serialize;
use serde_json::Value;

use super::proxy::WITHIN;
use crate::context::Context;
use crate::output::{self, Table, note};

/// One proxy.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    cluster: String,
    proxy: String,
    /// As in `hubctl explain`: sidecar, gateway, ingress, dns.
    role: String,
    connected: bool,
    /// The revision that it has acknowledged; the least of all kinds.
    acked: Option<u64>,
    /// The agent's.
    current: Option<u64>,
    /// Since when it runs on the last view that it got, in milliseconds; absent while it is connected.
    age_ms: Option<u64>,
    version: Option<String>,
    /// Why it refused what it was told.
    refused: Vec<String>,
}

/// Exit code 1 if a proxy is not connected, or refuses something.
pub(super) async fn run(context: &Context, only: Option<&str>) -> Result<u8> {
    let fleet = context.fleet()?;
    let mut rows = Vec::new();
    for cluster in fleet.plan().clusters.iter().filter(|cluster| only.is_none_or(|only| cluster.name.as_str() == only))
    {
        rows.extend(of_cluster(cluster).await);
    }
    let mut table = Table::new(&["CLUSTER", "PROXY", "ROLE", "STATE", "ACKED", "CURRENT", "AGE", "VERSION", "REFUSED"]);
    for row in &rows {
        let number = |number: Option<u64>| number.map(|it| it.to_string()).unwrap_or_default();
        table.row([
            row.cluster.clone(),
            row.proxy.clone(),
            row.role.clone(),
            row.state().to_owned(),
            number(row.acked),
            number(row.current),
            row.age_ms.map(|ms| format!("{} s", ms / 1000)).unwrap_or_default(),
            row.version.clone().unwrap_or_default(),
            row.refused.join("; "),
        ]);
    }
    output::print(context.output, &table, &rows)?;
    let wrong = rows.iter().filter(|row| !row.connected || !row.refused.is_empty()).count();
    if wrong > 0 {
        note(&format!("error: {wrong} of {} proxies are not connected, or refuse what they are told", rows.len()));
        note("hint: a proxy that is not connected goes on with its last view; see `hubctl fleet logs <cluster>/agent`");
    }
    Ok(u8::from(wrong > 0))
}

impl Row {
    fn state(&self) -> &'static str {
        match (self.connected, self.acked == self.current) {
            (false, _) => "not connected",
            (true, true) => "synced",
            (true, false) => "behind",
        }
    }
}

/// A proxy as the plan has it: its name, its name for the agent, its role and its admin listener.
struct Known {
    name: String,
    node: String,
    role: &'static str,
    admin: std::net::SocketAddr,
}

async fn of_cluster(cluster: &ClusterPlan) -> Vec<Row> {
    let agent = at(cluster.agent, port::ADMIN);
    let clients = get_json(agent, "/debug/clients", WITHIN).await.unwrap_or_default();
    let current = get_json(agent, "/debug/snapshot", WITHIN).await.unwrap_or_default()["revision"].as_u64();
    let mut rows = Vec::new();
    for proxy in proxies(cluster) {
        let metrics = get(proxy.admin, "/metrics", WITHIN).await.map(|(_, body)| body).unwrap_or_default();
        let version = version(&String::from_utf8_lossy(&metrics));
        let age_ms = match proxy.role {
            "sidecar" => get_json(proxy.admin, "/debug/view", WITHIN).await.unwrap_or_default()["age_ms"].as_u64(),
            _ => None,
        };
        let row = row(&clients, &proxy.node, current);
        rows.push(Row {
            cluster: cluster.name.to_string(),
            proxy: proxy.name,
            role: proxy.role.to_owned(),
            version,
            age_ms,
            ..row
        });
    }
    rows
}

/// What the agent knows of a proxy.
fn row(clients: &Value, node: &str, current: Option<u64>) -> Row {
    let found = clients["clients"].as_array().into_iter().flatten().find(|client| client["node"] == node);
    let kinds = found.and_then(|client| client["kinds"].as_object()).into_iter().flatten();
    let refused = kinds.filter_map(|(kind, progress)| Some(format!("{kind}: {}", progress["refused"].as_str()?)));
    Row {
        cluster: String::new(),
        proxy: String::new(),
        role: String::new(),
        connected: found.is_some(),
        acked: found.and_then(|client| client["acked_revision"].as_u64()),
        current,
        age_ms: None,
        version: None,
        refused: refused.collect(),
    }
}

/// The east-west gateways, the edge, DNS and the sidecars, in this order.
fn proxies(cluster: &ClusterPlan) -> Vec<Known> {
    let known =
        |name: &str, node: String, role, ip| Known { name: name.to_owned(), node, role, admin: at(ip, port::ADMIN) };
    let system = ::mesh::SYSTEM_NAMESPACE;
    let gateways = cluster.gateways.iter();
    let mut proxies: Vec<Known> = gateways
        .map(|gateway| known(&gateway.name, format!("gateway~{system}/{}", gateway.name), "gateway", gateway.ip))
        .collect();
    proxies.extend(cluster.edges.iter().map(|edge| {
        let role = match edge.role {
            EdgeRole::Ingress => "ingress",
            EdgeRole::Egress => "egress",
        };
        known(&edge.name, format!("sidecar~{EDGE_NAMESPACE}/{}", edge.name), role, edge.ip)
    }));
    proxies.push(known("dns", format!("dns~{system}/dns"), "dns", cluster.dns));
    let meshed = cluster.pods.iter().filter(|pod| pod.mesh);
    proxies.extend(
        meshed.map(|pod| known(&pod.name, format!("sidecar~{}/{}", pod.namespace, pod.name), "sidecar", pod.ip)),
    );
    proxies
}

/// From the metric that every component has.
fn version(metrics: &str) -> Option<String> {
    let line = metrics.lines().find(|line| line.starts_with("isthmus_build_info{"))?;
    Some(line.split_once("version=\"")?.1.split_once('"')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_proxy_is_synced_behind_or_not_connected() {
        let clients = json!({"clients": [
            {"node": "sidecar~default/web-1", "acked_revision": 7, "kinds": {"service": {"refused": null}}},
            {"node": "gateway~isthmus-system/gateway-1", "acked_revision": 6,
             "kinds": {"service": {"refused": "ports: 0 is no port"}, "mesh": {"refused": null}}},
        ]});
        let told = |node: &str| {
            let row = row(&clients, node, Some(7));
            (row.state(), row.acked, row.refused.join("; "))
        };
        assert_eq!(told("sidecar~default/web-1"), ("synced", Some(7), String::new()));
        assert_eq!(
            told("gateway~isthmus-system/gateway-1"),
            ("behind", Some(6), "service: ports: 0 is no port".into())
        );
        assert_eq!(told("dns~isthmus-system/dns"), ("not connected", None, String::new()));
    }

    #[test]
    fn the_version_is_in_the_metrics() {
        let metrics = "# HELP x\nisthmus_build_info{component=\"sidecar\",version=\"0.1.0\"} 1\n";
        assert_eq!(version(metrics).as_deref(), Some("0.1.0"));
        assert_eq!(version(""), None);
    }
}
