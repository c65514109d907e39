//! `hubctl fleet`: a whole mesh on this machine.

mod acknowledge;
mod apply;
mod call;
mod logs;
mod run;
mod wan;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use fleet::up::{self, UpRequest};
use fleet::{Fleet, FleetFile, Ground, Hint, block, down, handle, process};

use crate::cli::{FleetCommand, Up};
use crate::context::Context;
use crate::output::{self, Table, note};

/// How long a process that is started again may take until it serves.
const START: Duration = Duration::from_secs(30);

pub(super) async fn run(context: &Context, command: FleetCommand) -> Result<u8> {
    match command {
        FleetCommand::Up(options) => bring_up(options).await,
        FleetCommand::Down { directory } => take_down(context, directory).await,
        FleetCommand::List => list(context),
        FleetCommand::Status => status(context).await,
        FleetCommand::Kill { process, signal } => kill(context, &process, &signal).await,
        FleetCommand::Start { process } => {
            let record = context.fleet()?.start(&process, START).await?;
            note(&format!("{process} runs as {}", record.pid));
            Ok(0)
        }
        FleetCommand::Logs { process, follow } => logs::run(&context.fleet()?, &process, follow).await,
        FleetCommand::Apply(options) => apply::apply(context, &options).await,
        FleetCommand::Delete(options) => apply::delete(context, &options).await,
        FleetCommand::Exec { workload, command } => run::exec(&context.fleet()?, &workload, &command).await,
        FleetCommand::Call(options) => call::run(&context.fleet()?, options, context.output).await,
        FleetCommand::Forward { workload, target, local } => {
            run::forward(&context.fleet()?, &workload, &target, local).await
        }
        FleetCommand::Finish { patience } => {
            let progress = |step: &str| note(&format!("{}{step}", up::PROGRESS));
            up::finish(&context.fleet()?, Duration::from_secs(patience), &progress).await?;
            Ok(0)
        }
        FleetCommand::Wan(command) => wan::run(context, command),
        FleetCommand::KubeProxy { cluster } => run::kube_proxy(&context.fleet()?, &cluster).await,
        FleetCommand::Echo { ports } => run::echo(&ports).await,
    }
}

/// Where a fleet lives if nobody says otherwise: below a directory that only its user can enter.
fn default_directory(name: &str) -> PathBuf {
    block::registry().join("fleets").join(name)
}

async fn bring_up(options: Up) -> Result<u8> {
    let mut file = FleetFile::load(&options.file)?;
    file.ground = options.ground.map_or(file.ground, Into::into);
    let binaries = handle::find_binaries()?;
    let directory = std::path::absolute(options.dir.unwrap_or_else(|| default_directory(&file.name)))?;
    let mut request = UpRequest::new(file, &directory, binaries);
    request.keep_on_failure = options.keep_on_failure;
    let registry = request.registry.clone();
    let started = Instant::now();
    let progress = |step: &str| note(&format!("[{:5.1} s] {step}", started.elapsed().as_secs_f64()));
    let interrupted = tokio::signal::ctrl_c();
    let fleet = tokio::select! {
        fleet = up::up(request, &progress) => fleet?,
        _ = interrupted => {
            note("interrupted; taking down what was started");
            down::down(&directory, &registry, down::GRACE).await?;
            return Ok(1);
        }
    };
    progress("ready");
    let first = fleet.plan().clusters.iter().flat_map(|cluster| cluster.pods.iter().map(move |pod| (cluster, pod)));
    let from =
        first.filter(|(_, pod)| pod.mesh).map(|(cluster, pod)| format!("{}/{}", cluster.name, pod.workload)).next();
    note(&format!("fleet {} is in {}", fleet.plan().name, directory.display()));
    note("next: hubctl fleet status | check | fleet down");
    if let Some(from) = from {
        note(&format!("      hubctl fleet call {from} http://<service>.<namespace>.svc.clusterset.local:<port>/"));
    }
    Ok(0)
}

async fn take_down(context: &Context, directory: Option<PathBuf>) -> Result<u8> {
    let directory = match directory.or_else(|| context.fleet.clone()) {
        Some(directory) => directory,
        None => Fleet::only()?.layout.root().to_owned(),
    };
    let downed = down::down(&directory, &block::registry(), down::GRACE).await?;
    note(&format!(
        "{} processes ended ({} killed), {} removed",
        downed.ended,
        downed.killed,
        downed.directory.display()
    ));
    Ok(0)
}

fn list(context: &Context) -> Result<u8> {
    let mut table = Table::new(&["FLEET", "DIRECTORY", "BLOCK", "CLUSTERS", "ALIVE"]);
    let mut rows = Vec::new();
    for directory in handle::running() {
        let Ok(fleet) = Fleet::open(&directory) else { continue };
        let plan = fleet.plan();
        let clusters: Vec<_> = plan.clusters.iter().map(|cluster| cluster.name.to_string()).collect();
        let alive = process::of_instance(&fleet.state.instance).len();
        let first = if plan.ground == Ground::Loopback { 127 } else { 10 };
        let block = format!("{first}.{}.0.0/16", plan.block);
        let row = [plan.name.clone(), directory.display().to_string(), block, clusters.join(","), alive.to_string()];
        rows.push(serde_json::json!({
            "fleet": plan.name, "directory": directory, "block": row[2], "clusters": clusters, "alive": alive,
        }));
        table.row(row);
    }
    output::print(context.output, &table, &rows)?;
    Ok(0)
}

async fn status(context: &Context) -> Result<u8> {
    let fleet = context.fleet()?;
    let rows = fleet.status().await;
    let mut table = Table::new(&["PROCESS", "PID", "STATE", "READY", "ADDRESS"]);
    for row in &rows {
        let state = format!("{:?}", row.state).to_lowercase();
        let ready = match (&row.lacks, row.ready) {
            (_, true) => "yes".to_owned(),
            (Some(lacks), _) => format!("no: {}", lacks.lines().next().unwrap_or_default()),
            (None, _) => "no".to_owned(),
        };
        let pid = row.pid.map(|pid| pid.to_string()).unwrap_or_default();
        let address = listeners(&fleet, &row.process).unwrap_or_else(|| row.address.clone());
        table.row([row.process.clone(), pid, state, ready, address]);
    }
    output::print(context.output, &table, &rows)?;
    Ok(u8::from(rows.iter().any(|row| !row.ready)))
}

/// Where an ingress or egress gateway can be reached: every port of its Service, and where it leads.
fn listeners(fleet: &Fleet, process: &str) -> Option<String> {
    let (cluster, name) = process.split_once('/')?;
    let edge = fleet.plan().cluster(cluster)?.edges.iter().find(|edge| edge.name == name)?;
    let ports = edge.ports.iter().map(|port| format!("{}:{} (port {})", edge.ip, port.target, port.port));
    Some(ports.collect::<Vec<_>>().join(", "))
}

async fn kill(context: &Context, process: &str, signal: &str) -> Result<u8> {
    let parsed = process::parse_signal(signal)
        .ok_or_else(|| Hint::error(format!("unknown signal {signal:?}"), "use KILL, TERM, INT, HUP, STOP or CONT"))?;
    let record = context.fleet()?.signal(process, parsed).await?;
    note(&format!("sent {} to {process} ({})", signal.to_uppercase(), record.pid));
    Ok(0)
}
