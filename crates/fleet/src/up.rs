//! Brings a fleet up: files, hub, membership, agents, proxies, applications; each step through the calls that an operator
//! of real clusters would make.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use hub_client::{HubClient, InitRequest, JoinConfig, Member, OperatorCredential};
use mesh::ClusterName;
use tokio::io::AsyncBufReadExt;
use tokio::time::Instant;

use crate::converge::wait_converged;
use crate::down::{GRACE, down};
use crate::file::FleetFile;
use crate::ground::Ground;
use crate::handle::{Fleet, State};
use crate::hint::Hint;
use crate::layout::Layout;
use crate::plan::{ClusterPlan, Kind, Plan, ProcessPlan, at, port};
use crate::process::write_json;
use crate::wait::until_all_ready;
use crate::{block, config, manifests, network, raise};

/// Told about every step, for people who wait.
pub type Progress<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// What to bring up.
#[derive(Debug, Clone)]
pub struct UpRequest {
    /// The validated fleet file.
    pub file: FleetFile,
    /// The fleet's directory: must not exist, or be empty.
    pub directory: PathBuf,
    /// Where the executables are.
    pub binaries: PathBuf,
    /// The registry of address blocks; usually [`block::registry`].
    pub registry: PathBuf,
    /// How long each step may take.
    pub patience: Duration,
    /// Leave processes and files for inspection when a step fails.
    pub keep_on_failure: bool,
}

impl UpRequest {
    /// A request with everything usual.
    pub fn new(file: FleetFile, directory: impl Into<PathBuf>, binaries: impl Into<PathBuf>) -> Self {
        Self {
            file,
            directory: directory.into(),
            binaries: binaries.into(),
            registry: block::registry(),
            patience: Duration::from_secs(60),
            keep_on_failure: false,
        }
    }
}

/// Brings a fleet up and waits until every export is usable from where it should be. Must be called in a tokio runtime.
/// On failure everything is taken down again, unless the request says to keep it.
pub async fn up(request: UpRequest, progress: Progress<'_>) -> Result<Fleet> {
    request.file.ground.check()?;
    check_wan(&request)?;
    check_annotations(&request)?;
    let fleet = create(&request)?;
    let outcome = match request.file.ground {
        Ground::Loopback => finish(&fleet, request.patience, progress).await,
        Ground::Netns => bring_up_inside(&fleet, request.patience, progress).await,
    };
    match outcome {
        Ok(()) => Ok(fleet),
        Err(error) => {
            if !request.keep_on_failure {
                down(fleet.layout.root(), &request.registry, GRACE).await?;
            }
            Err(error)
        }
    }
}

/// Claims addresses and writes `fleet.json`, before anything runs.
fn create(request: &UpRequest) -> Result<Fleet> {
    let directory = std::path::absolute(&request.directory)?;
    let occupied = std::fs::read_dir(&directory).is_ok_and(|mut entries| entries.next().is_some());
    if occupied {
        let hint = "choose another --dir, or remove the fleet there with `hubctl fleet down`";
        return Err(Hint::error(format!("{} is not empty", directory.display()), hint));
    }
    let instance = format!("{:032x}", rand::random::<u128>());
    let claim = block::claim(&request.registry, &directory, &instance)?;
    let plan = Plan::new(&request.file, claim.block);
    let layout = Layout::new(directory);
    let state = State { instance, binaries: request.binaries.clone(), registry: request.registry.clone(), plan };
    let written = make_private(layout.root()).and_then(|()| write_json(&layout.state(), &state));
    if let Err(error) = written {
        block::release(&request.registry, claim.block, &state.instance)?;
        return Err(error);
    }
    Ok(Fleet { layout, state })
}

/// Keys and credentials are below: nobody else may look inside.
fn make_private(directory: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.with_context(|| format!("cannot create {}", directory.display()))
}

/// Nothing is captured on loopback.
fn check_annotations(request: &UpRequest) -> Result<()> {
    if request.file.ground != Ground::Loopback {
        return Ok(());
    }
    let workloads = request.file.clusters.iter().flat_map(|cluster| &cluster.workloads);
    match workloads.flat_map(|workload| workload.annotations.keys().map(move |key| (&workload.name, key))).next() {
        None => Ok(()),
        Some((workload, key)) => {
            let message = format!("workload {workload}: annotations: {key} has no effect on the ground loopback");
            Err(Hint::error(message, "use --ground netns, or remove it"))
        }
    }
}

/// Emulated links need networks that they can join, and their executable.
fn check_wan(request: &UpRequest) -> Result<()> {
    if request.file.wan.is_empty() {
        return Ok(());
    }
    if request.file.ground == Ground::Loopback {
        let message = "wan: on the ground loopback there is nothing between clusters to emulate";
        return Err(Hint::error(message, "use --ground netns, or remove the section"));
    }
    let binary = request.binaries.join(Kind::Wan.binary());
    if !binary.is_file() {
        let message = format!("wan: {} is not there", binary.display());
        return Err(Hint::error(message, "build it with `cargo build --bins`"));
    }
    Ok(())
}

