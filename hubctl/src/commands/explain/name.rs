//! `hubctl explain --name`: what the DNS shims answer, and why.

use anyhow::Result;
use fleet::http::get_json;
use fleet::plan::{ClusterPlan, at, port};
use fleet::{Fleet, Hint};
use serde_json::{Value, json};

use super::{WITHIN, escape};
use crate::cli::Explain;
use crate::commands::proxy::find;
use crate::context::Context;
use crate::output;

pub(super) async fn run(context: &Context, fleet: &Fleet, name: &str, options: &Explain) -> Result<u8> {
    let clusters: Vec<&ClusterPlan> = match &options.from {
        Some(from) => vec![find(fleet, from)?.cluster],
        None => fleet.plan().clusters.iter().collect(),
    };
    let path = format!("/debug/explain?name={}&type={}", escape(name), escape(&options.kind));
    let mut answers = serde_json::Map::new();
    let mut text = String::new();
    for cluster in clusters {
        let answer = match get_json(at(cluster.dns, port::ADMIN), &path, WITHIN).await {
            Ok(answer) => answer,
            Err(error) => json!({"error": format!("{error:#}"), "hint": "does the shim run? see hubctl fleet status"}),
        };
        if let (Some(error), true) = (answer["error"].as_str(), options.from.is_some()) {
            return Err(Hint::error(error, answer["hint"].as_str().unwrap_or("see hubctl explain --help")));
        }
        text.push_str(&tell(cluster.name.as_str(), &answer));
        answers.insert(cluster.name.to_string(), answer);
    }
    match context.output.is_document() {
        true => output::document(context.output, &json!({"name": name, "type": options.kind, "answers": answers}))?,
        false => output::text(&text)?,
    }
    Ok(0)
}

/// One shim's answer, a line for each record and reason.
fn tell(cluster: &str, answer: &Value) -> String {
    if let Some(error) = answer["error"].as_str() {
        return format!("{cluster}: {error}\n");
    }
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let outcome = &answer["decision"]["outcome"];
    let (what, records) = match outcome {
        Value::String(kind) => (spoken(kind).to_owned(), Vec::new()),
        outcome if outcome["follow"].is_object() => {
            let to = text(&outcome["follow"]["to"]);
            (format!("aliases, then what upstream says of {to}"), list(&outcome["follow"]["aliases"]))
        }
        outcome => ("these records".to_owned(), list(&outcome["records"])),
    };
    let mut said = format!("{cluster}: {} {}: {what}\n", text(&answer["name"]), text(&answer["type"]));
    for record in records {
        said.push_str(&format!("  {} {} {}\n", text(&record["name"]), record["ttl"], data(&record["data"])));
    }
    for reason in answer["because"].as_array().into_iter().flatten() {
        said.push_str(&format!("  because: {}\n", text(reason)));
    }
    said
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn spoken(outcome: &str) -> &str {
    match outcome {
        "nx-domain" => "NXDOMAIN",
        "no-data" => "no data (NOERROR with the SOA)",
        "start" => "the zone's SOA",
        "forward" => "what upstream says",
        other => other,
    }
}

/// `A 10.0.0.1`, `SRV 50 9080 name`; what is not known here as its JSON.
fn data(data: &Value) -> String {
    let known = data.as_object().and_then(|data| data.iter().next());
    let Some((kind, value)) = known else { return data.to_string() };
    let plain = || value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match kind.as_str() {
        "address" if plain().contains(':') => format!("AAAA {}", plain()),
        "address" => format!("A {}", plain()),
        "alias" => format!("CNAME {}", plain()),
        "name" => format!("PTR {}", plain()),
        "text" => format!("TXT {}", plain()),
        "port" => {
            let target = value["target"].as_str().unwrap_or("?");
            format!("SRV 0 {} {} {target}", value["weight"], value["port"])
        }
        _ => data.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_with_their_reasons() {
        let answer = |outcome: Value| json!({"name": "a.b", "type": "A", "decision": {"outcome": outcome}, "because": ["it is so"]});
        let records = json!({"records": [
            {"name": "a.b", "ttl": 5, "data": {"address": "10.0.0.1"}},
            {"name": "a.b", "ttl": 5, "data": {"port": {"weight": 50, "port": 80, "target": "c"}}},
        ]});
        let cases = [
            (records, "east: a.b A: these records\n  a.b 5 A 10.0.0.1\n  a.b 5 SRV 0 50 80 c\n  because: it is so\n"),
            (json!("nx-domain"), "east: a.b A: NXDOMAIN\n  because: it is so\n"),
            (
                json!({"follow": {"aliases": [{"name": "a.b", "ttl": 5, "data": {"alias": "x.y"}}], "to": "x.y"}}),
                "east: a.b A: aliases, then what upstream says of x.y\n  a.b 5 CNAME x.y\n  because: it is so\n",
            ),
        ];
        for (outcome, expected) in cases {
            assert_eq!(tell("east", &answer(outcome.clone())), expected, "{outcome}");
        }
        assert_eq!(tell("east", &json!({"error": "gone"})), "east: gone\n");
    }
}
