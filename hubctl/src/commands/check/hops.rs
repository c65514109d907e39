//! The hops of a fleet, from the inside out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::mesh::ClusterState;
use fleet::call::{Call, Speak, connect};
use fleet::converge::{Import, imports};
use fleet::file::PortProtocol;
use fleet::http::{get, get_json};
use fleet::plan::{ClusterPlan, at, port};
use fleet::{Fleet, dns};
use hub_client::HubClient;
use serde_json::Value;
use tokio::io::AsyncReadExt;

use super::super::mesh;
use super::Check;
use crate::context::Context;
use crate::failure::hub_node;

/// One probe takes no longer.
const WITHIN: Duration = Duration::from_secs(5);
/// A refused flow is closed sooner than this.
const MOMENT: Duration = Duration::from_millis(300);

/// Every check of a fleet: hub, then per cluster its components and its paths, then requests.
pub(super) fn checks(context: &Context, fleet: &Fleet) -> Vec<Check> {
    let mut checks = hub(context);
    for cluster in &fleet.plan().clusters {
        checks.extend(components(cluster));
    }
    checks.extend(states(context, fleet));
    let imports = imports(fleet.plan());
    for cluster in &fleet.plan().clusters {
        let mut remote: Vec<String> =
            imports.iter().filter(|import| import.to.name == cluster.name).map(|i| i.from.name.to_string()).collect();
        remote.sort();
        remote.dedup();
        checks.extend(paths(cluster, &remote));
    }
    for import in imports {
        checks.push(name(import));
        checks.extend(requests(import));
    }
    checks
}

/// Each node, asked as the operator over mTLS.
fn hub(context: &Context) -> Vec<Check> {
    let operator = match context.operator() {
        Ok(operator) => operator,
        Err(error) => {
            let why = format!("{error:#}");
            return vec![Check::optional("operator -> hub", async move { Err(why) })];
        }
    };
    let client: Result<HubClient, String> = operator.client().map_err(|error| error.to_string());
    let node = |address: &String| {
        let (address, client) = (address.clone(), client.clone());
        let hop = format!("operator -> hub node {address}");
        Check::optional(hop, async move {
            let status = client?.status_of(&address).await.map_err(|error| hub_node(&error))?;
            let role = if status.leader_id == status.node_id { "leader" } else { "follower" };
            Ok(format!("{role}, revision {}", status.revision))
        })
    };
    operator.api_addresses.iter().map(node).collect()
}

/// What the lease and the paths say of each cluster together: traffic flows without it, but nobody should have to find out.
fn states(context: &Context, fleet: &Fleet) -> Vec<Check> {
    let observed = Arc::new(fleet.plan().clone());
    let client = context.operator().and_then(|operator| Ok(operator.client()?)).map_err(|error| format!("{error:#}"));
    let state = |cluster: &ClusterPlan| {
        let (name, client, plan) = (cluster.name.to_string(), client.clone(), observed.clone());
        Check::optional(format!("{name}: state"), async move {
            let (lease, seen) = tokio::join!(mesh::lease_is_live(client, &name), mesh::seen::observe(&plan));
            let lease = lease?;
            let seen = mesh::seen::judge(&name, lease, &seen);
            let told = seen.to_string();
            match (seen.state, seen.unreachable_from.is_empty()) {
                (ClusterState::Live, true) => Ok(told),
                (ClusterState::Live | ClusterState::Unreachable, _) => {
                    Err(format!("{told}; hint: see the hops (QUIC) to {name} below"))
                }
                (ClusterState::Stale, _) => {
                    Err(format!("{told}: used with what it announced last; hint: its agent does not reach the hub"))
                }
                (ClusterState::Dead, _) => {
                    Err(format!("{told}: used by nobody, nothing is erased; hint: start its agent and gateways"))
                }
            }
        })
    };
    fleet.plan().clusters.iter().map(state).collect()
}

fn components(cluster: &ClusterPlan) -> Vec<Check> {
    let admin = |name: &str, ip| {
        let hop = format!("{}: {name}", cluster.name);
        Check::new(hop, ready(at(ip, port::ADMIN)))
    };
    let mut checks = vec![admin("agent", cluster.agent), admin("dns", cluster.dns)];
    checks.extend(cluster.gateways.iter().map(|gateway| admin(&gateway.name, gateway.ip)));
    let meshed = cluster.pods.iter().filter(|pod| pod.mesh);
    checks.extend(meshed.map(|pod| admin(&format!("sidecar of {}", pod.name), pod.ip)));
    checks
}

