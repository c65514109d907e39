//! A decision in words. What the sidecar and the gateways say is read as their JSON, so that what is not understood here
//! is still shown by its own name.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use mesh::{ClusterName, Reason};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::output::Table;

/// `/debug/explain` of a sidecar.
#[derive(Debug, Deserialize)]
struct Explained {
    host: String,
    port: u16,
    /// Time since the last contact with the agent; absent while connected.
    age_ms: Option<u64>,
    decision: Decision,
}

/// [`mesh::RouteDecision`], as its JSON says it.
#[derive(Debug, Deserialize)]
struct Decision {
    revision: u64,
    service: Option<String>,
    protocol: String,
    outcome: Outcome,
    connect_timeout: u64,
    retry: Retry,
    reasons: Vec<Value>,
}

#[derive(Debug, Deserialize)]
struct Retry {
    attempts: u32,
    backoff: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
enum Outcome {
    Forward { tiers: Vec<Tier> },
    Passthrough,
    Refuse,
}

#[derive(Debug, Deserialize)]
struct Tier {
    targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "target")]
enum Target {
    Local { endpoint: String, address: String, expected: Option<String> },
    Remote { cluster: String, group: Group, expected: Vec<String>, weight: u32 },
}

#[derive(Debug, Deserialize)]
struct Group {
    service_account: String,
    labels: BTreeMap<String, String>,
}

/// One row of `/debug/paths` of a gateway.
#[derive(Debug, Deserialize)]
struct Path {
    cluster: String,
    remote_gateway: String,
    address: String,
    usable: bool,
    rtt_ms: Option<f64>,
    streams: u64,
    last_error: Option<String>,
}

/// The whole answer as text.
pub(super) fn tell(from: &str, explained: &Value, gateways: &Map<String, Value>) -> Result<String> {
    let Explained { host, port, age_ms, decision } =
        Explained::deserialize(explained).context("the sidecar's answer is not understood; see it with -o json")?;
    let mut text = format!("from      {from}\nto        {host}:{port}\n");
    let mut line = |label: &str, value: &str| text.push_str(&format!("{label:<9} {value}\n"));
    if let Some(service) = &decision.service {
        line("service", &format!("{service}, protocol {}", decision.protocol));
    }
    line("view", &view(decision.revision, age_ms));
    match &decision.outcome {
        Outcome::Forward { tiers } if tiers.len() == 1 => line("decision", "forward"),
        Outcome::Forward { .. } => line("decision", "forward to the first tier with a target that can be used"),
        Outcome::Passthrough => line("decision", "pass through: dial what the client named, without the mesh"),
        Outcome::Refuse => line("decision", "refuse"),
    }
    for (number, tier) in decision.tiers().iter().enumerate() {
        text.push_str(&format!("  tier {}\n", number + 1));
        text.extend(tier.targets.iter().map(|target| format!("    {}\n", target.tell())));
    }
    text.push_str("because\n");
    text.extend(decision.reasons.iter().map(|reason| format!("  - {}\n", sentence(reason))));
    if !matches!(decision.outcome, Outcome::Refuse) {
        text.push_str(&limits(&decision));
    }
    let remote = decision.remote_clusters();
    if !remote.is_empty() {
        text.push_str(&format!("paths to {}\n{}", remote.join(", "), paths(gateways, &remote)));
    }
    Ok(text)
}

fn view(revision: u64, age_ms: Option<u64>) -> String {
    match age_ms {
        None => format!("revision {revision}, live"),
        Some(ms) => format!("revision {revision}, the last one: no contact with the agent for {} s", ms / 1000),
    }
}

fn limits(decision: &Decision) -> String {
    let Retry { attempts, backoff } = decision.retry;
    let connect = format!("connecting may take {} ms", decision.connect_timeout);
    match (&decision.outcome, attempts) {
        (Outcome::Forward { .. }, 1..) => {
            format!("limits    {connect}; what may be repeated is retried up to {attempts} times, from {backoff} ms\n")
        }
        _ => format!("limits    {connect}\n"),
    }
}

impl Decision {
    fn tiers(&self) -> &[Tier] {
        match &self.outcome {
            Outcome::Forward { tiers } => tiers,
            Outcome::Passthrough | Outcome::Refuse => &[],
        }
    }

