//! The hub out of reach, hub nodes out of each other's reach, certificates meanwhile, clocks that differ, disks that are full.
//!
//! `cargo test -p isthmus-multicluster-tests --test netns_partitions -- --nocapture --test-threads=1`, as root.

#![expect(clippy::unwrap_used, clippy::panic, reason = "whatever fails here is a failed test")]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use fleet::call::Call;
use fleet::load::summarize;
use hub_client::OperatorCredential;
use multicluster_tests::{Mixed, REVIEWS, Scenario, Sent, binaries, eventually, on_netns, step, tool};
use tokio::time::Instant;

const PORTS: &str = "[{name: http, port: 9080, protocol: http}, {name: grpc, port: 9090, protocol: grpc}, {name: tcp, port: 9000, protocol: tcp}]";
const SECOND: Duration = Duration::from_secs(1);
const PORT_API: u16 = 7443;

fn file(hub: u8) -> String {
    format!(
        "name: partitions\nmesh: demo\nhub: {{nodes: {hub}}}\nclusters:\n  - name: east\n    workloads:\n      - {{name: web, labels: {{app: web}}}}\n  - name: west\n    workloads:\n      - {{name: reviews, labels: {{app: reviews, version: v1}}, export: true, ports: {PORTS}}}\n      - {{name: late, labels: {{app: late, version: v1}}, ports: {PORTS}}}\n"
    )
}

/// `ip daddr …` of every hub node: what a fabric drops so that its cluster has no hub.
fn no_hub(scenario: &Scenario) -> Vec<String> {
    scenario.fleet.plan().hub.iter().map(|node| format!("ip daddr {}", node.ip)).collect()
}

async fn cut_from_hub(scenario: &Scenario, cluster: &str) {
    let matches = no_hub(scenario);
    let matches: Vec<&str> = matches.iter().map(String::as_str).collect();
    scenario.cut(&format!("{cluster}/fabric"), &matches).await;
}

fn nothing_failed(what: &str, sent: &Sent) {
    let failed = sent.failed_between(Duration::ZERO, Duration::MAX);
    println!(
        "{what}: {} requests, {failed} failed, longest {:.1?}; {} of {} flows broke",
        sent.http.len(),
        sent.longest(Duration::ZERO),
        sent.broken(),
        sent.flows.len()
    );
    assert_eq!(failed, 0, "{what}: {:?}", summarize(&sent.http).errors);
}

async fn get(scenario: &Scenario, host: &str) -> Result<(), String> {
    let call =
        Call::get(scenario.proxy("east/web"), &format!("http://{host}:9080/")).map_err(|error| error.to_string())?;
    let reply = call.send().await.map_err(|error| format!("{error:#}"))?;
    if reply.status == Some(http::StatusCode::OK) {
        Ok(())
    } else {
        Err(format!("{:?} {:?}", reply.status, reply.body))
    }
}

#[test]
fn quick_a_cluster_without_its_hub_goes_on_and_catches_up() {
    on_netns(&file(3), async |scenario| {
        let load = Mixed::start(scenario, "east/web", REVIEWS);
        load.run_for(SECOND).await;
        cut_from_hub(scenario, "west").await;
        step("what is announced meanwhile waits");
        let export = "apiVersion: multicluster.x-k8s.io/v1alpha1\nkind: ServiceExport\nmetadata: {name: late}\n";
        let path = scenario.path().join("late.yaml");
        std::fs::write(&path, export).unwrap();
        scenario.ok(&["fleet", "apply", "west", "-f", path.to_str().unwrap()]).await;
        load.run_for(14 * SECOND).await;
        let unknown = get(scenario, "late.default.svc.clusterset.local").await;
        assert!(unknown.is_err(), "nobody told east");
        scenario.heal("west/fabric").await;
        let healed = Instant::now();
        eventually("the late export is usable", 30 * SECOND, async || {
            get(scenario, "late.default.svc.clusterset.local").await
        })
        .await;
        println!("usable {:.1?} after healing, with no restart", healed.elapsed());
        let sent = load.stop().await;
        nothing_failed("a cluster without its hub", &sent);
        assert_eq!(sent.broken(), 0);
    });
}

async fn leader_beside(scenario: &Scenario, other: u64) -> Result<u64, String> {
    let client = OperatorCredential::load(&scenario.fleet.layout.operator()).unwrap().client().unwrap();
    for node in scenario.fleet.plan().hub.iter().filter(|node| node.id != other) {
        if let Ok(Ok(status)) =
            tokio::time::timeout(2 * SECOND, client.status_of(&format!("{}:{PORT_API}", node.ip))).await
            && status.leader_id != 0
            && status.leader_id != other
        {
            return Ok(status.leader_id);
        }
    }
    Err("nobody else leads".to_owned())
}

