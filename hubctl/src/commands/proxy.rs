//! `hubctl routes|policies|endpoints`: what one proxy runs, as it says itself.

mod policies;
mod routes;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use fleet::http::get_json;
use fleet::plan::{ClusterPlan, EDGE_NAMESPACE, EdgePlan, at, port};
use fleet::{Fleet, Hint};
use serde_json::{Value, json};

use crate::context::Context;
use crate::output::{self, Table};

/// One admin listener answers within this time.
pub(super) const WITHIN: Duration = Duration::from_secs(5);

/// A proxy of a fleet.
pub(super) struct Proxy<'a> {
    pub(super) cluster: &'a ClusterPlan,
    /// Its admin listener.
    pub(super) admin: SocketAddr,
    /// It is an ingress or egress gateway.
    pub(super) edge: bool,
    /// The SPIFFE id that it proves.
    pub(super) identity: String,
}

/// The sidecar of a workload, or an ingress or egress gateway.
pub(super) fn find<'a>(fleet: &'a Fleet, name: &str) -> Result<Proxy<'a>> {
    let identity = |cluster: &ClusterPlan, namespace: &str, account: &str| {
        format!("spiffe://{}/ns/{namespace}/sa/{account}", cluster.trust_domain)
    };
    if let Some((cluster, edge)) = edge(fleet, name) {
        let identity = identity(cluster, EDGE_NAMESPACE, &edge.service_account);
        return Ok(Proxy { cluster, admin: at(edge.ip, port::ADMIN), edge: true, identity });
    }
    let (cluster, pod) = fleet.meshed_pod(name).map_err(|error| named(fleet, name, error))?;
    let identity = identity(cluster, pod.namespace.as_str(), &pod.service_account);
    Ok(Proxy { cluster, admin: pod.admin(), edge: false, identity })
}

/// An error that also names the gateways that could have been meant.
fn named(fleet: &Fleet, name: &str, error: anyhow::Error) -> anyhow::Error {
    let of = |cluster: &ClusterPlan| {
        let edges = cluster.edges.iter().map(|edge| format!("{}/{}", cluster.name, edge.name));
        edges.collect::<Vec<_>>()
    };
    let gateways: Vec<String> = fleet.plan().clusters.iter().flat_map(of).collect();
    match gateways.is_empty() || !name.contains("gateway") {
        true => error,
        false => Hint::error(
            format!("there is no ingress or egress gateway {name:?}"),
            format!("there are {}; for those between clusters see hubctl gateways", gateways.join(", ")),
        ),
    }
}

fn edge<'a>(fleet: &'a Fleet, name: &str) -> Option<(&'a ClusterPlan, &'a EdgePlan)> {
    let (cluster, name) = name.split_once('/')?;
    let cluster = fleet.plan().cluster(cluster)?;
    Some((cluster, cluster.edges.iter().find(|edge| edge.name == name)?))
}

async fn view(context: &Context, name: &str) -> Result<(SocketAddr, Value)> {
    let fleet = context.fleet()?;
    let proxy = find(&fleet, name)?;
    let answer = get_json(proxy.admin, "/debug/view", WITHIN).await;
    let answer = answer.with_context(|| format!("the proxy of {name} does not show its view"))?;
    Ok((proxy.admin, answer["view"].clone()))
}

pub(super) async fn routes(context: &Context, name: &str) -> Result<u8> {
    let (_, view) = view(context, name).await?;
    let rows = routes::rows(&view);
    let mut table = Table::new(&["HOST", "RULE", "MATCH", "ACTION"]);
    for row in &rows {
        table.row([row.host.clone(), row.rule.clone(), row.matches.clone(), row.action.clone()]);
    }
    output::print(context.output, &table, &json!({"revision": view["revision"], "routes": rows}))?;
    Ok(0)
}

pub(super) async fn policies(context: &Context, name: &str) -> Result<u8> {
    let (_, view) = view(context, name).await?;
    let rows = policies::rows(&view);
    let mut table = Table::new(&["POLICY", "OF", "SAYS"]);
    for row in &rows {
        table.row([row.policy.to_owned(), row.object.clone(), row.says.clone()]);
    }
    let raw = &view["workload"]["config"];
    output::print(context.output, &table, &json!({"revision": view["revision"], "policies": rows, "config": raw}))?;
    Ok(0)
}

/// The endpoints of the view, each with what the proxy has to do with it; then what only the proxy knows of.
pub(super) async fn endpoints(context: &Context, name: &str) -> Result<u8> {
    let (admin, view) = view(context, name).await?;
    let loads = get_json(admin, "/debug/endpoints", WITHIN).await.unwrap_or_else(|_| json!([]));
    let mut table = Table::new(&["SERVICE", "ENDPOINT", "ADDRESS", "READY", "ACTIVE", "STATE"]);
    let mut rows = Vec::new();
    for row in known(&view, &loads).into_iter().chain(unknown(&view, &loads)) {
        let text = |name: &str| row[name].as_str().map_or_else(|| row[name].to_string(), str::to_owned);
        table.row(["service", "endpoint", "address", "ready", "active", "state"].map(text));
        rows.push(row);
    }
    output::print(context.output, &table, &json!({"revision": view["revision"], "endpoints": rows}))?;
    Ok(0)
}

