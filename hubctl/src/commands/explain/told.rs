//! A decision in words. What the sidecar and the gateways say is read as their JSON, so that what is not understood here
//! is still shown by its own name.

mod clusters;
pub(in crate::commands) mod how;
mod paths;
mod server;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::{Map, Value};

pub(super) use server::Server;

/// `/debug/explain` of a sidecar.
#[derive(Debug, Deserialize)]
struct Explained {
    host: String,
    port: u16,
    /// Time since the last contact with the agent; absent while connected.
    age_ms: Option<u64>,
    decision: Decision,
    /// Method and path, if it is an HTTP request.
    request: Option<String>,
    /// The reasons in the words of the proxy that has them.
    #[serde(default)]
    because: Vec<String>,
    /// How requests are divided between clusters right now.
    #[serde(default)]
    division: Value,
}

/// [`mesh::RouteDecision`], as its JSON says it; what only some decisions have is looked at in `how`.
#[derive(Debug, Deserialize)]
struct Decision {
    revision: u64,
    service: Option<String>,
    protocol: String,
    outcome: Outcome,
    reasons: Vec<Value>,
    #[serde(flatten)]
    how: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
enum Outcome {
    Forward { tiers: Vec<Tier> },
    Passthrough,
    Redirect { status: u16, location: String },
    Direct,
    Refuse,
}

#[derive(Debug, Deserialize)]
struct Tier {
    targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "target")]
enum Target {
    Local {
        endpoint: String,
        address: String,
        expected: Option<String>,
    },
    Named {
        host: String,
        port: u16,
    },
    Remote {
        cluster: String,
        group: Group,
        expected: Vec<String>,
        weight: u32,
        #[serde(default)]
        unmeshed: bool,
    },
}

#[derive(Debug, Deserialize)]
struct Group {
    service_account: String,
    labels: BTreeMap<String, String>,
}

/// The whole answer as text.
pub(super) fn tell(from: &str, explained: &Value, servers: &[Server], gateways: &Map<String, Value>) -> Result<String> {
    let Explained { host, port, age_ms, decision, request, because, division } =
        Explained::deserialize(explained).context("the sidecar's answer is not understood; see it with -o json")?;
    let mut text = format!("from      {from}\nto        {host}:{port}\n");
    let mut line = |label: &str, value: &str| text.push_str(&format!("{label:<9} {value}\n"));
    if let Some(request) = &request {
        line("request", request);
    }
    if let Some(service) = &decision.service {
        line("service", &format!("{service}, protocol {}", decision.protocol));
    }
    line("view", &view(decision.revision, age_ms));
    line("decision", &decision.tell());
    for (number, tier) in decision.tiers().iter().enumerate() {
        text.push_str(&format!("  tier {}\n", number + 1));
        text.extend(tier.targets.iter().map(|target| format!("    {}\n", target.tell())));
    }
    text.push_str("because\n");
    let sentences = if because.is_empty() { decision.reasons.iter().map(sentence).collect() } else { because };
    text.extend(sentences.iter().map(|sentence| format!("  - {sentence}\n")));
    if let Some(clusters) = clusters::tell(decision.how.get("across"), &division) {
        text.push_str(&format!("clusters  {clusters}\n"));
    }
    if !matches!(decision.outcome, Outcome::Refuse) {
        text.push_str(&how::tell(&decision.how, matches!(decision.outcome, Outcome::Forward { .. })));
    }
    for server in servers {
        text.push_str(&server.tell());
    }
    let remote = decision.remote_clusters();
    if !remote.is_empty() {
        text.push_str(&format!("paths to {}\n{}", remote.join(", "), paths::paths(gateways, &remote)));
    }
    Ok(text)
}

fn view(revision: u64, age_ms: Option<u64>) -> String {
    match age_ms {
        None => format!("revision {revision}, live"),
        Some(ms) => format!("revision {revision}, the last one: no contact with the agent for {} s", ms / 1000),
    }
}