/// All nodes have applied the same.
async fn agree(scenario: &Scenario) -> Result<(), String> {
    let client = OperatorCredential::load(&scenario.fleet.layout.operator()).unwrap().client().unwrap();
    let mut digests = Vec::new();
    for node in &scenario.fleet.plan().hub {
        let status = client.status_of(&format!("{}:{PORT_API}", node.ip)).await.map_err(|error| error.to_string())?;
        digests.push((status.leader_id, status.revision, status.state_digest));
    }
    let same = digests.windows(2).all(|pair| pair[0] == pair[1]);
    if same { Ok(()) } else { Err(format!("{digests:?}")) }
}

#[test]
fn quick_hub_nodes_apart_elect_write_and_agree_again() {
    on_netns(&file(3), async |scenario| {
        let load = Mixed::start(scenario, "east/web", REVIEWS);
        let leader = eventually("a leader", 10 * SECOND, async || scenario.hub_leader().await).await;
        let id: u64 = leader.trim_start_matches("hub-").parse().unwrap();
        let others = scenario.fleet.plan().hub.iter().filter(|node| node.id != id);
        let matches: Vec<_> =
            others.flat_map(|node| [format!("ip daddr {}", node.ip), format!("ip saddr {}", node.ip)]).collect();
        let matches: Vec<&str> = matches.iter().map(String::as_str).collect();
        scenario.cut(&leader, &matches).await;
        let apart = Instant::now();
        let new = eventually("another leader", 20 * SECOND, async || leader_beside(scenario, id).await).await;
        println!("hub-{new} leads {:.1?} after {leader} was cut off", apart.elapsed());
        let began = Instant::now();
        eventually("a write", 20 * SECOND, async || {
            let output = scenario.hubctl(&["token", "create", "--cluster", "south"]).await;
            if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
        })
        .await;
        println!("a write took {:.1?}", began.elapsed());
        scenario.heal(&leader).await;
        let healed = Instant::now();
        eventually("all agree", 20 * SECOND, async || agree(scenario).await).await;
        println!("all nodes agree {:.1?} after healing", healed.elapsed());
        let sent = load.stop().await;
        nothing_failed("hub nodes apart", &sent);
        assert_eq!(sent.broken(), 0);
    });
}

const TTL: u64 = 12;

async fn restart(scenario: &Scenario, process: &str) {
    scenario.ok(&["fleet", "kill", process]).await;
    scenario.ok(&["fleet", "start", process]).await;
}

/// When the certificate of a proxy ends, in Unix seconds.
async fn not_after(scenario: &Scenario, ip: std::net::Ipv4Addr) -> u64 {
    let (_, text) = fleet::http::get((ip, 15020).into(), "/metrics", 5 * SECOND).await.unwrap();
    let text = String::from_utf8_lossy(&text).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("isthmus_svid_not_after_seconds "));
    let _ = scenario;
    line.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

