//! The sidecar's process: `isthmus-sidecar --config sidecar.yaml`, and `isthmus-sidecar capture`, which says what the
//! kernel hands to it.

mod command;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;

#[derive(Debug, Parser)]
#[command(
    name = "isthmus-sidecar",
    version,
    about = "Carries the traffic of one workload through the mesh",
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Arguments {
    /// The sidecar's configuration.
    #[arg(long, required = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Which connections of this network namespace the kernel hands to the sidecar (nftables).
    Capture {
        #[command(subcommand)]
        verb: command::Verb,
    },
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(Command::Capture { verb }) = &arguments.command {
        return command::capture(verb);
    }
    let config = arguments.config.context("--config is needed")?;
    telemetry::init_logging("sidecar");
    telemetry::raise_descriptor_limit();
    identity::install_crypto();
    let config = sidecar::Config::load(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(telemetry::worker_threads())
        .enable_all()
        .build()
        .context("the runtime cannot start")?;
    runtime.block_on(async {
        let shutdown = telemetry::Shutdown::on_signals().context("signals cannot be handled")?;
        sidecar::run(config, shutdown).await.map_err(anyhow::Error::from)
    })
}
