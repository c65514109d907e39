//! `hubctl explain`: the decision that a proxy would act on now, what the servers that it chose would say to it, and the
//! paths that the cluster's gateways have.

mod aim;
mod name;
pub(in crate::commands) mod told;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use fleet::http::get_json;
use fleet::plan::{ClusterPlan, PodPlan, at, port};
use fleet::{Fleet, Hint};
use serde_json::{Value, json};

use super::proxy::{Proxy, find};
use crate::cli::Explain;
use crate::context::Context;
use crate::output;
use aim::Aim;
use told::Server;

/// One admin listener answers within this time.
const WITHIN: Duration = Duration::from_secs(5);
/// No more servers than these are asked.
const SERVERS_MAX: usize = 4;

pub(super) async fn run(context: &Context, options: Explain) -> Result<u8> {
    let fleet = context.fleet()?;
    if let Some(name) = &options.name {
        return name::run(context, &fleet, name, &options).await;
    }
    let (Some(caller), Some(to)) = (options.from.clone(), options.to.clone()) else {
        return Err(Hint::error("nothing to explain", "give --from and --to, or --name"));
    };
    let from = find(&fleet, &caller)?;
    let aim = Aim::parse(&fleet, from.edge, &to)?;
    if from.edge && aim.udp {
        return Err(Hint::error("ingress and egress gateways carry no UDP", "explain from a workload"));
    }
    let options = Explain { path: options.path.clone().or_else(|| aim.path.clone()), ..options };
    let host = &aim.host;
    let mut path = format!("/debug/explain?host={}&port={}", escape(host), aim.port);
    path.push_str(&request(&options));
    path.push_str(transport(&aim));
    let decision =
        get_json(from.admin, &path, WITHIN).await.with_context(|| format!("the proxy of {caller} does not explain"))?;
    if let Some(error) = decision["error"].as_str() {
        let hint = decision["hint"].as_str().filter(|_| from.edge).unwrap_or("see hubctl explain --help");
        return Err(Hint::error(error, hint));
    }
    let mut servers = Vec::new();
    if let Some(admission) = decision.get("admission") {
        servers.push(Server { role: "gateway", name: caller.clone(), answer: Ok(admission.clone()) });
    }
    for target in targets(&fleet, from.cluster, &decision) {
        servers.push(ask(&from, &target, &aim, &options).await);
    }
    let gateways = gateways(from.cluster).await;
    if context.output.is_document() {
        let answers: BTreeMap<&str, Value> =
            servers.iter().map(|server| (server.name.as_str(), server.document())).collect();
        output::document(
            context.output,
            &json!({
                "from": caller, "to": to, "decision": decision, "servers": answers, "gateways": gateways,
            }),
        )?;
    } else {
        output::text(&told::tell(&caller, &decision, &servers, &gateways)?)?;
    }
    Ok(0)
}

/// The parameter that says what carries it.
fn transport(aim: &Aim) -> &'static str {
    if aim.udp { "&transport=udp" } else { "" }
}

/// The parameters that describe a request.
fn request(options: &Explain) -> String {
    let mut parameters = String::new();
    let mut add = |name: &str, value: &str| parameters.push_str(&format!("&{name}={}", escape(value)));
    if let Some(method) = &options.method {
        add("method", method);
    }
    if let Some(path) = &options.path {
        add("path", path);
    }
    if let Some(sni) = &options.sni {
        add("sni", sni);
    }
    if !options.headers.is_empty() {
        add("headers", &options.headers.join("\n"));
    }
    parameters
}

/// Everything but letters, digits and `-._~` as `%XX`.
fn escape(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// A server that the decision may choose.
struct Chosen<'a> {
    cluster: &'a ClusterPlan,
    pod: &'a PodPlan,
    port: u64,
    /// It is spoken to with mTLS.
    mutual: bool,
}

/// The pods of the fleet behind the decision's targets: each local one, and the first of each remote group.
fn targets<'a>(fleet: &'a Fleet, own: &'a ClusterPlan, explained: &Value) -> Vec<Chosen<'a>> {
    let decision = &explained["decision"];
    let service = decision["service"].as_str().unwrap_or_default();
    let port = decision["port"].as_u64().unwrap_or_default();
    let tiers = decision["outcome"]["tiers"].as_array().into_iter().flatten();
    let targets = tiers.flat_map(|tier| tier["targets"].as_array().into_iter().flatten());
    let mutual =
        |target: &Value| target["expected"].as_array().map_or(target["expected"].is_string(), |ids| !ids.is_empty());
    let chosen = targets.filter_map(|target| {
        let (cluster, pod) = match target["target"].as_str()? {
            "local" => {
                let name = target["endpoint"].as_str()?;
                (own, own.pods.iter().find(|pod| pod.name == name)?)
            }
            "remote" => {
                let cluster = fleet.plan().cluster(target["cluster"].as_str()?)?;
                (cluster, member(cluster, service, &target["group"])?)
            }
            _ => return None,
        };
        pod.mesh.then(|| Chosen { cluster, pod, port, mutual: mutual(target) })
    });
    chosen.take(SERVERS_MAX).collect()
}

/// A pod of a remote group.
fn member<'a>(cluster: &'a ClusterPlan, service: &str, group: &Value) -> Option<&'a PodPlan> {
    let of = cluster.services.iter().find(|plan| format!("{}/{}", plan.namespace, plan.name) == service)?;
    let labels = group["labels"].as_object();
    cluster.pods.iter().find(|pod| {
        let labelled =
            labels.into_iter().flatten().all(|(key, value)| value.as_str() == pod.labels.get(key).map(String::as_str));
        of.pods.contains(&pod.name) && group["service_account"].as_str() == Some(&pod.service_account) && labelled
    })
}

async fn ask(from: &Proxy<'_>, chosen: &Chosen<'_>, aim: &Aim, options: &Explain) -> Server {
    let peer = if chosen.mutual { from.identity.as_str() } else { "" };
    let mut path = format!("/debug/authorize?port={}&peer={}&host={}", chosen.port, escape(peer), escape(&aim.host));
    path.push_str(&request(options));
    path.push_str(transport(aim));
    let name = format!("{}/{}", chosen.cluster.name, chosen.pod.name);
    let answer = get_json(chosen.pod.admin(), &path, WITHIN).await.map_err(|error| error.to_string());
    Server { role: "server", name, answer }
}

async fn gateways(cluster: &ClusterPlan) -> serde_json::Map<String, Value> {
    let mut gateways = serde_json::Map::new();
    for gateway in &cluster.gateways {
        let paths = match get_json(at(gateway.ip, port::ADMIN), "/debug/paths", WITHIN).await {
            Ok(paths) => paths,
            Err(error) => json!({"error": format!("{error:#}")}),
        };
        gateways.insert(format!("{}/{}", cluster.name, gateway.name), paths);
    }
    gateways
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_meaning_in_a_query_is_escaped() {
        assert_eq!(escape("/a?b=c&d: é"), "%2Fa%3Fb%3Dc%26d%3A%20%C3%A9");
    }
}
