//! `isthmus-gateway --config gateway.yaml`: a gateway as a process.

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;

/// Isthmus gateway: east-west, ingress or egress.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// The configuration file (YAML).
    #[arg(long)]
    config: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    telemetry::init_logging("gateway");
    telemetry::raise_descriptor_limit();
    identity::install_crypto();
    let config = gateway::Config::load(&arguments.config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(telemetry::worker_threads())
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let shutdown = telemetry::Shutdown::on_signals().context("cannot watch for signals")?;
        gateway::run(config, shutdown).await.context("the gateway cannot run")
    })
}
