//! Whom a command talks to: the operator's credential and the fleet, given, from the environment, or the only one there is.

use std::path::PathBuf;

use anyhow::Result;
use fleet::{Fleet, Hint};
use hub_client::{HubClient, OperatorCredential};

use crate::output::Format;

/// Environment variable with the path of the operator's credential.
pub(crate) const ENV_OPERATOR: &str = "ISTHMUS_OPERATOR";
/// Environment variable with the directory of a fleet.
pub(crate) const ENV_FLEET: &str = "ISTHMUS_FLEET";

/// Where the help lists the options that every command has, apart from its own.
const GLOBAL: &str = "Options of every command";

/// The options that every command has.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Context {
    /// The operator's credential, as `hub init` wrote it [default: the fleet's]
    #[arg(long, global = true, help_heading = GLOBAL, env = ENV_OPERATOR, value_name = "FILE")]
    pub(crate) operator: Option<PathBuf>,
    /// The directory of a fleet [default: the only one that runs]
    #[arg(long, global = true, help_heading = GLOBAL, env = ENV_FLEET, value_name = "DIR")]
    pub(crate) fleet: Option<PathBuf>,
    /// How to print results
    #[arg(short, long, global = true, help_heading = GLOBAL, value_enum, default_value = "table")]
    pub(crate) output: Format,
}

impl Context {
    /// The fleet that was named, or the only one that runs.
    pub(crate) fn fleet(&self) -> Result<Fleet> {
        match &self.fleet {
            Some(directory) => Fleet::open(directory),
            None => Fleet::only(),
        }
    }

    /// The operator's credential.
    pub(crate) fn operator(&self) -> Result<OperatorCredential> {
        let path = match &self.operator {
            Some(path) => path.clone(),
            None => {
                let fleet = self.fleet().map_err(|error| {
                    let hint =
                        format!("name the operator's credential with --operator or {ENV_OPERATOR}, or start a fleet");
                    Hint::error(format!("no hub to talk to: {error:#}"), hint)
                })?;
                fleet.layout.operator()
            }
        };
        Ok(OperatorCredential::load(&path)?)
    }

    /// A client of the hub that acts as the operator.
    pub(crate) fn hub(&self) -> Result<HubClient> {
        Ok(self.operator()?.client()?)
    }
}
