//! The hub's process: `isthmus-hub --config hub.yaml`, and `isthmus-hub init …` for the files that a hub begins with.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use mesh::MeshId;

#[derive(Debug, Parser)]
#[command(name = "isthmus-hub", version, about = "A node of the hub", subcommand_negates_reqs = true)]
struct Arguments {
    /// The node's configuration.
    #[arg(long, required = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Creates the hub's root, the certificates of its nodes and the first operator's credential.
    Init {
        /// The mesh's id; the hub's trust domain is hub.<mesh-id>.
        #[arg(long)]
        mesh_id: String,
        /// Where the files go.
        #[arg(long)]
        dir: PathBuf,
        /// A node: <id>=<api host:port>,<join host:port>.
        #[arg(long = "member", required = true)]
        members: Vec<String>,
    },
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    telemetry::init_logging("hub");
    telemetry::raise_descriptor_limit();
    identity::install_crypto();
    match (arguments.command, arguments.config) {
        (Some(Command::Init { mesh_id, dir, members }), _) => init(mesh_id, dir, &members),
        (None, Some(config)) => serve(&config),
        (None, None) => anyhow::bail!("--config is missing"),
    }
}

fn init(mesh_id: String, dir: PathBuf, members: &[String]) -> anyhow::Result<()> {
    let members = members.iter().map(|member| member.parse()).collect::<Result<_, _>>()?;
    let mesh_id = MeshId::new(mesh_id).context("--mesh-id")?;
    hub_client::init(&hub_client::InitRequest { mesh_id, dir, members })?;
    Ok(())
}

fn serve(path: &std::path::Path) -> anyhow::Result<()> {
    let config = hub::Config::load(path)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the runtime cannot start")?;
    runtime.block_on(async {
        let shutdown = telemetry::Shutdown::on_signals().context("signals cannot be handled")?;
        hub::run(config, shutdown).await
    })
}