/// Five lifetimes: five hours of the default lifetime.
#[test]
fn certificates_are_renewed_while_the_hub_is_out_of_reach() {
    on_netns(&file(3), async |scenario| {
        for cluster in ["east", "west"] {
            let path = scenario.fleet.layout.agent(cluster).join("agent.yaml");
            let text = std::fs::read_to_string(&path).unwrap();
            let shorter = match text.trim_end().strip_suffix('}').filter(|_| text.trim_start().starts_with('{')) {
                Some(open) => format!("{open},\"svid_ttl_seconds\":{TTL}}}\n"),
                None => format!("{text}\nsvid_ttl_seconds: {TTL}\n"),
            };
            std::fs::write(&path, shorter).unwrap();
            restart(scenario, &format!("{cluster}/agent")).await;
        }
        for process in
            ["east/gateway-1", "west/gateway-1", "east/web-1/sidecar", "west/reviews-1/sidecar", "east/dns", "west/dns"]
        {
            restart(scenario, process).await;
        }
        eventually("traffic", 20 * SECOND, async || get(scenario, REVIEWS).await).await;
        let proxies: Vec<_> = {
            let plan = scenario.fleet.plan();
            let pod = |name| plan.pod(name).unwrap().1.ip;
            plan.clusters
                .iter()
                .map(|cluster| cluster.gateways[0].ip)
                .chain([pod("east/web"), pod("west/reviews")])
                .collect()
        };
        for cluster in ["east", "west"] {
            cut_from_hub(scenario, cluster).await;
        }
        let load = Mixed::start(scenario, "east/web", REVIEWS);
        let mut renewed = vec![std::collections::BTreeSet::new(); proxies.len()];
        while load.elapsed() < TTL as u32 * 5 * SECOND {
            for (seen, ip) in renewed.iter_mut().zip(&proxies) {
                seen.insert(not_after(scenario, *ip).await);
            }
            load.run_for(SECOND).await;
        }
        for cluster in ["east", "west"] {
            scenario.heal(&format!("{cluster}/fabric")).await;
        }
        let healed = Instant::now();
        eventually("both are live", 30 * SECOND, async || {
            let rows = [scenario.cluster_row("east").await, scenario.cluster_row("west").await];
            if rows.iter().all(|row| row["state"] == "live") { Ok(()) } else { Err(format!("{rows:?}")) }
        })
        .await;
        println!(
            "both live {:.1?} after healing; certificates per proxy: {:?}",
            healed.elapsed(),
            renewed.iter().map(|seen| seen.len()).collect::<Vec<_>>()
        );
        let sent = load.stop().await;
        nothing_failed("five lifetimes without a hub", &sent);
        assert!(renewed.iter().all(|seen| seen.len() >= 5), "{renewed:?}");
        let broken: Vec<_> = sent.flows.iter().filter(|flow| flow.error.is_some() && !flow.kind.is_long()).collect();
        println!("of the flows that broke {} were short", broken.len());
        // A connection ends with its peer's certificate, whatever it carries; nothing short is put on one that is about to. On a
        // busy machine one may take longer than the last quarter of so short a life, 3 s.
        assert!(broken.len() * 500 <= sent.flows.len(), "{} of {}: {broken:?}", broken.len(), sent.flows.len());
    });
}

/// Starts a process with a clock of its own.
async fn start_with_clock(scenario: &Scenario, process: &str, offset: &str) {
    let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
    assert!(Path::new(library).exists(), "{library} is missing\nhint: install Debian's package libfaketime");
    scenario.ok(&["fleet", "kill", process]).await;
    let mut command = tokio::process::Command::new(binaries().join("hubctl"));
    command.arg("--fleet").arg(scenario.path()).args(["fleet", "start", process]).stdin(Stdio::null());
    command.env("LD_PRELOAD", library).env("FAKETIME", offset).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{process} {offset}: {}", String::from_utf8_lossy(&output.stderr));
    let pid = scenario.fleet.record(process).unwrap().pid;
    let loaded = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    assert!(loaded.contains("libfaketime"), "{process} has the machine's clock");
}

#[test]
fn clocks_may_differ_by_ten_minutes() {
    tool("faketime", "faketime");
    on_netns(&file(1), async |scenario| {
        for process in ["west/gateway-1", "west/agent", "east/web-1/sidecar", "west/reviews-1/sidecar", "hub-1"] {
            for offset in ["+600", "-600"] {
                start_with_clock(scenario, process, offset).await;
                // New certificates and new connections at the other end of the skew.
                restart(scenario, "east/gateway-1").await;
                let began = Instant::now();
                eventually(&format!("a request with {process} {offset} s off"), 20 * SECOND, async || {
                    get(scenario, REVIEWS).await
                })
                .await;
                println!("{process} {offset} s: a request after {:.1?}", began.elapsed());
                eventually(&format!("west is live with {process} {offset} s off"), 20 * SECOND, async || {
                    let row = scenario.cluster_row("west").await;
                    if row["state"] == "live" { Ok(()) } else { Err(row.to_string()) }
                })
                .await;
            }
            restart(scenario, process).await;
        }
    });
}

/// Ten minutes ahead and ten minutes behind at the same time: twenty apart.
#[test]
fn two_clocks_may_differ_at_once() {
    tool("faketime", "faketime");
    on_netns(&file(1), async |scenario| {
        for [ahead, behind] in [
            ["west/gateway-1", "west/agent"],
            ["west/agent", "west/gateway-1"],
            ["east/web-1/sidecar", "west/reviews-1/sidecar"],
            ["west/reviews-1/sidecar", "east/web-1/sidecar"],
            ["west/agent", "east/web-1/sidecar"],
            ["hub-1", "west/agent"],
        ] {
            start_with_clock(scenario, ahead, "+600").await;
            start_with_clock(scenario, behind, "-600").await;
            // New certificates and new connections under both clocks.
            for process in ["east/gateway-1", "west/gateway-1", "west/reviews-1/sidecar"] {
                if process != ahead && process != behind {
                    restart(scenario, process).await;
                }
            }
            let what = format!("{ahead} 600 s ahead, {behind} 600 s behind");
            let began = Instant::now();
            eventually(&format!("a request with {what}"), 20 * SECOND, async || get(scenario, REVIEWS).await).await;
            println!("{what}: a request after {:.1?}", began.elapsed());
            eventually(&format!("west is live with {what}"), 20 * SECOND, async || {
                let row = scenario.cluster_row("west").await;
                if row["state"] == "live" { Ok(()) } else { Err(row.to_string()) }
            })
            .await;
            for process in [ahead, behind] {
                restart(scenario, process).await;
            }
        }
    });
}

