//! Configuration of a running fleet: applied as a user would, and awaited until every proxy has it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fleet::http::get_json;
use fleet::plan::{at, port};
use serde_json::{Value, json};

use crate::{Scenario, eventually};

/// How long a change may take from the file to the last proxy.
const SETTLED: Duration = Duration::from_secs(20);
/// How long a debug page may take.
const LOOK: Duration = Duration::from_secs(5);

/// Numbers of fences and files: unique in the process, so that no two changes look alike.
static NEXT: AtomicU64 = AtomicU64::new(1);

impl Scenario {
    /// Applies manifests with `hubctl fleet apply`, and waits until every proxy of the cluster has them.
    pub async fn apply(&self, cluster: &str, manifests: &str) {
        self.change("apply", cluster, manifests).await;
        self.settle(cluster).await;
    }

    /// Deletes manifests with `hubctl fleet delete`, and waits until no proxy of the cluster has them.
    pub async fn delete(&self, cluster: &str, manifests: &str) {
        self.change("delete", cluster, manifests).await;
        self.settle(cluster).await;
    }

    /// Applies one of the files in `acceptance/`, as it is.
    pub async fn apply_example(&self, cluster: &str, name: &str) {
        self.ok(&["fleet", "apply", cluster, "-f", &example(name)]).await;
        self.settle(cluster).await;
    }

    /// Deletes what one of the files in `acceptance/` says.
    pub async fn delete_example(&self, cluster: &str, name: &str) {
        self.ok(&["fleet", "delete", cluster, "-f", &example(name)]).await;
        self.settle(cluster).await;
    }

    /// What `hubctl fleet apply` says against manifests that it must refuse.
    pub async fn refused(&self, cluster: &str, manifests: &str) -> String {
        let path = self.scratch(manifests);
        self.fails(&["fleet", "apply", cluster, "-f", &path]).await
    }

    /// Starts all east-west gateways anew with another section `tunnel`, in YAML: `{congestion: cubic}`.
    pub async fn set_tunnels(&self, tunnel: &str) {
        for cluster in &self.fleet.plan().clusters {
            for gateway in &cluster.gateways {
                let file =
                    self.fleet.layout.component(cluster.name.as_str(), gateway.name.as_str()).join("gateway.yaml");
                let text = std::fs::read_to_string(&file).expect("the gateway has a configuration");
                let text = text.split("\ntunnel:").next().unwrap_or_default();
                std::fs::write(&file, format!("{text}\ntunnel: {tunnel}\n"))
                    .expect("the fleet's directory is writable");
                let name = format!("{}/{}", cluster.name, gateway.name);
                self.ok(&["fleet", "kill", &name]).await;
                self.ok(&["fleet", "start", &name]).await;
            }
        }
    }

    async fn change(&self, verb: &str, cluster: &str, manifests: &str) {
        let path = self.scratch(manifests);
        self.ok(&["fleet", verb, cluster, "-f", &path]).await;
    }

    /// A file of this text beside the fleet.
    fn scratch(&self, text: &str) -> String {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = self.path().with_extension(format!("{number}.yaml"));
        std::fs::write(&path, text).expect("the directory of the test is writable");
        path.display().to_string()
    }

    /// Waits until every proxy of a cluster has acknowledged what the cluster's directory says now.
    ///
    /// A marker of its own name is written last: a snapshot that has it has everything that was written before. Proxies
    /// that acknowledged the revision of that snapshot decide by it.
    pub async fn settle(&self, cluster: &str) {
        let plan = self.fleet.cluster(cluster).expect("the cluster exists");
        let admin = at(plan.agent, port::ADMIN);
        let fence = self.fence(cluster);
        let what = format!("{cluster}'s agent has read {fence}");
        let revision = eventually(&what, SETTLED, async || {
            let snapshot = get_json(admin, "/debug/snapshot", LOOK).await.map_err(|error| error.to_string())?;
            let kinds = snapshot["resources"].as_object().ok_or("no resources")?;
            let found = kinds.values().any(|names| names.get(format!("default/{fence}")).is_some());
            snapshot["revision"].as_u64().filter(|_| found).ok_or_else(|| "not in the snapshot".to_owned())
        });
        let revision = revision.await;
        eventually(&format!("{cluster}'s proxies have revision {revision}"), SETTLED, async || {
            let clients = get_json(admin, "/debug/clients", LOOK).await.map_err(|error| error.to_string())?;
            let clients = clients["clients"].as_array().ok_or("no clients")?;
            match clients.iter().find(|client| !has(client, revision)) {
                Some(behind) => Err(format!("behind: {behind}")),
                None => Ok(()),
            }
        })
        .await;
    }

    fn fence(&self, cluster: &str) -> String {
        let directory = self.fleet.layout.manifests(cluster);
        let files = std::fs::read_dir(&directory).expect("the manifests are readable").flatten();
        let old: Vec<_> = files.filter(|file| file.file_name().to_string_lossy().contains(".fence-")).collect();
        let name = format!("fence-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"ports": [{"port": 1}]},
        });
        fleet::manifests::apply(&directory, &[service]).expect("the manifests are writable");
        for file in old {
            std::fs::remove_file(file.path()).expect("a fence can be removed");
        }
        name
    }

    /// What an agent has against the configuration that it compiled.
    pub async fn findings(&self, cluster: &str) -> Value {
        let plan = self.fleet.cluster(cluster).expect("the cluster exists");
        let source = get_json(at(plan.agent, port::ADMIN), "/debug/source", LOOK).await;
        source.expect("the agent answers")["findings"].take()
    }
}

/// Whether a client is up to date with every kind of which it has anything.
fn has(client: &Value, revision: u64) -> bool {
    let kinds = client["kinds"].as_object().into_iter().flat_map(|kinds| kinds.values());
    let held = kinds.filter(|kind| kind["resources"].as_u64() != Some(0));
    held.map(|kind| kind["acked_revision"].as_u64().unwrap_or(0)).all(|acked| acked >= revision)
}

fn example(name: &str) -> String {
    format!("{}/acceptance/{name}", env!("CARGO_MANIFEST_DIR"))
}
