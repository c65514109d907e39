//! Partitions on the ground `netns`: an nftables table beside the fleet's own ones, which drops before they accept.

use crate::Scenario;

impl Scenario {
    /// Drops in a namespace whatever one of the matches says (`ip daddr 10.0.0.1`, `oifname "wan*"`), whether it is forwarded,
    /// received or sent there. Replaces an earlier cut.
    pub async fn cut(&self, namespace: &str, matches: &[&str]) {
        let mut script = String::from("add table inet cut; delete table inet cut; add table inet cut");
        for hook in ["forward", "input", "output"] {
            script.push_str(&format!("; add chain inet cut {hook} {{ type filter hook {hook} priority -10 ; }}"));
            for matched in matches {
                // Interfaces of the other direction do not exist in these hooks.
                let applies =
                    !(hook == "input" && matched.contains("oif") || hook == "output" && matched.contains("iif"));
                if applies {
                    script.push_str(&format!("; add rule inet cut {hook} {matched} counter drop"));
                }
            }
        }
        self.ok(&["fleet", "exec", namespace, "--", "nft", &script]).await;
    }

    /// Ends a cut.
    pub async fn heal(&self, namespace: &str) {
        self.ok(&["fleet", "exec", namespace, "--", "nft", "delete", "table", "inet", "cut"]).await;
    }

    /// The hub's leader, as the first node that answers knows it; `hub-2`.
    pub async fn hub_leader(&self) -> Result<String, String> {
        let operator =
            hub_client::OperatorCredential::load(&self.fleet.layout.operator()).map_err(|error| error.to_string())?;
        let client = operator.client().map_err(|error| error.to_string())?;
        let status = client.status().await.map_err(|error| error.to_string())?;
        if status.leader_id == 0 {
            Err("there is no leader".to_owned())
        } else {
            Ok(format!("hub-{}", status.leader_id))
        }
    }

    /// A row of `hubctl clusters`.
    pub async fn cluster_row(&self, cluster: &str) -> serde_json::Value {
        let rows = self.json(&["clusters", "-o", "json"]).await;
        let found = rows.as_array().and_then(|rows| rows.iter().find(|row| row["cluster"] == cluster)).cloned();
        found.unwrap_or_default()
    }
}