async fn ready(admin: SocketAddr) -> Result<String, String> {
    match get(admin, "/readyz", WITHIN).await {
        Ok((status, _)) if status.is_success() => Ok("ready".to_owned()),
        Ok((_, body)) => Err(first_line(String::from_utf8_lossy(&body).trim())),
        Err(error) => Err(error.to_string()),
    }
}

/// What each gateway's own probes say about each gateway of the clusters that it needs.
fn paths(cluster: &ClusterPlan, remote: &[String]) -> Vec<Check> {
    let mut checks = Vec::new();
    for gateway in &cluster.gateways {
        for remote in remote {
            let hop = format!("{}/{} -> {remote} (QUIC)", cluster.name, gateway.name);
            let (admin, remote) = (at(gateway.ip, port::ADMIN), remote.clone());
            checks.push(Check::new(hop, async move {
                let paths = get_json(admin, "/debug/paths", WITHIN).await.map_err(|error| error.to_string())?;
                judge_paths(&paths, &remote)
            }));
        }
    }
    checks
}

/// All paths to a cluster must be usable: with one of two gone traffic flows, but the hop is broken.
fn judge_paths(paths: &Value, remote: &str) -> Result<String, String> {
    let to_remote = paths.as_array().into_iter().flatten().filter(|path| path["cluster"] == remote);
    let mut usable = Vec::new();
    let mut broken = Vec::new();
    for path in to_remote {
        let name = path["remote_gateway"].as_str().unwrap_or("?");
        if path["usable"] == true {
            let rtt = path["rtt_ms"].as_f64().map(|rtt| format!(" {rtt:.1} ms")).unwrap_or_default();
            usable.push(format!("{name}{rtt}"));
        } else {
            let why = path["last_error"].as_str().unwrap_or("its probes are not answered");
            broken.push(format!("{name}: {why}"));
        }
    }
    match (usable.is_empty(), broken.is_empty()) {
        (true, true) => Err("it knows no gateway there".to_owned()),
        (_, false) => Err(broken.join("; ")),
        (false, true) => Ok(usable.join(", ")),
    }
}

/// The name of an import, asked of the importing cluster's shim.
fn name(import: Import<'_>) -> Check {
    let host = format!("{}.{}.svc.clusterset.local", import.service.name, import.service.namespace);
    let shim = import.to.resolver();
    Check::new(format!("{}: dns {host}", import.to.name), async move {
        let answer = dns::ask(shim, &host, WITHIN).await.map_err(|error| error.to_string())?;
        match answer.addresses.first() {
            Some(address) => Ok(address.to_string()),
            None => Err(format!("no address (response code {})", answer.code)),
        }
    })
}

/// One real request per imported port, from a workload of the importing cluster.
fn requests(import: Import<'_>) -> Vec<Check> {
    let Some(pod) = import.to.pods.iter().find(|pod| pod.mesh) else { return Vec::new() };
    let host = format!("{}.{}.svc.clusterset.local", import.service.name, import.service.namespace);
    let mut checks = Vec::new();
    for service_port in &import.service.ports {
        let number = service_port.port;
        let hop = format!("{}/{} -> {host}:{number}", import.to.name, pod.workload);
        let (proxy, host, protocol) = (pod.proxy(), host.clone(), service_port.protocol);
        if protocol == PortProtocol::Udp {
            checks.push(Check::new(format!("{hop}/udp"), datagrams(pod.admin(), host, number)));
            continue;
        }
        checks.push(Check::new(hop, async move {
            let started = Instant::now();
            let probe = request(proxy, &host, number, protocol);
            let seen =
                tokio::time::timeout(WITHIN + MOMENT, probe).await.map_err(|_| "no answer in 5 s".to_owned())??;
            Ok(format!("{seen}, {:.1} ms", started.elapsed().as_secs_f64() * 1000.0))
        }));
    }
    checks
}

