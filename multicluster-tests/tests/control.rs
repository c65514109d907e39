//! What an operator does with a running mesh, through `hubctl`, and what it must never give away.

#![expect(clippy::panic, clippy::unwrap_used, reason = "whatever fails here is a failed test")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use multicluster_tests::{REVIEWS, SMALL, Scenario};
use rustix::process::Signal;
use serde_json::Value;

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    entries
        .flat_map(|entry| {
            let path = entry.path();
            if path.is_dir() { files_below(&path) } else { vec![path] }
        })
        .collect()
}

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_private_and_no_log_holds_a_secret() {
    let scenario = Scenario::up(SMALL).await;
    scenario.get("9080/").await;
    let token = scenario.json(&["token", "create", "--cluster", "north", "-o", "json"]).await;
    let token = token["token"].as_str().expect("a token").to_owned();
    let mut secrets = vec![token.split_once('.').expect("<id>.<secret>").1.to_owned(), "PRIVATE KEY".to_owned()];
    let mut keys = 0;
    for path in files_below(scenario.path()) {
        let content = text(&path);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name == "credential.json" {
            let credential: Value = serde_json::from_str(&content).unwrap();
            secrets.push(credential["secret"].as_str().expect("a secret").to_owned());
        }
        if content.contains("PRIVATE KEY") || name == "credential.json" {
            keys += 1;
            let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{} is {mode:o}", path.display());
        }
    }
    assert!(keys >= 8, "only {keys} files with keys were found: the test looks in the wrong place");
    for log in files_below(&scenario.path().join("logs")) {
        let content = text(&log);
        for secret in &secrets {
            assert!(!content.contains(secret.as_str()), "{} holds a secret", log.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_see_the_mesh_and_why_a_request_goes_where_it_goes() {
    let scenario = Scenario::up(SMALL).await;
    scenario.get("9080/").await;
    let rows = |value: &Value| value.as_array().expect("a list").len();
    assert_eq!(rows(&scenario.json(&["clusters", "-o", "json"]).await), 2);
    assert_eq!(rows(&scenario.json(&["exports", "-o", "json"]).await), 1);
    assert_eq!(rows(&scenario.json(&["gateways", "-o", "json"]).await), 2);
    assert!(scenario.ok(&["services"]).await.contains("reviews"));
    let why = scenario.ok(&["explain", "--from", "east/web", "--to", &format!("{REVIEWS}:9080")]).await;
    for part in ["west", "spiffe://west.demo/ns/default/sa/reviews", "this cluster has no ready endpoint"] {
        assert!(why.contains(part), "{part} is missing: {why}");
    }
    scenario.ok(&["check"]).await;

    // Probes and explanations need no hub.
    scenario.fleet.signal("hub-1", Signal::KILL).await.unwrap();
    scenario.ok(&["explain", "--from", "east/web", "--to", &format!("{REVIEWS}:9080")]).await;
    scenario.ok(&["check"]).await;

    // A hop that fails is named.
    scenario.fleet.signal("west/gateway-1", Signal::KILL).await.unwrap();
    let output = scenario.hubctl(&["check"]).await;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && said.contains("west: gateway-1"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_joins_one_cluster_once() {
    let scenario = Scenario::up(SMALL).await;
    let create = |cluster: &'static str| {
        let scenario = &scenario;
        async move { scenario.json(&["token", "create", "--cluster", cluster, "-o", "json"]).await }
    };
    let token = create("north").await;
    let field = |token: &Value, name: &str| token[name].as_str().unwrap_or_default().to_owned();
    let hub = scenario.fleet.plan().hub_join().join(",");
    let directory = tempfile::tempdir().unwrap();
    let join = |cluster: &'static str, token: String, hash: String, data: &'static str| {
        let (scenario, hub) = (&scenario, &hub);
        let data = directory.path().join(data).display().to_string();
        async move {
            let args = ["join-cluster", cluster, "--hub", hub, "--token", &token, "--ca-hash", &hash, "--data", &data];
            scenario.hubctl(&args).await
        }
    };
    let (secret, hash) = (field(&token, "token"), field(&token, "caHash"));
    let wrong = format!("sha256:{}", "0".repeat(64));
    let refused = [
        ("another hub's hash", join("north", secret.clone(), wrong, "a").await),
        ("another cluster", join("south", secret.clone(), hash.clone(), "b").await),
        ("a changed secret", join("north", format!("{secret}x"), hash.clone(), "c").await),
    ];
    for (what, output) in refused {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{what} joined");
        assert!(stderr.contains("hint:") && !stderr.contains(&secret), "{what}: {stderr}");
    }
    let joined = join("north", secret.clone(), hash.clone(), "d").await;
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    let again = join("north", secret.clone(), hash.clone(), "d").await;
    assert!(again.status.success(), "the same cluster's retry is no second use");
    let thief = join("north", secret, hash.clone(), "e").await;
    assert!(!thief.status.success(), "a token worked twice");

    let revoked = create("south").await;
    scenario.ok(&["token", "revoke", &field(&revoked, "id")]).await;
    assert!(!join("south", field(&revoked, "token"), hash, "f").await.status.success(), "a revoked token worked");
    assert!(!scenario.ok(&["token", "list", "-o", "json"]).await.contains(&field(&revoked, "token")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifests_are_taken_whole_or_not_at_all() {
    let scenario = Scenario::up(SMALL).await;
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let good = "apiVersion: v1\nkind: Service\nmetadata: {name: good, namespace: default}\nspec: {ports: [{name: http, port: 80}]}\n";
    let cases = [
        (
            "unknown-kind",
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: x}\n",
            "VirtualService",
        ),
        ("unknown-field", "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {prots: []}\n", "spec.prots"),
        ("wrong-type", "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: [{port: eighty}]}\n", "port"),
        ("bad-port", "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: [{port: 70000}]}\n", "port"),
        ("not-yaml", "{{{", "not-yaml"),
    ];
    let manifests = scenario.fleet.layout.manifests("west");
    let before = files_below(&manifests).len();
    for (name, bad, field) in cases {
        let path = write(&format!("{name}.yaml"), &format!("{good}---\n{bad}"));
        let said = scenario.fails(&["fleet", "apply", "west", "-f", &path]).await;
        assert!(said.contains(field), "{name} does not name {field}: {said}");
        assert_eq!(files_below(&manifests).len(), before, "{name} was half applied");
    }

    // A good one is live without a restart: the secret is exported from now on, and then no longer.
    let export = "apiVersion: multicluster.x-k8s.io/v1alpha1\nkind: ServiceExport\nmetadata: {name: secret, namespace: default}\n";
    let export = write("export.yaml", export);
    scenario.ok(&["fleet", "apply", "west", "-f", &export]).await;
    let url = "http://secret.default.svc.clusterset.local:9080/";
    wait_for_status(&scenario, url, 200).await;
    scenario.ok(&["fleet", "delete", "west", "-f", &export]).await;
    wait_for_status(&scenario, url, 503).await;
}

/// Calls until the answer has this status: the level that the change must reach.
async fn wait_for_status(scenario: &Scenario, url: &str, status: u16) {
    let reached = async {
        loop {
            let call = fleet::call::Call::get(scenario.proxy("east/web"), url).unwrap();
            if call.send().await.is_ok_and(|reply| reply.status.is_some_and(|seen| seen == status)) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reached)
        .await
        .unwrap_or_else(|_| panic!("{url} never answered {status}\n{}", scenario.logs()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn down_leaves_nothing_behind_even_after_a_crash() {
    let scenario = Scenario::up(SMALL).await;
    let instance = scenario.fleet.state.instance.clone();
    assert!(!fleet::process::of_instance(&instance).is_empty());
    scenario.fleet.signal("east/agent", Signal::KILL).await.unwrap();
    scenario.fleet.signal("west/gateway-1", Signal::STOP).await.unwrap();
    scenario.ok(&["fleet", "down"]).await;
    let left = fleet::process::of_instance(&instance);
    assert!(left.is_empty(), "{left:?}");
    assert!(!scenario.path().exists());
    let claims = fleet::block::claims(&scenario.fleet.state.registry);
    assert!(claims.iter().all(|claim| claim.instance != instance), "the address block is still claimed");
}