/// Puts a node's data on a disk of 64 MiB.
async fn small_disk(scenario: &Scenario, id: u64) {
    let (name, directory) = (format!("hub-{id}"), scenario.fleet.layout.hub(id).display().to_string());
    scenario.ok(&["fleet", "kill", &name]).await;
    let script = format!(
        "set -e; cp -a {directory} {directory}.copy; mount -t tmpfs -o size=96m tmpfs {directory}; cp -a {directory}.copy/. {directory}/; rm -rf {directory}.copy"
    );
    scenario.ok(&["fleet", "exec", &name, "--", "sh", "-c", &script]).await;
    scenario.ok(&["fleet", "start", &name]).await;
}

async fn fill(scenario: &Scenario, id: u64) {
    let directory = scenario.fleet.layout.hub(id).display().to_string();
    let script = format!(
        "free=$(df --output=avail -B1 {directory} | tail -1); fallocate -l $((free - 2097152)) {directory}/filler; df -h {directory}"
    );
    println!("{}", scenario.ok(&["fleet", "exec", &format!("hub-{id}"), "--", "sh", "-c", &script]).await.trim());
}

async fn write(scenario: &Scenario) -> Result<(), String> {
    let output = scenario.hubctl(&["token", "create", "--cluster", "south"]).await;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[test]
fn full_disks_of_the_hub_refuse_writes_and_recover() {
    on_netns(&file(3), async |scenario| {
        for id in 1..=3 {
            small_disk(scenario, id).await;
        }
        eventually("a write", 20 * SECOND, async || write(scenario).await).await;
        let pids = || (1..=3).map(|id| scenario.fleet.record(&format!("hub-{id}")).unwrap().pid).collect::<Vec<_>>();
        let before = pids();
        let load = Mixed::start(scenario, "east/web", REVIEWS);
        let leader = eventually("a leader", 10 * SECOND, async || scenario.hub_leader().await).await;
        let id: u64 = leader.trim_start_matches("hub-").parse().unwrap();
        step(&format!("the disk of the leader, {leader}, is full"));
        fill(scenario, id).await;
        let full = Instant::now();
        eventually("another leader", 20 * SECOND, async || leader_beside(scenario, id).await).await;
        println!("another node leads after {:.1?}", full.elapsed());
        eventually("a write", 10 * SECOND, async || write(scenario).await).await;
        println!("a write succeeded {:.1?} after one disk was full", full.elapsed());
        step("all disks are full");
        for other in (1..=3).filter(|other| *other != id) {
            fill(scenario, other).await;
        }
        let refused = eventually("a clear refusal", 30 * SECOND, async || match write(scenario).await {
            Err(why) if why.contains("disk of hub node") && why.contains("hint: ") => Ok(why),
            other => Err(format!("{other:?}")),
        })
        .await;
        println!("refused: {}", refused.trim());
        scenario.ok(&["services"]).await;
        scenario.ok(&["clusters"]).await;
        tokio::time::sleep(12 * SECOND).await;
        scenario.ok(&["services"]).await;
        step("space again");
        for id in 1..=3 {
            let filler = scenario.fleet.layout.hub(id).join("filler").display().to_string();
            scenario.ok(&["fleet", "exec", &format!("hub-{id}"), "--", "rm", &filler]).await;
        }
        let freed = Instant::now();
        eventually("a write again", 20 * SECOND, async || write(scenario).await).await;
        println!("writes go on {:.1?} after there was space", freed.elapsed());
        eventually("all agree", 30 * SECOND, async || agree(scenario).await).await;
        println!("all nodes agree {:.1?} after there was space", freed.elapsed());
        assert_eq!(pids(), before);
        assert!((1..=3).all(|id| scenario.fleet.record(&format!("hub-{id}")).unwrap().is_alive()), "no node ended");
        let sent = load.stop().await;
        nothing_failed("full disks", &sent);
        assert_eq!(sent.broken(), 0);
    });
}
