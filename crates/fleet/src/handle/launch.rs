//! What is executed for each process of the plan.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Fleet;
use crate::ground::Ground;
use crate::hint::Hint;
use crate::layout::ANNOTATIONS;
use crate::network;
use crate::plan::{Kind, PodPlan, ProcessPlan, at};
use crate::process::Launch;

/// Environment variable that names the directory of the executables.
pub const ENV_BIN_DIR: &str = "ISTHMUS_BIN_DIR";

/// Every executable that a fleet needs.
pub const BINARIES: [&str; 6] =
    ["hubctl", "isthmus-hub", "isthmus-agent", "isthmus-gateway", "isthmus-sidecar", "isthmus-dns"];

/// Finds the directory of the executables: `ISTHMUS_BIN_DIR`, else beside the running one (one level up from cargo's
/// `deps`, where test executables live).
pub fn find_binaries() -> Result<PathBuf> {
    let directory = match std::env::var_os(ENV_BIN_DIR) {
        Some(directory) => PathBuf::from(directory),
        None => beside_executable()?,
    };
    let missing: Vec<_> = BINARIES.into_iter().filter(|name| !directory.join(name).is_file()).collect();
    if missing.is_empty() {
        return Ok(std::path::absolute(directory)?);
    }
    let message = format!("{} has no {}", directory.display(), missing.join(", "));
    Err(Hint::error(message, format!("build them with `cargo build --bins`, or set {ENV_BIN_DIR}")))
}

fn beside_executable() -> Result<PathBuf> {
    let executable = std::env::current_exe().context("the path of the running executable is unknown")?;
    let directory = executable.parent().context("the running executable has no directory")?;
    let is_deps = directory.file_name().is_some_and(|name| name == "deps");
    Ok(directory.parent().filter(|_| is_deps).unwrap_or(directory).to_owned())
}

impl Fleet {
    /// What to execute for a process.
    pub fn launch(&self, process: &ProcessPlan) -> Result<Launch> {
        let (command, environment) = match process.kind {
            Kind::App => {
                let (cluster, pod) = self.pod(process.name.trim_end_matches("/app"))?;
                (self.app(pod)?, pod.environment(&cluster.name))
            }
            Kind::Wan => (self.wan_command(process)?, Vec::new()),
            Kind::KubeProxy => (self.kube_proxy_command(process)?, Vec::new()),
            Kind::Sidecar if process.namespace.is_some() => (self.capturing(process)?, Vec::new()),
            Kind::Pause => (self.pause_command(process)?, Vec::new()),
            kind => (self.component(process, kind)?, Vec::new()),
        };
        let command = match &process.namespace {
            Some(namespace) if process.kind != Kind::Pause => [self.enter(namespace)?, command].concat(),
            _ => command,
        };
        Ok(Launch {
            command,
            environment,
            instance: self.state.instance.clone(),
            log: self.layout.log(&process.name),
            record: self.layout.pid(&process.name),
        })
    }

    fn component(&self, process: &ProcessPlan, kind: Kind) -> Result<Vec<String>> {
        let cluster = process.cluster.as_deref().unwrap_or_default();
        let name = process.name.rsplit_once('/').map_or(process.name.as_str(), |(_, last)| last);
        let config = match kind {
            Kind::Hub => self.layout.root().join(&process.name).join("hub.yaml"),
            Kind::Agent => self.layout.agent(cluster).join("agent.yaml"),
            Kind::Gateway | Kind::Edge => self.layout.component(cluster, name).join("gateway.yaml"),
            Kind::Dns => self.layout.component(cluster, name).join("dns.yaml"),
            Kind::Sidecar | Kind::App | Kind::Pause | Kind::Wan | Kind::KubeProxy => {
                let pod = process.name.split('/').nth(1).unwrap_or_default();
                self.layout.pod(cluster, pod).join("sidecar.yaml")
            }
        };
        let binary = text(&self.state.binaries.join(kind.binary()))?;
        Ok(vec![binary, "--config".to_owned(), text(&config)?])
    }

