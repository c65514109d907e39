//! `hubctl`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    hubctl::main()
}