async fn request(proxy: SocketAddr, host: &str, number: u16, protocol: PortProtocol) -> Result<String, String> {
    match protocol {
        PortProtocol::Http => http(proxy, host, number, Speak::Http1).await,
        PortProtocol::Http2 | PortProtocol::Grpc => http(proxy, host, number, Speak::Http2).await,
        PortProtocol::Udp => Err("datagrams are no request".to_owned()),
        PortProtocol::Tcp | PortProtocol::TcpServerFirst => bytes(proxy, host, number, protocol).await,
    }
}

/// Where the sidecar would send datagrams. None is sent: no answer is owed to one that the application does not understand.
async fn datagrams(admin: SocketAddr, host: String, number: u16) -> Result<String, String> {
    let path = format!("/debug/explain?host={host}&port={number}&transport=udp");
    judge_decision(&get_json(admin, &path, WITHIN).await.map_err(|error| error.to_string())?)
}

fn judge_decision(explained: &Value) -> Result<String, String> {
    let tiers = explained["decision"]["outcome"]["tiers"].as_array().into_iter().flatten();
    let targets = tiers.flat_map(|tier| tier["targets"].as_array().into_iter().flatten()).count();
    let because = explained["because"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let because = because.collect::<Vec<_>>().join("; ");
    match (targets, because.is_empty()) {
        (0, true) => Err("it would be sent nowhere".to_owned()),
        (0, false) => Err(format!("it would be sent nowhere: {because}")),
        (targets, _) => Ok(format!("targets: {targets}; no datagram was sent")),
    }
}

/// Any answer of the application will do; 5xx without one is the mesh's.
async fn http(proxy: SocketAddr, host: &str, number: u16, speak: Speak) -> Result<String, String> {
    let mut call = Call::get(proxy, &format!("http://{host}:{number}/")).map_err(|error| format!("{error:#}"))?;
    call.speak = speak;
    let reply = call.send().await.map_err(|error| format!("{error:#}"))?;
    let status = reply.status.map(|status| status.as_u16()).unwrap_or_default();
    let body = String::from_utf8_lossy(&reply.body);
    if status < 500 { Ok(format!("HTTP {status}")) } else { Err(format!("HTTP {status}: {}", body.trim())) }
}

/// A server that speaks first must speak; any other must keep the connection open for a moment.
async fn bytes(proxy: SocketAddr, host: &str, number: u16, protocol: PortProtocol) -> Result<String, String> {
    let mut tunnel = connect(proxy, host, number).await.map_err(|error| error.to_string())?;
    let patience = if protocol == PortProtocol::TcpServerFirst { WITHIN } else { MOMENT };
    let mut byte = [0];
    match tokio::time::timeout(patience, tunnel.read(&mut byte)).await {
        Ok(Ok(1..)) => Ok("connected, the server spoke".to_owned()),
        Ok(Ok(0)) => Err("the connection was closed at once".to_owned()),
        Ok(Err(error)) => Err(format!("the connection broke: {error}")),
        Err(_) if protocol == PortProtocol::TcpServerFirst => Err("the server did not speak".to_owned()),
        Err(_) => Ok("connected".to_owned()),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or("no reason given").to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn datagrams_need_somewhere_to_go() {
        let to_one =
            json!({"decision": {"outcome": {"outcome": "forward", "tiers": [{"targets": [{}]}]}}, "because": []});
        assert_eq!(judge_decision(&to_one), Ok("targets: 1; no datagram was sent".to_owned()));
        let nowhere = json!({"decision": {"outcome": {"outcome": "refuse"}}, "because": ["no endpoint is ready"]});
        assert_eq!(judge_decision(&nowhere), Err("it would be sent nowhere: no endpoint is ready".to_owned()));
    }

    #[test]
    fn one_broken_path_of_two_is_named() {
        let paths = json!([
            {"path": "a", "cluster": "west", "remote_gateway": "gateway-1", "usable": true, "rtt_ms": 0.42},
            {"path": "b", "cluster": "west", "remote_gateway": "gateway-2", "usable": false, "last_error": "timed out"},
            {"path": "c", "cluster": "north", "remote_gateway": "gateway-1", "usable": true, "rtt_ms": 1.0},
        ]);
        assert_eq!(judge_paths(&paths, "west"), Err("gateway-2: timed out".to_owned()));
        assert_eq!(judge_paths(&paths, "north"), Ok("gateway-1 1.0 ms".to_owned()));
        assert_eq!(judge_paths(&paths, "south"), Err("it knows no gateway there".to_owned()));
    }
}
