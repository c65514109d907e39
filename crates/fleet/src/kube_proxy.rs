//! What kube-proxy does on Kubernetes, for the pods of a cluster without a sidecar on the ground `netns`: connections to the
//! address of a service are led to what is behind it.
//!
//! The agent says what that is (`/debug/addresses`). Whenever it changes, the ruleset of every pod is replaced in one transaction;
//! connections that are open stay where they are. Without the agent the last rules stay in force. This is no part of the mesh but
//! of the ground, as bridges and links are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;

use crate::handle::Fleet;
use crate::http::get_json;
use crate::network::pause;
use crate::plan::{ClusterPlan, at, port};

/// Between two looks at the agent.
const LOOK: Duration = Duration::from_millis(200);
/// How long the agent may take to answer.
const WITHIN: Duration = Duration::from_secs(2);

/// What the agent says.
#[derive(Debug, Deserialize)]
struct Addresses {
    ports: Vec<VirtualPort>,
}

/// One address and port of a service, and what is behind it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct VirtualPort {
    /// The address that clients dial.
    pub address: IpAddr,
    /// The port that clients dial.
    pub port: u16,
    /// Where connections go; none: they are refused.
    pub backends: BTreeSet<SocketAddr>,
}

/// The ruleset of a pod; loading it replaces what was there, in one transaction.
pub fn ruleset(ports: &[VirtualPort]) -> String {
    let (mut lead, mut refuse) = (String::new(), String::new());
    for VirtualPort { address, port, backends } in ports {
        let family = if address.is_ipv4() { "ip" } else { "ip6" };
        let dialled = format!("{family} daddr {address} tcp dport {port}");
        let places = backends.iter().map(|backend| format!("{} . {}", backend.ip(), backend.port()));
        let places: Vec<String> = places.enumerate().map(|(n, place)| format!("{n} : {place}")).collect();
        let _ = match places.len() {
            0 => writeln!(refuse, "{dialled} counter reject with tcp reset"),
            count => {
                writeln!(lead, "{dialled} dnat {family} to numgen random mod {count} map {{ {} }}", places.join(", "))
            }
        };
    }
    format!(
        "table inet services {{}}\ndelete table inet services\ntable inet services {{\n\
         chain lead {{\ntype nat hook output priority -100; policy accept;\n{lead}}}\n\
         chain refuse {{\ntype filter hook output priority 0; policy accept;\n{refuse}}}\n}}\n"
    )
}

/// Keeps the rules of a cluster's pods without a sidecar, for ever. Its control socket accepts once all of them are in force.
/// `warn` is told once why they are not what the agent says.
pub async fn run(fleet: &Fleet, cluster: &str, warn: impl Fn(&str)) -> Result<()> {
    let cluster = fleet.cluster(cluster)?;
    let mut kept = Kept { fleet, cluster, in_force: BTreeMap::new() };
    let socket = fleet.layout.control(&process_name(cluster));
    let (mut control, mut told) = (None, String::new());
    loop {
        match kept.look().await {
            Ok(()) => {
                told.clear();
                if control.is_none() {
                    control = Some(serve(&socket)?);
                }
            }
            Err(error) => {
                let why = format!("{error:#}");
                if why != told {
                    warn(&format!("the rules of pods stay as they are: {why}"));
                    told = why;
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The process of a cluster.
pub fn process_name(cluster: &ClusterPlan) -> String {
    format!("{}/kube-proxy", cluster.name)
}

/// Takes connections and closes them: that somebody does is all there is to say.
fn serve(socket: &std::path::Path) -> Result<tokio::task::JoinHandle<()>> {
    let _stale = std::fs::remove_file(socket);
    if let Some(directory) = socket.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let listener = UnixListener::bind(socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    Ok(tokio::spawn(async move {
        loop {
            if listener.accept().await.is_err() {
                tokio::time::sleep(LOOK).await;
            }
        }
    }))
}

struct Kept<'a> {
    fleet: &'a Fleet,
    cluster: &'a ClusterPlan,
    /// Namespace → the process that held it, and the rules it was given. One that is made anew has none.
    in_force: BTreeMap<String, (i32, String)>,
}

impl Kept<'_> {
    async fn look(&mut self) -> Result<()> {
        let told = get_json(at(self.cluster.agent, port::ADMIN), "/debug/addresses", WITHIN).await?;
        ensure!(!told["revision"].is_null(), "the agent has no snapshot yet");
        let told: Addresses = serde_json::from_value(told).context("the agent says what nobody understands")?;
        let rules = ruleset(&told.ports);
        for pod in self.cluster.pods.iter().filter(|pod| !pod.mesh) {
            let namespace = format!("{}/{}", self.cluster.name, pod.name);
            // A pod that is down gets its rules when it comes back.
            let Ok(holder) = self.fleet.holder(&namespace) else { continue };
            let wanted = (holder.pid, rules.clone());
            if holder.holds() && self.in_force.get(&namespace) != Some(&wanted) {
                load(self.fleet, &namespace, &rules).await?;
                self.in_force.insert(namespace, wanted);
            }
        }
        Ok(())
    }
}

/// Replaces the rules of one namespace.
async fn load(fleet: &Fleet, namespace: &str, rules: &str) -> Result<()> {
    let words = fleet.enter(namespace)?;
    let mut command = tokio::process::Command::new(&words[0]);
    command.args(&words[1..]).args(["nft", "-f", "-"]).stdin(std::process::Stdio::piped());
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("cannot run nsenter")?;
    let mut input = child.stdin.take().context("nft has no standard input")?;
    input.write_all(rules.as_bytes()).await?;
    drop(input);
    let output = child.wait_with_output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} takes no rules: {}", pause(namespace), said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_led_to_backends_and_refused_where_there_are_none() {
        let port = |address: &str, port, backends: &[&str]| VirtualPort {
            address: address.parse().expect("an address"),
            port,
            backends: backends.iter().map(|backend| backend.parse().expect("a backend")).collect(),
        };
        let pods = ["10.42.1.20:9080", "10.42.1.21:9081"];
        let rules = ruleset(&[
            port("10.96.0.1", 80, &pods),
            port("fd69::1", 80, &["[fd69:42:1::20]:9080"]),
            port("240.0.0.1", 9080, &[]),
        ]);
        let expected = "table inet services {}
delete table inet services
table inet services {
chain lead {
type nat hook output priority -100; policy accept;
ip daddr 10.96.0.1 tcp dport 80 dnat ip to numgen random mod 2 map { 0 : 10.42.1.20 . 9080, 1 : 10.42.1.21 . 9081 }
ip6 daddr fd69::1 tcp dport 80 dnat ip6 to numgen random mod 1 map { 0 : fd69:42:1::20 . 9080 }
}
chain refuse {
type filter hook output priority 0; policy accept;
ip daddr 240.0.0.1 tcp dport 9080 counter reject with tcp reset
}
}
";
        assert_eq!(rules, expected);
    }
}
