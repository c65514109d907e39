//! One module per group of commands. Each returns the exit code.

mod analyze;
mod check;
mod cluster;
mod completions;
mod explain;
mod fleet;
mod hub;
mod mesh;
mod proxy;
mod proxy_status;
mod token;

use anyhow::Result;

use crate::cli::{Cli, ClusterCommand, Command};
use crate::{demo, ground};

/// Runs a command.
pub(crate) async fn run(cli: Cli) -> Result<u8> {
    let context = &cli.context;
    ground::enter(&cli)?;
    match cli.command {
        Command::Demo(options) => demo::run(options).await,
        Command::Fleet(command) => fleet::run(context, command).await,
        Command::Hub(command) => hub::run(context, command).await,
        Command::Token(command) => token::run(context, command).await,
        Command::JoinCluster(options) => token::join(context, options).await,
        Command::Clusters => mesh::clusters(context).await,
        Command::Cluster(ClusterCommand::Leave(options)) => cluster::leave(context, options).await,
        Command::Drain(options) => cluster::drain(context, options).await,
        Command::Undrain(options) => cluster::undrain(context, options).await,
        Command::ProxyStatus(options) => proxy_status::run(context, options.cluster.as_deref()).await,
        Command::Services => mesh::services(context).await,
        Command::Exports => mesh::exports(context).await,
        Command::Gateways { listeners: false } => mesh::gateways(context).await,
        Command::Gateways { listeners: true } => mesh::listeners(context).await,
        Command::Check => check::run(context).await,
        Command::Analyze(options) => analyze::run(context, &options),
        Command::Explain(options) => explain::run(context, options).await,
        Command::Routes(options) => proxy::routes(context, &options.workload).await,
        Command::Policies(options) => proxy::policies(context, &options.workload).await,
        Command::Endpoints(options) => proxy::endpoints(context, &options.workload).await,
        Command::Completions { shell } => completions::run(shell),
    }
}