/// Every endpoint and remote group of the services that the proxy has asked for.
fn known(view: &Value, loads: &Value) -> Vec<Value> {
    let mut rows = Vec::new();
    for service in ["services", "entries"].iter().flat_map(|kind| view[kind].as_object().into_iter().flatten()) {
        let (name, service) = service;
        for endpoint in service["endpoints"].as_array().into_iter().flatten() {
            let ip = endpoint["address"].as_str().unwrap_or_default();
            let ports: Vec<String> =
                endpoint["ports"].as_object().into_iter().flatten().map(|(_, port)| port.to_string()).collect();
            let address = format!("{ip}:{}", ports.join(","));
            let load: Vec<&Value> = ports.iter().flat_map(|port| load(loads, &format!("{ip}:{port}"))).collect();
            rows.push(json!({
                "service": name, "endpoint": endpoint["name"], "address": address,
                "ready": if endpoint["ready"] == true { "yes" } else { "no" },
                "active": active(&load), "state": state(&load),
            }));
        }
        for (cluster, import) in service["imports"].as_object().into_iter().flatten() {
            for group in import["groups"].as_array().into_iter().flatten() {
                let account = group["key"]["service_account"].as_str().unwrap_or_default();
                let load = load(loads, &format!("{cluster}/{account}"));
                rows.push(json!({
                    "service": name, "endpoint": format!("{cluster}/{account}{}", labels(&group["key"]["labels"])),
                    "address": "through the gateways", "ready": format!("{} healthy", group["healthy"]),
                    "active": active(&load), "state": state(&load),
                }));
            }
        }
    }
    rows
}

/// What the proxy has to do with and the view does not name, such as hosts outside the mesh.
fn unknown(view: &Value, loads: &Value) -> Vec<Value> {
    let known: Vec<Value> = known(view, &json!([]));
    let named = |endpoint: &str| {
        known.iter().any(|row| {
            let (address, name) =
                (row["address"].as_str().unwrap_or_default(), row["endpoint"].as_str().unwrap_or_default());
            let ip = |text: &str| text.rsplit_once(':').map(|(ip, _)| ip.to_owned());
            (ip(address).is_some() && ip(address) == ip(endpoint)) || name.starts_with(endpoint)
        })
    };
    let rows = loads.as_array().into_iter().flatten();
    let others = rows.filter(|row| !named(row["endpoint"].as_str().unwrap_or_default()));
    others
        .map(|row| {
            json!({
                "service": row["service"], "endpoint": row["endpoint"], "address": "", "ready": "",
                "active": row["active"], "state": state(&[row]),
            })
        })
        .collect()
}

fn load<'a>(loads: &'a Value, endpoint: &str) -> Vec<&'a Value> {
    loads.as_array().into_iter().flatten().filter(|row| row["endpoint"] == *endpoint).collect()
}

fn active(load: &[&Value]) -> u64 {
    load.iter().filter_map(|row| row["active"].as_u64()).sum()
}

fn state(load: &[&Value]) -> String {
    let times = load.iter().filter_map(|row| row["ejections"].as_u64()).max().unwrap_or_default();
    let is = |name: &str| load.iter().any(|row| row[name] == true);
    match (is("ejected"), is("aside"), times) {
        (true, _, _) => format!("ejected, {times} times so far"),
        (false, true, _) => "aside: it could not be connected to".to_owned(),
        (false, false, 1..) => format!("was ejected {times} times"),
        _ => String::new(),
    }
}

fn labels(labels: &Value) -> String {
    let labels = labels.as_object().into_iter().flatten();
    let labels: Vec<String> =
        labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    if labels.is_empty() { String::new() } else { format!(" ({})", labels.join(",")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_shown_with_their_load_and_what_else_the_proxy_talks_to() {
        let view = json!({"services": {"default/reviews": {
            "endpoints": [{"name": "reviews-1", "address": "10.0.0.1", "ports": {"80": 9080}, "ready": true}],
            "imports": {"west": {"groups": [{"key": {"service_account": "reviews", "labels": {"version": "v2"}}, "healthy": 2}]}},
        }}, "entries": {}});
        let loads = json!([
            {"service": "", "endpoint": "10.0.0.1:9080", "active": 3, "ejected": true, "ejections": 2, "aside": false},
            {"service": "", "endpoint": "west/reviews", "active": 1, "ejected": false, "ejections": 0, "aside": true},
            {"service": "x", "endpoint": "192.0.2.1:443", "active": 0, "ejected": false, "ejections": 0, "aside": false},
        ]);
        let rows = known(&view, &loads);
        assert_eq!(rows[0]["state"], "ejected, 2 times so far");
        assert_eq!((&rows[0]["active"], &rows[0]["address"]), (&json!(3), &json!("10.0.0.1:9080")));
        assert_eq!(rows[1]["endpoint"], "west/reviews (version=v2)");
        assert_eq!(rows[1]["state"], "aside: it could not be connected to");
        let others = unknown(&view, &loads);
        assert_eq!(others.len(), 1);
        assert_eq!(others[0]["endpoint"], "192.0.2.1:443");
    }
}