impl Decision {
    fn tell(&self) -> String {
        match &self.outcome {
            Outcome::Forward { tiers } if tiers.len() == 1 => "forward".to_owned(),
            Outcome::Forward { .. } => "forward to the first tier with a target that can be used".to_owned(),
            Outcome::Passthrough => "pass through: dial what the client named, without the mesh".to_owned(),
            Outcome::Redirect { status, location } => format!("answer {status} with location: {location}"),
            Outcome::Direct => "answer with the rule's direct response".to_owned(),
            Outcome::Refuse => "refuse".to_owned(),
        }
    }

    fn tiers(&self) -> &[Tier] {
        match &self.outcome {
            Outcome::Forward { tiers } => tiers,
            _ => &[],
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
            Self::Named { host, port } => format!("{host}:{port}, outside the mesh"),
            Self::Remote { cluster, group, expected, weight, unmeshed } => {
                let labels: Vec<_> = group.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                let labels = if labels.is_empty() { String::new() } else { format!(" ({})", labels.join(", ")) };
                let account = &group.service_account;
                let expected = expected.join(" or ");
                let last =
                    if *unmeshed { "; no sidecar: a gateway there proves it, the last hop is plain" } else { "" };
                format!("{cluster}: {account}{labels}, weight {weight}, expecting {expected}{last}")
            }
        }
    }
}