/// Makes the namespaces, then lets a `hubctl` inside the management namespace do the rest: out here nothing of the fleet can
/// be reached.
async fn bring_up_inside(fleet: &Fleet, patience: Duration, progress: Progress<'_>) -> Result<()> {
    progress(&format!("making {}", counted(network::namespaces(fleet.plan()).len(), "namespace")));
    raise::raise(fleet, Instant::now() + patience).await?;
    let words = fleet.enter_node()?;
    let mut command = tokio::process::Command::new(&words[0]);
    command.args(&words[1..]).arg(fleet.state.binaries.join("hubctl")).arg("--fleet").arg(fleet.layout.root());
    command.args(["fleet", "finish", "--patience", &patience.as_secs().to_string()]);
    command.env(block::ENV_REGISTRY, &fleet.state.registry).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().context("cannot run nsenter")?;
    let stderr = child.stderr.take().context("hubctl has no standard error")?;
    let mut lines = tokio::io::BufReader::new(stderr).lines();
    let mut failed = Vec::new();
    while let Some(line) = lines.next_line().await? {
        match line.strip_prefix(PROGRESS) {
            Some(step) => progress(step),
            None => failed.push(line),
        }
    }
    if child.wait().await?.success() {
        return Ok(());
    }
    let told = failed.join("\n");
    let (message, hint) = told.rsplit_once("\nhint: ").unwrap_or((&told, "run it again with --keep-on-failure"));
    Err(Hint::error(message.trim_start_matches("error: "), hint))
}

/// What `hubctl fleet finish` writes before each step.
pub const PROGRESS: &str = "step: ";

/// Brings up what stands on the ground. The caller must reach the fleet's addresses.
pub async fn finish(fleet: &Fleet, patience: Duration, progress: Progress<'_>) -> Result<()> {
    let plan = fleet.plan();
    start_hub(fleet, patience, progress).await?;
    let operator = OperatorCredential::load(&fleet.layout.operator())?;
    let hub = operator.client()?;
    for cluster in &plan.clusters {
        progress(&format!("cluster {}: joining the mesh with a single-use token", cluster.name));
        join(fleet, &hub, cluster).await?;
        write_cluster(fleet, cluster)?;
    }
    progress(&format!("starting {}", counted(plan.clusters.len(), "agent")));
    start_kinds(fleet, &[Kind::Agent], patience).await?;
    let proxies = [Kind::Gateway, Kind::Edge, Kind::Dns, Kind::Sidecar, Kind::App, Kind::KubeProxy];
    let count = plan.processes().iter().filter(|process| proxies.contains(&process.kind)).count();
    progress(&format!("starting {count} gateways, DNS shims, sidecars and applications"));
    start_kinds(fleet, &proxies, patience).await?;
    progress("waiting until every export is usable from the other clusters");
    wait_converged(fleet, Instant::now() + patience).await
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

async fn start_hub(fleet: &Fleet, patience: Duration, progress: Progress<'_>) -> Result<()> {
    let plan = fleet.plan();
    let member = |node: &crate::plan::HubNode| Member {
        id: node.id,
        api: at(node.ip, port::HUB_API).to_string(),
        join: at(node.ip, port::HUB_JOIN).to_string(),
    };
    let request = InitRequest {
        mesh_id: plan.mesh.clone(),
        dir: fleet.layout.root().to_owned(),
        members: plan.hub.iter().map(member).collect(),
    };
    hub_client::init(&request).context("the hub's files cannot be made")?;
    config::write_hub(&fleet.layout, plan)?;
    progress(&format!("starting {}", counted(plan.hub.len(), "hub node")));
    start_kinds(fleet, &[Kind::Hub], patience).await
}

async fn join(fleet: &Fleet, hub: &HubClient, cluster: &ClusterPlan) -> Result<()> {
    let name: &ClusterName = &cluster.name;
    let token = hub
        .create_token(api::hub::CreateTokenRequest {
            cluster: name.to_string(),
            trust_domain: cluster.trust_domain.to_string(),
            ttl_seconds: 0,
        })
        .await
        .with_context(|| format!("no token for cluster {name}"))?;
    let config = JoinConfig {
        hub: token.join_addresses,
        token: token.token,
        ca_hash: token.hub_ca_hash,
        cluster: name.clone(),
        trust_domain: Some(cluster.trust_domain.clone()),
        data_dir: fleet.layout.agent(name.as_str()),
    };
    hub_client::join(config).await.with_context(|| format!("cluster {name} cannot join"))?;
    Ok(())
}

fn write_cluster(fleet: &Fleet, cluster: &ClusterPlan) -> Result<()> {
    let directory = fleet.layout.manifests(cluster.name.as_str());
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    manifests::apply(&directory, &manifests::generate(cluster))?;
    config::write_agent(&fleet.layout, fleet.plan(), cluster)?;
    config::write_proxies(&fleet.layout, fleet.plan(), cluster)
}

/// Starts all processes of some kinds at once and waits for all of them.
async fn start_kinds(fleet: &Fleet, kinds: &[Kind], patience: Duration) -> Result<()> {
    let all = fleet.plan().processes();
    let wanted: Vec<ProcessPlan> = all.into_iter().filter(|process| kinds.contains(&process.kind)).collect();
    for process in &wanted {
        fleet.spawn(process).with_context(|| format!("{} does not start", process.name))?;
    }
    until_all_ready(&fleet.layout, &wanted, Instant::now() + patience).await
}