    /// Each once, in order.
    fn remote_clusters(&self) -> Vec<&str> {
        let mut clusters = Vec::new();
        for target in self.tiers().iter().flat_map(|tier| &tier.targets) {
            if let Target::Remote { cluster, .. } = target
                && !clusters.contains(&cluster.as_str())
            {
                clusters.push(cluster.as_str());
            }
        }
        clusters
    }
}

impl Target {
    fn tell(&self) -> String {
        match self {
            Self::Local { endpoint, address, expected: Some(identity) } => {
                format!("{endpoint} at {address} in this cluster, expecting {identity}")
            }
            Self::Local { endpoint, address, expected: None } => {
                format!("{endpoint} at {address} in this cluster, in plain text: it has no sidecar")
            }
            Self::Remote { cluster, group, expected, weight } => {
                let labels: Vec<_> = group.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                let labels = if labels.is_empty() { String::new() } else { format!(" ({})", labels.join(", ")) };
                let account = &group.service_account;
                format!("{cluster}: {account}{labels}, weight {weight}, expecting {}", expected.join(" or "))
            }
        }
    }
}

/// A reason as [`mesh::Reason`] says it; one that this version does not know, by its own words.
fn sentence(reason: &Value) -> String {
    known(reason).unwrap_or_else(|| {
        let Some(fields) = reason.as_object() else { return reason.to_string() };
        let name = reason["reason"].as_str().unwrap_or("?").replace('-', " ");
        let fields = fields.iter().filter(|(key, _)| *key != "reason");
        let fields: Vec<_> = fields.map(|(key, value)| format!("{key} {}", plain(value))).collect();
        if fields.is_empty() { name } else { format!("{name} ({})", fields.join(", ")) }
    })
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn known(reason: &Value) -> Option<String> {
    let cluster = || ClusterName::new(reason["cluster"].as_str()?).ok();
    let known = match reason["reason"].as_str()? {
        "not-in-mesh" => Reason::NotInMesh,
        "unknown-service" => Reason::UnknownService,
        "unknown-port" => Reason::UnknownPort { port: u16::try_from(reason["port"].as_u64()?).ok()? },
        "local-first" => Reason::LocalFirst { endpoints: usize::try_from(reason["endpoints"].as_u64()?).ok()? },
        "no-local-endpoint" => Reason::NoLocalEndpoint,
        "cluster-scope" => Reason::ClusterScope,
        "remote" => Reason::Remote {
            cluster: cluster()?,
            healthy: u32::try_from(reason["healthy"].as_u64()?).ok()?,
            stale: reason["stale"].as_bool()?,
        },
        // Its `why` is a constant of the sidecar's.
        "remote-unusable" => return Some(format!("{} cannot be used: {}", cluster()?, reason["why"].as_str()?)),
        "no-gateway" => Reason::NoGateway,
        "no-endpoint" => Reason::NoEndpoint,
        _ => return None,
    };
    Some(known.to_string())
}

/// What the own gateways have to the clusters that the decision names.
fn paths(gateways: &Map<String, Value>, clusters: &[&str]) -> String {
    let mut table = Table::new(&["  FROM", "TO", "ADDRESS", "USABLE", "RTT", "STREAMS"]);
    for (gateway, rows) in gateways {
        let from = format!("  {gateway}");
        let Ok(rows) = Vec::<Path>::deserialize(rows) else {
            let why = rows["error"].as_str().unwrap_or("its answer is not understood");
            table.row([from, String::new(), String::new(), format!("no: {why}"), String::new(), String::new()]);
            continue;
        };
        for path in rows.iter().filter(|path| clusters.contains(&path.cluster.as_str())) {
            let usable = match (path.usable, &path.last_error) {
                (true, _) => "yes".to_owned(),
                (false, Some(error)) => format!("no: {error}"),
                (false, None) => "no".to_owned(),
            };
            table.row([
                from.clone(),
                format!("{}/{}", path.cluster, path.remote_gateway),
                path.address.clone(),
                usable,
                path.rtt_ms.map(|ms| format!("{ms:.1} ms")).unwrap_or_default(),
                path.streams.to_string(),
            ]);
        }
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn explained(outcome: &Value, reasons: &Value) -> Value {
        json!({"host": "ratings.default.svc.clusterset.local", "port": 9080, "age_ms": null, "decision": {
            "revision": 7, "service": "default/ratings", "port": 9080, "protocol": "http", "outcome": outcome,
            "connect_timeout": 10000, "retry": {"attempts": 2, "backoff": 25}, "reasons": reasons}})
    }

    #[test]
    fn a_decision_reads_as_a_short_list() {
        let outcome = json!({"outcome": "forward", "tiers": [
            {"targets": [{"target": "local", "endpoint": "ratings-1", "address": "127.1.1.20:9080",
                "expected": "spiffe://east.demo/ns/default/sa/ratings"}]},
            {"targets": [{"target": "remote", "cluster": "west", "weight": 2,
                "group": {"service_account": "ratings", "labels": {"app": "ratings", "version": "v1"}},
                "expected": ["spiffe://west.demo/ns/default/sa/ratings"]}]}]});
        let reasons = json!([{"reason": "local-first", "endpoints": 1},
            {"reason": "remote", "cluster": "west", "healthy": 2, "stale": false}]);
        let path = json!({"path": "p", "cluster": "west", "remote_gateway": "gateway-1", "address": "127.1.2.2:15443",
            "usable": true, "rtt_ms": 0.51694999, "streams": 3, "last_error": null, "silent_ms": 0});
        let other = json!({"path": "p", "cluster": "north", "remote_gateway": "gateway-1", "address": "x",
            "usable": false, "rtt_ms": null, "streams": 0, "last_error": "timed out", "silent_ms": 9});
        let gateways = Map::from_iter([
            ("east/gateway-1".to_owned(), json!([path, other])),
            ("east/gateway-2".to_owned(), json!({"error": "cannot connect"})),
        ]);
        let expected = "\
from      east/web
to        ratings.default.svc.clusterset.local:9080
service   default/ratings, protocol http
view      revision 7, live
decision  forward to the first tier with a target that can be used
  tier 1
    ratings-1 at 127.1.1.20:9080 in this cluster, expecting spiffe://east.demo/ns/default/sa/ratings
  tier 2
    west: ratings (app=ratings, version=v1), weight 2, expecting spiffe://west.demo/ns/default/sa/ratings
because
  - 1 ready endpoints in this cluster come first
  - west has 2 healthy endpoints
limits    connecting may take 10000 ms; what may be repeated is retried up to 2 times, from 25 ms
paths to west
  FROM            TO              ADDRESS          USABLE              RTT     STREAMS
  east/gateway-1  west/gateway-1  127.1.2.2:15443  yes                 0.5 ms  3
  east/gateway-2  -               -                no: cannot connect  -       -
";
        assert_eq!(tell("east/web", &explained(&outcome, &reasons), &gateways).expect("understood"), expected);
    }

    #[test]
    fn a_refusal_says_why_and_nothing_else() {
        let mut answer = explained(&json!({"outcome": "refuse"}), &json!([{"reason": "unknown-service"}]));
        answer["age_ms"] = json!(6452);
        let told = tell("east/web", &answer, &Map::new()).expect("understood");
        assert!(told.contains("view      revision 7, the last one: no contact with the agent for 6 s\n"), "{told}");
        assert!(told.ends_with("decision  refuse\nbecause\n  - no cluster exports such a service\n"), "{told}");
    }

    #[test]
    fn every_reason_of_a_route_is_said_as_the_mesh_says_it() {
        let west = || ClusterName::new("west").expect("a name");
        for reason in [
            Reason::NotInMesh,
            Reason::UnknownService,
            Reason::UnknownPort { port: 1 },
            Reason::LocalFirst { endpoints: 2 },
            Reason::NoLocalEndpoint,
            Reason::ClusterScope,
            Reason::Remote { cluster: west(), healthy: 3, stale: true },
            Reason::RemoteUnusable { cluster: west(), why: "no healthy endpoint" },
            Reason::NoGateway,
            Reason::NoEndpoint,
        ] {
            let value = serde_json::to_value(&reason).expect("JSON");
            assert_eq!(known(&value), Some(reason.to_string()), "{value}");
        }
        let newer = json!({"reason": "route-rule", "name": "canary", "weight": 5});
        assert_eq!(sentence(&newer), "route rule (name canary, weight 5)");
    }
}
