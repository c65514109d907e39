//! The first half: who serves a cross-cluster request, through which gateways, with which verified identity.

use std::time::Duration;

use anyhow::{Context as _, Result};
use fleet::call::Call;
use fleet::echo::Answer;
use fleet::{Fleet, Hint};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use super::{Clock, Figures};
use crate::output::{self, Table};

/// The service that only `west` exports.
pub(super) const HOST: &str = "reviews.default.svc.clusterset.local:9080";
/// The workload that calls it.
pub(super) const FROM: &str = "east/web";
/// How many requests the story tells of.
const REQUESTS: usize = 6;
/// An access-log line is written soon after the answer.
const LOG_WITHIN: Duration = Duration::from_secs(3);

/// What one request showed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Told {
    /// `cluster/pod` that served.
    served_by: String,
    /// Source gateway and destination gateway, from the sidecar's access log.
    through: String,
    /// The client's identity as the server's sidecar verified it.
    client_identity: String,
    /// From the request to the end of the answer.
    ms: f64,
}

pub(super) async fn tell(fleet: &Fleet, clock: Clock, figures: &mut Figures) -> Result<()> {
    let (cluster, pod) = fleet.meshed_pod(FROM)?;
    clock.say(&format!("{FROM} calls http://{HOST}/, which only west exports"));
    let log = fleet.layout.log(&format!("{}/{}/sidecar", cluster.name, pod.name));
    for number in 1..=REQUESTS {
        let path = format!("/demo/{number}");
        let began = Instant::now();
        let reply = Call::get(pod.proxy(), &format!("http://{HOST}{path}"))?.send().await?;
        let ms = (began.elapsed().as_secs_f64() * 10_000.0).round() / 10.0;
        if number == 1 {
            figures.first_answer_s = clock.seconds();
        }
        let status = reply.status.context("no status")?;
        if !status.is_success() {
            let message = format!("{FROM} got {status}: {}", String::from_utf8_lossy(&reply.body).trim());
            return Err(Hint::error(message, "run `hubctl demo --keep`, then `hubctl check`"));
        }
        let answer: Answer = serde_json::from_slice(&reply.body).context("the answer is not the echo server's")?;
        figures.answers.push(Told {
            served_by: format!("{}/{}", answer.whoami.cluster, answer.whoami.pod),
            through: gateways(&log, &path).await,
            client_identity: answer.client_identity,
            ms,
        });
    }
    let mut table = Table::new(&["SERVED BY", "THROUGH", "CLIENT IDENTITY, VERIFIED BY THE SERVER'S SIDECAR", "MS"]);
    for told in &figures.answers {
        let cells = [&told.served_by, &told.through, &told.client_identity].map(Clone::clone);
        table.row(cells.into_iter().chain([format!("{:.1}", told.ms)]));
    }
    output::text(&table.render())?;
    clock.say("the gateways carried mTLS that they cannot read: the identity went from sidecar to sidecar");
    Ok(())
}

/// Which gateways a request took, from the access log of the sidecar that sent it.
async fn gateways(log: &std::path::Path, path: &str) -> String {
    let deadline = Instant::now() + LOG_WITHIN;
    loop {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        if let Some(via) = text.lines().rev().find_map(|line| via(line, path)) {
            return via;
        }
        if Instant::now() >= deadline {
            return "not logged".to_owned();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// `gateway-1 -> gateway-2` of an access-log line about `path`.
fn via(line: &str, path: &str) -> Option<String> {
    let record: Value = serde_json::from_str(line).ok()?;
    if record["path"] != path {
        return None;
    }
    let name = |field: &str| record["gateways"][field].as_str().unwrap_or("?").to_owned();
    Some(match record["gateways"] {
        Value::Object(_) => format!("{} -> {}", name("source_gateway"), name("gateway")),
        _ => "no gateway".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateways_of_a_request_are_read_from_its_log_line() {
        let line = r#"{"path":"/demo/1","gateways":{"source_gateway":"gateway-1","gateway":"gateway-2","path":"x"}}"#;
        assert_eq!(via(line, "/demo/1").as_deref(), Some("gateway-1 -> gateway-2"));
        assert_eq!(via(line, "/demo/2"), None);
        assert_eq!(via("no json", "/demo/1"), None);
        assert_eq!(via(r#"{"path":"/demo/1","gateways":null}"#, "/demo/1").as_deref(), Some("no gateway"));
    }
}