/// A reason by its own words, where the proxy that has it does not say it in a sentence.
fn sentence(reason: &Value) -> String {
    let Some(fields) = reason.as_object() else { return reason.to_string() };
    let name = reason["reason"].as_str().unwrap_or("?").replace('-', " ");
    let fields = fields.iter().filter(|(key, _)| *key != "reason");
    let fields: Vec<_> = fields.map(|(key, value)| format!("{key} {}", plain(value))).collect();
    if fields.is_empty() { name } else { format!("{name} ({})", fields.join(", ")) }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn explained(outcome: &Value, reasons: &Value) -> Value {
        json!({"host": "ratings.default.svc.clusterset.local", "port": 9080, "age_ms": null, "decision": {
            "revision": 7, "service": "default/ratings", "port": 9080, "protocol": "http", "outcome": outcome,
            "connect_timeout": 10000, "retry": {"attempts": 2, "backoff": 25}, "fault": {}, "reasons": reasons}})
    }

    #[test]
    fn a_decision_reads_as_a_short_list() {
        let outcome = json!({"outcome": "forward", "tiers": [
            {"targets": [{"target": "local", "endpoint": "ratings-1", "address": "127.1.1.20:9080",
                "expected": "spiffe://east.demo/ns/default/sa/ratings"}]},
            {"targets": [{"target": "remote", "cluster": "west", "weight": 2,
                "group": {"service_account": "ratings", "labels": {"app": "ratings", "version": "v1"}},
                "expected": ["spiffe://west.demo/ns/default/sa/ratings"]}]}]});
        let because = ["1 ready endpoints in this cluster come first", "west has 2 healthy endpoints"];
        let path = json!({"path": "p", "cluster": "west", "remote_gateway": "gateway-1", "address": "127.1.2.2:15443",
            "usable": true, "rtt_ms": 0.51694999, "streams": 3, "last_error": null, "silent_ms": 0, "transport": "tcp",
            "connections": [{"transport": "quic", "usable": true}, {"transport": "tcp", "usable": true}]});
        let other = json!({"path": "p", "cluster": "north", "remote_gateway": "gateway-1", "address": "x",
            "usable": false, "rtt_ms": null, "streams": 0, "last_error": "timed out", "silent_ms": 9});
        let gateways = Map::from_iter([
            ("east/gateway-1".to_owned(), json!([path, other])),
            ("east/gateway-2".to_owned(), json!({"error": "cannot connect"})),
        ]);
        let expected = "\
from      east/web
to        ratings.default.svc.clusterset.local:9080
request   GET /
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
  FROM            TO              ADDRESS          USABLE              OVER    RTT     STREAMS
  east/gateway-1  west/gateway-1  127.1.2.2:15443  yes                 tcp x1  0.5 ms  3
  east/gateway-2  -               -                no: cannot connect  -       -       -
";
        let mut answer = explained(&outcome, &json!([]));
        answer["because"] = json!(because);
        answer["request"] = json!("GET /");
        assert_eq!(tell("east/web", &answer, &[], &gateways).expect("understood"), expected);
    }

    #[test]
    fn a_refusal_says_why_and_nothing_else() {
        let mut answer = explained(&json!({"outcome": "refuse"}), &json!([{"reason": "unknown-service"}]));
        answer["age_ms"] = json!(6452);
        let told = tell("east/web", &answer, &[], &Map::new()).expect("understood");
        assert!(told.contains("view      revision 7, the last one: no contact with the agent for 6 s\n"), "{told}");
        assert!(told.ends_with("decision  refuse\nbecause\n  - unknown service\n"), "{told}");
    }

    #[test]
    fn a_reason_without_a_sentence_is_said_by_its_own_words() {
        let newer = json!({"reason": "route-rule", "name": "canary", "weight": 5});
        assert_eq!(sentence(&newer), "route rule (name canary, weight 5)");
    }

    #[test]
    fn the_rule_the_policy_and_the_server_are_told() {
        let mut answer = explained(
            &json!({"outcome": "forward", "tiers": [{"targets": [{"target": "local", "endpoint": "reviews-2",
                "address": "127.1.1.21:9080", "expected": null, "weight": 1}]}]}),
            &json!([]),
        );
        answer["because"] = json!(["VirtualService default/reviews spec.http[0] (canary)"]);
        answer["decision"]["subset"] = json!("v2");
        answer["decision"]["timeout"] = json!(5000);
        answer["decision"]["fault"] = json!({"delay": 2000});
        let place = |subset: &str, weight: u32| json!({"destination": {"host": {"cluster": "default/reviews"}, "subset": subset}, "weight": weight});
        answer["decision"]["rule"] = json!({
            "origin": {"object": {"kind": "VirtualService", "namespace": "default", "name": "reviews"}, "path": "spec.http[0]"},
            "action": {"route": [place("v1", 90), place("v2", 10)]},
            "fault": {"delay": {"share": mesh::Share::of_percent(10.0), "delay": 2000}},
        });
        answer["decision"]["policy_origin"] =
            json!({"kind": "DestinationRule", "namespace": "default", "name": "reviews"});
        answer["decision"]["policy"] =
            serde_json::to_value(mesh::TrafficPolicy { balancer: mesh::Balancer::RoundRobin, ..Default::default() })
                .expect("JSON");
        let server = Server {
            role: "server",
            name: "east/reviews-2".to_owned(),
            answer: Ok(json!({
                "revision": 9,
                "transport": {"outcome": {"Ok": {"number": 9080}}, "reasons": []},
                "authorization": {"outcome": {"Err": "policy"}, "reasons": []},
                "because": ["denied: policy"], "tokens": [], "limits": [],
            })),
        };
        let told = tell("east/web", &answer, &[server], &Map::new()).expect("understood");
        let expected = "\
because
  - VirtualService default/reviews spec.http[0] (canary)
subset    v2
policy    DestinationRule default/reviews: round-robin
shares    reviews.default.svc.cluster.local subset v1 (90), reviews.default.svc.cluster.local subset v2 (10); one was drawn
timeout   5000 ms
faults    delay of 2000 ms for 10 %
drawn     delay this time
limits    connecting may take 10000 ms; what may be repeated is retried up to 2 times, from 25 ms
server    east/reviews-2 (revision 9) refuses: policy
  - denied: policy
";
        assert!(told.ends_with(expected), "{told}");
    }
}
