//! The DNS shim's process: `isthmus-dns --config dns.yaml`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;

#[derive(Debug, Parser)]
#[command(name = "isthmus-dns", version, about = "Answers clusterset names and forwards the rest")]
struct Arguments {
    /// The shim's configuration.
    #[arg(long)]
    config: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    telemetry::init_logging("dns");
    telemetry::raise_descriptor_limit();
    identity::install_crypto();
    let config = dns::Config::load(&arguments.config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the runtime cannot start")?;
    runtime.block_on(async {
        let shutdown = telemetry::Shutdown::on_signals().context("signals cannot be handled")?;
        dns::run(config, shutdown).await.map_err(anyhow::Error::from)
    })
}
