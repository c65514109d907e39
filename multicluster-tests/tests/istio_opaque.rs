//! Connections that sidecars do not read: routed by the name in the ClientHello (`tls`) and by what is known before any
//! byte (`tcp`), with weights and subsets.

#![expect(clippy::expect_used, reason = "whatever fails here is a failed test")]

use std::collections::BTreeMap;

use fleet::call::connect;
use fleet::echo::Answer;
use multicluster_tests::{Certificates, Scenario, assert_share, step, tool};
use tokio::io::AsyncBufReadExt;
use tokio::task::JoinSet;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");

/// `db` greets; `vault` is two nginx that end TLS themselves.
fn fleet(certificates: &Certificates) -> String {
    let (certificate, key) = (certificates.file("vault.crt"), certificates.file("vault.key"));
    let directory = certificates.path().display();
    let vault = |version: &str| {
        let tls =
            format!("ssl_certificate {certificate}; ssl_certificate_key {key}; add_header x-server {version} always;");
        format!(
            "
      - name: vault-{version}
        service: vault
        labels: {{app: vault, version: {version}}}
        command: [sh, {SCRIPTS}/nginx.sh, {directory}, \"{{host}}:{{port}}\", \"{tls}\", ssl]
        ports: [{{name: tcp, port: 9443, protocol: tcp}}]"
        )
    };
    format!(
        "
name: istio-opaque
mesh: demo
hub: {{nodes: 1}}
clusters:
  - name: east
    gateways: 1
    workloads:
      - {{name: web, serviceAccount: web, labels: {{app: web, tier: front}}}}
      - {{name: frontend, serviceAccount: frontend, labels: {{app: frontend}}}}
      - {{name: db-v1, service: db, labels: {{app: db, version: v1}}, ports: [{{name: tcp, port: 9001, protocol: tcp-server-first}}]}}
      - {{name: db-v2, service: db, labels: {{app: db, version: v2}}, ports: [{{name: tcp, port: 9001, protocol: tcp-server-first}}]}}{}{}
",
        vault("v1"),
        vault("v2")
    )
}

const SUBSETS: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: HOST}
spec: {host: HOST, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_go_where_their_names_and_their_sources_say() {
    tool("nginx", "nginx-light");
    tool("curl", "curl");
    let certificates = Certificates::new(&["vault=*.vault.example"]);
    let scenario = Scenario::up(&fleet(&certificates)).await;
    for host in ["db", "vault"] {
        scenario.apply("east", &SUBSETS.replace("HOST", host)).await;
    }
    tcp(&scenario).await;
    tls(&scenario, &certificates).await;
}

const TCP: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: db}
spec:
  hosts: [db]
  tcp:
    - match: [{port: 9001, sourceLabels: {tier: front}}]
      route:
        - {destination: {host: db, subset: v1}, weight: 75}
        - {destination: {host: db, subset: v2}, weight: 25}
    - match: [{port: 9001}]
      route: [{destination: {host: db, subset: v2}}]
";

/// Which version greets a workload, how often of `count` times.
async fn greetings(scenario: &Scenario, workload: &str, count: usize) -> BTreeMap<String, usize> {
    let mut calls = JoinSet::new();
    for _ in 0..count {
        let proxy = scenario.proxy(workload);
        calls.spawn(async move {
            let mut tunnel = connect(proxy, "db", 9001).await.expect("a tunnel");
            let mut line = String::new();
            tunnel.read_line(&mut line).await.expect("a greeting");
            serde_json::from_str::<Answer>(&line).expect("JSON").whoami.version
        });
    }
    let mut versions = BTreeMap::new();
    for version in calls.join_all().await {
        *versions.entry(version).or_default() += 1;
    }
    versions
}

async fn tcp(scenario: &Scenario) {
    step("tcp: by port and source, with weights");
    scenario.apply("east", TCP).await;
    let of_web = greetings(scenario, "east/web", 300).await;
    assert_eq!(of_web.values().sum::<usize>(), 300, "{of_web:?}");
    assert_share("v1 greets web", of_web["v1"], 300, 0.75);
    assert_eq!(greetings(scenario, "east/frontend", 50).await, [("v2".to_owned(), 50)].into());
    let explained = scenario.json(&["-o", "json", "explain", "--from", "east/frontend", "--to", "db:9001"]).await;
    assert_eq!(explained["decision"]["decision"]["subset"], "v2", "{explained:#}");
}

const TLS: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: vault}
spec:
  hosts: [vault, '*.vault.example']
  tls:
    - match: [{sniHosts: [one.vault.example]}]
      route: [{destination: {host: vault, subset: v1}}]
    - match: [{sniHosts: ['*.vault.example'], sourceLabels: {tier: front}}]
      route:
        - {destination: {host: vault, subset: v1}, weight: 20}
        - {destination: {host: vault, subset: v2}, weight: 80}
";

/// Which nginx answers a workload's curl for each name that `names` stands for; none where the connection broke.
async fn served(scenario: &Scenario, certificates: &Certificates, workload: &str, names: &str) -> Vec<String> {
    let (proxy, ca) = (format!("http://{}", scenario.proxy(workload)), certificates.file("ca.crt"));
    let mut command = tokio::process::Command::new("curl");
    command.args(["-sS", "-Z", "--parallel-max", "10", "--max-time", "30", "--proxy", &proxy, "--cacert", &ca]);
    command.args(["--connect-to", "::vault:9443", "-o", "/dev/null", "-w", "%header{x-server}\n"]);
    let output = command.arg(format!("https://{names}/who")).output().await.expect("curl runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

async fn tls(scenario: &Scenario, certificates: &Certificates) {
    step("tls: by SNI, the most specific name first, with weights and subsets");
    scenario.apply("east", TLS).await;
    let get = async |workload, names| served(scenario, certificates, workload, names).await;
    assert_eq!(get("east/web", "one.vault.example").await, ["v1"]);
    assert_eq!(get("east/frontend", "one.vault.example").await, ["v1"]);
    let split = get("east/web", "n[1-120].vault.example").await;
    assert_eq!(split.len(), 120, "{split:?}");
    assert_share("v2 by SNI", split.iter().filter(|version| *version == "v2").count(), 120, 0.8);
    assert!(get("east/web", "vault.elsewhere.example").await.is_empty(), "a name that no rule has goes nowhere");
    assert!(get("east/frontend", "two.vault.example").await.is_empty(), "the rule is about another source");
    for (from, sni, expected) in [
        ("east/web", "one.vault.example", "vault-v1-1"),
        ("east/frontend", "one.vault.example", "vault-v1-1"),
        ("east/frontend", "two.vault.example", "decision  refuse"),
        ("east/web", "vault.elsewhere.example", "decision  refuse"),
        ("east/web", "two.vault.example", "VirtualService default/vault spec.tls[1]"),
    ] {
        let explained = scenario.ok(&["explain", "--from", from, "--to", "vault:9443", "--sni", sni]).await;
        assert!(explained.contains(expected), "{from} {sni}: {explained}");
    }
}
