//! Waits until what was written is in force: read by the agent, compiled, and acknowledged by its proxies. A level is
//! waited for, so that it does not matter what happened before the first look.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use fleet::Hint;
use fleet::http::get_json;
use fleet::plan::{ClusterPlan, at, port};
use fleet::wait::POLL;
use serde_json::Value;
use tokio::time::Instant;

/// How long it may take.
const WITHIN: Duration = Duration::from_secs(10);
/// One look takes no longer.
const LOOK: Duration = Duration::from_secs(2);

/// What the agent is to have read of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expected {
    /// The content with this digest.
    Digest(String),
    /// Nothing.
    Gone,
}

impl Expected {
    /// What a file holds now.
    pub(super) fn of_file(path: &Path) -> Self {
        match std::fs::read(path) {
            Ok(content) => Self::Digest(identity::root_hash(&content)),
            Err(_) => Self::Gone,
        }
    }
}

/// Waits. What was written stays written when this fails.
pub(super) async fn wait(cluster: &ClusterPlan, expected: &BTreeMap<String, Expected>) -> Result<()> {
    let deadline = Instant::now() + WITHIN;
    loop {
        let lacking = match look(cluster, expected).await {
            Ok(()) => return Ok(()),
            Err(lacking) => lacking,
        };
        if Instant::now() >= deadline {
            let message = format!("written, but not in force after {} s: {lacking}", WITHIN.as_secs());
            let hint = format!("see `hubctl fleet status` and `hubctl fleet logs {}/agent`", cluster.name);
            return Err(Hint::error(message, hint));
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn look(cluster: &ClusterPlan, expected: &BTreeMap<String, Expected>) -> Result<(), String> {
    let agent = at(cluster.agent, port::ADMIN);
    let ask = async |path| get_json(agent, path, LOOK).await.map_err(|error| format!("the agent: {error}"));
    let source = ask("/debug/source").await?;
    read_by_agent(&source, expected)?;
    // What is newer than the files is made of them as well.
    let revision = ask("/debug/snapshot").await?["revision"].as_u64().ok_or("the agent has no snapshot yet")?;
    acknowledged(&ask("/debug/clients").await?, revision)
}

fn read_by_agent(source: &Value, expected: &BTreeMap<String, Expected>) -> Result<(), String> {
    for (file, expected) in expected {
        let row = source["files"].as_array().into_iter().flatten().find(|row| row["file"] == **file);
        if let Some(error) = row.and_then(|row| row["error"].as_str()) {
            return Err(format!("the agent refuses {file}: {error}"));
        }
        let in_force = source["in_force"][file].as_str();
        let reached = match expected {
            Expected::Digest(digest) => in_force == Some(digest),
            Expected::Gone => in_force.is_none(),
        };
        if !reached {
            return Err(format!("the agent has not compiled {file}"));
        }
    }
    Ok(())
}

/// A proxy that refused something says so itself; waiting for it would be in vain.
fn acknowledged(clients: &Value, revision: u64) -> Result<(), String> {
    for client in clients["clients"].as_array().into_iter().flatten() {
        let node = client["node"].as_str().unwrap_or("a proxy");
        let kinds = client["kinds"].as_object().into_iter().flatten();
        for (kind, progress) in kinds {
            if let Some(refused) = progress["refused"].as_str() {
                return Err(format!("{node} refuses {kind}: {refused}"));
            }
            if progress["acked_revision"].as_u64().is_some_and(|acked| acked < revision) {
                return Err(format!("{node} has not acknowledged revision {revision} of {kind}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_level_is_reached_when_agent_and_proxies_have_it() {
        let expected = BTreeMap::from([
            ("a.yaml".to_owned(), Expected::Digest("sha256:1".to_owned())),
            ("b.yaml".to_owned(), Expected::Gone),
        ]);
        let source = json!({"files": [{"file": "a.yaml", "error": null}], "in_force": {"a.yaml": "sha256:1"}});
        assert_eq!(read_by_agent(&source, &expected), Ok(()));
        let older = json!({"files": [], "in_force": {"a.yaml": "sha256:0", "b.yaml": "sha256:2"}});
        assert_eq!(read_by_agent(&older, &expected), Err("the agent has not compiled a.yaml".to_owned()));
        let refused = json!({"files": [{"file": "a.yaml", "error": "port"}], "in_force": {}});
        assert_eq!(read_by_agent(&refused, &expected), Err("the agent refuses a.yaml: port".to_owned()));
        let at = |acked: u64| json!({"clients": [{"node": "web", "kinds": {"service": {"acked_revision": acked, "refused": null}}}]});
        assert_eq!(acknowledged(&at(7), 7), Ok(()));
        assert!(acknowledged(&at(6), 7).is_err());
    }
}
