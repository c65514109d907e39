//! `hubctl`, the one tool an operator needs: the hub and its members, probes of every hop, and whole fleets on one machine.
//!
//! What it is not: a place for decisions. It reads what the parts say about themselves and prints it; what it changes, it
//! changes through the hub's API, a cluster's directory of manifests, or the `fleet` crate.
//!
//! **Invariant:** standard output is data only (tables, or a document with `-o json` and `-o yaml`); progress, errors (`error: …`) and their
//! `hint: …` go to standard error. Exit code 0: done; 1: failed; 2: wrong usage.
//!
//! Start reading at [`cli`], which lists the commands; each has a module in `commands`.

pub mod cli;
mod commands;
mod context;
mod demo;
mod failure;
mod findings;
mod ground;
mod manifests;
mod output;
mod reference;

pub use reference::reference;

use std::process::ExitCode;

use clap::Parser;

/// Parses the command line, runs the command, prints what failed.
pub fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    identity::install_crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(commands::run(cli));
            // A blocked read of a log or a terminal must not hold up the end.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{}", failure::describe(&error));
            ExitCode::from(1)
        }
    }
}
