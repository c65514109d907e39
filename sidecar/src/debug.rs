//! What an operator may ask the sidecar: readiness, figures, and what it would decide.

use discovery::Client;
use proxy::outbound::Outbound;
use serde_json::{Value, json};
use telemetry::{Admin, Readiness, Registry};

/// The admin API of a sidecar.
pub(crate) fn admin_api(client: &Client, outbound: &Outbound, registry: Registry, readiness: Readiness) -> Admin {
    let (explained, explaining) = (client.clone(), outbound.clone());
    let (viewed, pooled) = (client.clone(), outbound.clone());
    Admin::new(registry, readiness)
        .route("/debug/explain", move |query| {
            let (client, outbound) = (explained.clone(), explaining.clone());
            async move {
                let port = query.get("port").and_then(|port| port.parse().ok());
                let (Some(host), Some(port)) = (query.get("host"), port) else {
                    return json!({"error": "host and port are needed", "hint": "/debug/explain?host=reviews.default&port=9080"});
                };
                let decision = outbound.decide(host, port).await;
                json!({"host": host, "port": port, "age_ms": age(&client), "decision": to_json(&decision)})
            }
        })
        .route("/debug/view", move |_| {
            let client = viewed.clone();
            async move {
                let view = client.view().borrow().clone();
                json!({"age_ms": age(&client), "view": to_json(&*view)})
            }
        })
        .route("/debug/pools", move |_| {
            let outbound = pooled.clone();
            async move { to_json(&outbound.pools()) }
        })
}

fn age(client: &Client) -> Option<u64> {
    client.age().map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}

/// What cannot be written as JSON is replaced by the reason.
fn to_json(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_else(|error| json!({"error": error.to_string()}))
}
