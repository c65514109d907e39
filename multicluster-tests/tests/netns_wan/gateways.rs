//! What gateways say of their paths.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use fleet::http::{get, get_json};
use fleet::plan::port;
use multicluster_tests::{Scenario, eventually};
use serde_json::Value;
use tokio::time::Instant;

const WITHIN: Duration = Duration::from_secs(5);

fn admin(gateway: Ipv4Addr) -> SocketAddr {
    SocketAddr::from((gateway, port::ADMIN))
}

/// The rows of `/debug/paths` of both gateways of east.
pub(crate) async fn paths(scenario: &Scenario) -> Vec<Value> {
    let mut rows = Vec::new();
    for gateway in &scenario.fleet.cluster("east").expect("east").gateways {
        let shown = get_json(admin(gateway.ip), "/debug/paths", WITHIN).await.expect("the gateway answers");
        rows.extend(shown["paths"].as_array().or(shown.as_array()).cloned().unwrap_or_default());
    }
    rows
}

/// The sum of a counter over the gateways of both clusters.
pub(crate) async fn counter(scenario: &Scenario, name: &str) -> u64 {
    let mut sum = 0;
    for cluster in ["east", "west"] {
        for gateway in &scenario.fleet.cluster(cluster).expect("a cluster").gateways {
            let (_, body) = get(admin(gateway.ip), "/metrics", WITHIN).await.expect("the gateway answers");
            let text = String::from_utf8_lossy(&body).into_owned();
            let values = text.lines().filter(|line| line.starts_with(name));
            sum += values.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>();
        }
    }
    sum
}

/// How often connections were ejected so far.
pub(crate) async fn ejections(scenario: &Scenario) -> u64 {
    counter(scenario, "isthmus_gateway_ejections_total").await
}

/// Waits until new flows of both gateways of east take a transport on every path.
pub(crate) async fn until_transport(scenario: &Scenario, transport: &str, within: Duration) {
    eventually(&format!("new flows take {transport}"), within, async || {
        let rows = paths(scenario).await;
        let all = rows.len() >= 4 && rows.iter().all(|row| row["transport"] == transport && row["usable"] == true);
        if all { Ok(()) } else { Err(serde_json::json!(rows).to_string()) }
    })
    .await;
}

/// Waits until no path of east to a gateway of west is used any more, and tells how long that took.
pub(crate) async fn until_unusable(scenario: &Scenario, gateway: &str) -> Duration {
    let begun = Instant::now();
    eventually(&format!("no path to {gateway} is usable"), Duration::from_secs(10), async || {
        let rows = paths(scenario).await;
        let left = rows.iter().any(|row| row["remote_gateway"] == gateway && row["usable"] == true);
        if left { Err(serde_json::json!(rows).to_string()) } else { Ok(()) }
    })
    .await;
    begun.elapsed()
}
