//! The figures of docs/benchmarks.md: memory of every process idle and under load, and what the mesh adds to a request.
//!
//! `cargo run --release --example measure`. Direct, in-cluster and cross-cluster runs
//! alternate, so that whatever else the machine does hits all alike; medians and spreads over the rounds.

#![expect(clippy::expect_used, reason = "whatever fails here is a failed test")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use fleet::call::parse_url;
use fleet::load::{Load, Summary, summarize};
use multicluster_tests::{REVIEWS, Scenario};

const FLEET: &str = "
name: measure
mesh: demo
hub: {nodes: 3}
clusters:
  - name: east
    gateways: 2
    workloads:
      - {name: web, serviceAccount: web, labels: {app: web, version: v1}}
      - name: near
        serviceAccount: near
        labels: {app: near, version: v1}
        ports: [{name: http, port: 9080, protocol: http}]
  - name: west
    gateways: 2
    workloads:
      - name: reviews
        serviceAccount: reviews
        labels: {app: reviews, version: v1}
        export: true
        ports: [{name: http, port: 9080, protocol: http}]
";

const ROUNDS: usize = 5;
const SECONDS: u64 = 5;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(measure());
}

async fn measure() {
    let scenario = Scenario::up(FLEET).await;
    let idle = memory(&scenario);
    let app = scenario.fleet.pod("west/reviews").expect("reviews").1;
    let direct = SocketAddr::from((app.ip, app.ports[0].app));
    let sidecar = scenario.proxy("east/web");
    let cases = [
        ("direct, no mesh", direct, format!("http://{direct}/")),
        ("in-cluster, two sidecars", sidecar, "http://near.default.svc.cluster.local:9080/".to_owned()),
        ("cross-cluster, two sidecars and two gateways", sidecar, format!("http://{REVIEWS}:9080/")),
    ];
    let mut rounds: BTreeMap<usize, Vec<Summary>> = BTreeMap::new();
    let mut busy = BTreeMap::new();
    for _ in 0..ROUNDS {
        for (index, (_, proxy, url)) in cases.iter().enumerate() {
            let load = Load {
                proxy: *proxy,
                url: parse_url(url).expect("a URL"),
                rate: 1000,
                duration: Some(Duration::from_secs(SECONDS)),
                timeout: Duration::from_secs(10),
            };
            let records = load.start().finish().await;
            rounds.entry(index).or_default().push(summarize(&records));
            if index == 2 {
                busy = memory(&scenario);
            }
        }
    }
    println!("| request at 1,000 rps, {ROUNDS} runs of {SECONDS} s | p50 ms | p99 ms | failed |\n|---|---|---|---|");
    for (index, (name, ..)) in cases.iter().enumerate() {
        let runs = &rounds[&index];
        let failed: usize = runs.iter().map(|run| run.failed).sum();
        println!("| {name} | {} | {} | {failed} |", spread(runs, |run| run.p50_ms), spread(runs, |run| run.p99_ms));
    }
    println!("\n| process | RSS idle MiB | RSS after 1,000 rps MiB |\n|---|---|---|");
    for (process, idle) in &idle {
        println!("| {process} | {idle:.1} | {:.1} |", busy[process]);
    }
}

/// Median (minimum–maximum).
fn spread(runs: &[Summary], figure: impl Fn(&Summary) -> f64) -> String {
    let mut values: Vec<f64> = runs.iter().map(figure).collect();
    values.sort_by(f64::total_cmp);
    let (first, last) = (values[0], values[values.len() - 1]);
    format!("{:.2} ({first:.2}–{last:.2})", values[values.len() / 2])
}

/// Resident memory of every process, MiB.
fn memory(scenario: &Scenario) -> BTreeMap<String, f64> {
    let processes = scenario.fleet.plan().processes();
    let resident = |name: String| {
        let record = scenario.fleet.record(&name)?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", record.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: f64 = line.trim().trim_end_matches(" kB").trim().parse().ok()?;
        Some((name, kib / 1024.0))
    };
    processes.into_iter().filter_map(|process| resident(process.name)).collect()
}
