//! The sidecar's process: `isthmus-sidecar --config sidecar.yaml`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;

#[derive(Debug, Parser)]
#[command(name = "isthmus-sidecar", version, about = "Carries the traffic of one workload through the mesh")]
struct Arguments {
    /// The sidecar's configuration.
    #[arg(long)]
    config: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    telemetry::init_logging("sidecar");
    identity::install_crypto();
    let config = sidecar::Config::load(&arguments.config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the runtime cannot start")?;
    runtime.block_on(async {
        let shutdown = telemetry::Shutdown::on_signals().context("signals cannot be handled")?;
        sidecar::run(config, shutdown).await.map_err(anyhow::Error::from)
    })
}