    /// An emulated link, with the addresses and routes that a plain one would have.
    fn wan_command(&self, process: &ProcessPlan) -> Result<Vec<String>> {
        let plan = self.plan();
        let link = plan.wan.iter().find(|link| network::wan_name(link) == process.name);
        let link = link.with_context(|| format!("{} is not in the plan", process.name))?;
        let binary = text(&self.state.binaries.join(Kind::Wan.binary()))?;
        let mut words =
            vec![binary, "run".to_owned(), "--control".to_owned(), text(&self.layout.control(&process.name))?];
        words.extend(["--spec".to_owned(), serde_json::to_string(&link.link)?]);
        for (side, end) in [("left", 0), ("right", 1)] {
            let (near, far) = (&link.between[end], &link.between[1 - end]);
            let holder = self.holder(&network::fabric_of(near))?.pid;
            words.extend([format!("--{side}"), format!("/proc/{holder}/ns/net")]);
            words.extend(network::wan_end(plan, side, near, far));
        }
        Ok(words)
    }

    fn kube_proxy_command(&self, process: &ProcessPlan) -> Result<Vec<String>> {
        let binary = text(&self.state.binaries.join(process.kind.binary()))?;
        let cluster = process.cluster.clone().unwrap_or_default();
        let words =
            [binary, "--fleet".to_owned(), text(self.layout.root())?, "fleet".to_owned(), "kube-proxy".to_owned()];
        Ok([words.to_vec(), vec![cluster]].concat())
    }

    /// A sidecar that captures: the ruleset is put in force first, as an init container would do it; anew at every start, which
    /// changes nothing if it is there. Requests to the shim and to the explicit proxy go past.
    fn capturing(&self, process: &ProcessPlan) -> Result<Vec<String>> {
        let (cluster, pod) = self.pod(network::namespace_of(&process.name))?;
        let annotations = text(&self.layout.pod(cluster.name.as_str(), &pod.name).join(ANNOTATIONS))?;
        let script = "\"$0\" capture apply --config \"$2\" --annotations \"$3\" && exec \"$0\" \"$1\" \"$2\"";
        let shell = ["sh", "-c", script].map(str::to_owned).to_vec();
        Ok([shell, self.component(process, Kind::Sidecar)?, vec![annotations]].concat())
    }

    fn app(&self, pod: &PodPlan) -> Result<Vec<String>> {
        match &pod.command {
            Some(words) => Ok(words.iter().map(|word| fill(word, pod)).collect()),
            None => Ok(echo_command(&text(&self.state.binaries.join(Kind::App.binary()))?, pod, self.plan().ground)),
        }
    }
}

/// In a namespace of its own the application listens for both families.
fn echo_command(binary: &str, pod: &PodPlan, ground: Ground) -> Vec<String> {
    let mut command = vec![binary.to_owned(), "fleet".to_owned(), "echo".to_owned()];
    for port in &pod.ports {
        let listen = match ground {
            Ground::Loopback => at(pod.ip, port.app),
            Ground::Netns => SocketAddr::from((Ipv6Addr::UNSPECIFIED, port.app)),
        };
        command.extend(["--port".to_owned(), format!("{}={}:{listen}", port.name, port.protocol.as_str())]);
    }
    command
}

/// Replaces `{port}`, `{port:<name>}`, `{host}` and `{pod}`.
fn fill(word: &str, pod: &PodPlan) -> String {
    let first = pod.ports.first().map(|port| port.app.to_string()).unwrap_or_default();
    let mut filled = word.replace("{port}", &first);
    for port in &pod.ports {
        filled = filled.replace(&format!("{{port:{}}}", port.name), &port.app.to_string());
    }
    filled.replace("{host}", &pod.ip.to_string()).replace("{pod}", &pod.name)
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).with_context(|| format!("{} is not valid UTF-8", path.display()))
}
