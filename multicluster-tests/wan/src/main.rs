//! `isthmus-wan`: the link of [`wan`] from the command line.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
