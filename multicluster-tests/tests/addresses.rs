//! Gateways that change their addresses: whoever uses them learns it from what their cluster announces.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "whatever fails here is a failed test")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use fleet::call::parse_url;
use fleet::http::get_json;
use fleet::load::{Load, Running, summarize};
use fleet::plan::port;
use multicluster_tests::{NEAR, NEAR_WORKLOAD, REVIEWS, Scenario, Undisturbed, eventually, step};
use rustix::process::Signal;

const FILE: &str = "
name: addresses
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    gateways: 2
    workloads:
      - {name: web, labels: {app: web, version: v1}}
      - NEAR
  - name: west
    gateways: 2
    workloads:
      - {name: reviews, labels: {app: reviews, version: v1}, export: true, ports: [{name: http, port: 9080, protocol: http}]}
";

const SECOND: Duration = Duration::from_secs(1);
const UP: Duration = Duration::from_secs(30);

fn load(scenario: &Scenario) -> Running {
    let url = parse_url(&format!("http://{REVIEWS}:9080/")).unwrap();
    Load { proxy: scenario.proxy("east/web"), url, rate: 100, duration: None, timeout: 10 * SECOND }.start()
}

/// Puts one address in the place of another in a configuration.
fn readdress(file: &Path, from: SocketAddr, to: SocketAddr) {
    let text = std::fs::read_to_string(file).unwrap();
    let (from, to) = (from.to_string(), to.to_string());
    assert!(text.contains(&from), "{from} is not in {}", file.display());
    std::fs::write(file, text.replace(&from, &to)).unwrap();
}

/// Ends a process in peace, and starts its successor.
async fn restart(scenario: &Scenario, process: &str) {
    let record = scenario.fleet.signal(process, Signal::TERM).await.unwrap();
    eventually(&format!("{process} ends"), 15 * SECOND, async || {
        if record.is_alive() { Err("it drains".to_owned()) } else { Ok(()) }
    })
    .await;
    scenario.fleet.start(process, UP).await.unwrap();
}

/// Where both gateways of east have a path to that is usable.
async fn usable(scenario: &Scenario) -> Vec<String> {
    let mut addresses = Vec::new();
    for gateway in &scenario.fleet.cluster("east").unwrap().gateways {
        let shown = get_json((gateway.ip, port::ADMIN).into(), "/debug/paths", 5 * SECOND).await.unwrap();
        let rows = shown["paths"].as_array().or(shown.as_array()).cloned().unwrap_or_default();
        let usable = rows.iter().filter(|row| row["usable"] == true);
        addresses.extend(usable.filter_map(|row| Some(row["address"].as_str()?.to_owned())));
    }
    addresses
}

/// An address of the same network that nobody has.
fn neighbour(ip: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, _] = ip.octets();
    Ipv4Addr::new(a, b, c, 222)
}

/// The gateway that the other cluster's gateways dial, then the one that its own cluster's sidecars do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_go_on_while_gateways_move_to_other_addresses() {
    let scenario = Scenario::up(&FILE.replace("NEAR", NEAR_WORKLOAD)).await;
    for (cluster, of, wire) in [("west", "quic", port::QUIC), ("east", "hbone", port::HBONE)] {
        step(&format!("{cluster}/gateway-1 changes its address for {of}"));
        let ip = scenario.fleet.cluster(cluster).unwrap().gateways[0].ip;
        let (old, new) = (SocketAddr::from((ip, wire)), SocketAddr::from((neighbour(ip), wire)));
        let (running, near) = (load(&scenario), Undisturbed::start(scenario.proxy("east/web"), NEAR));
        tokio::time::sleep(2 * SECOND).await;
        let process = format!("{cluster}/gateway-1");
        readdress(&scenario.fleet.layout.component(cluster, "gateway-1").join("gateway.yaml"), old, new);
        restart(&scenario, &process).await;
        let moved = running.elapsed();
        readdress(&scenario.fleet.layout.agent(cluster).join("agent.yaml"), old, new);
        restart(&scenario, &format!("{cluster}/agent")).await;
        let announced = running.elapsed();
        let used = eventually("the new address is used", UP, async || is_used(&scenario, of, old, new).await).await;
        let learnt = running.elapsed();
        tokio::time::sleep(2 * SECOND).await;
        let (summary, machine) = (summarize(&running.stop().await), near.stop().await);
        println!(
            "| {process} changes its {of} address | 0 fail, none waits longer than 2.5 s | {} of {} fail, longest {:.0} ms; {used} {:.1} s after its agent was told ({:.1} s after it moved) |",
            summary.failed,
            summary.requests,
            summary.longest_ms,
            learnt.saturating_sub(announced).as_secs_f64(),
            learnt.saturating_sub(moved).as_secs_f64(),
        );
        assert_eq!(summary.failed, 0, "{:?}\n{}", summary.errors, scenario.logs());
        assert!(summary.longest_ms <= 2_500.0 + machine.as_secs_f64() * 1e3, "{summary:?}, {machine:?}");
    }
}

/// Whether those who use the address of a gateway have gone over to the new one.
async fn is_used(scenario: &Scenario, of: &str, old: SocketAddr, new: SocketAddr) -> Result<&'static str, String> {
    if of == "quic" {
        let addresses = usable(scenario).await;
        let over = addresses.iter().filter(|it| **it == new.to_string()).count();
        let left = addresses.contains(&old.to_string());
        return if over == 2 && !left { Ok("all paths lead there") } else { Err(format!("{addresses:?}")) };
    }
    let admin = SocketAddr::from((scenario.fleet.pod("east/web").expect("the pod").1.ip, port::ADMIN));
    let shown = get_json(admin, "/debug/pools", 5 * SECOND).await.map_err(|error| error.to_string())?;
    let text = shown.to_string();
    if text.contains(&new.to_string()) { Ok("the sidecar has connections there") } else { Err(text) }
}
