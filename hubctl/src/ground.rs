//! Standing where the fleet can be reached: on the ground `netns` most commands start themselves again inside the fleet's
//! management namespace.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command as Process;

use anyhow::{Context as _, Result};
use fleet::{Fleet, block};

use crate::cli::{Cli, Command, FleetCommand};

/// Replaces this process by the same command inside the management namespace, if the command talks to a fleet that cannot be
/// reached from here; otherwise returns.
pub(crate) fn enter(cli: &Cli) -> Result<()> {
    // Whoever needs a fleet and finds none says so better than this could.
    let fleet = if talks(&cli.command) { cli.context.fleet().ok() } else { None };
    match fleet {
        Some(fleet) if fleet.is_outside() => {
            let mut command = again(&fleet, std::env::args_os().skip(1))?;
            if let Command::Fleet(FleetCommand::Forward { local, .. }) = &cli.command {
                // Who connects does so out here.
                command.stdin(OwnedFd::from(bind(*local)?)).env(ENV_LISTENER, "stdin");
            }
            Err(command.exec().into())
        }
        _ => Ok(()),
    }
}

/// Set when standard input is a listener that was bound outside of the management namespace.
const ENV_LISTENER: &str = "ISTHMUS_LISTENER";

/// A listener for clients outside of the fleet: the one that was bound before this process moved, or a new one.
pub(crate) fn listener(local: SocketAddr) -> Result<TcpListener> {
    let listener = match std::env::var_os(ENV_LISTENER) {
        Some(_) => TcpListener::from(std::io::stdin().as_fd().try_clone_to_owned()?),
        None => bind(local)?,
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn bind(local: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(local).with_context(|| format!("cannot listen on {local}"))
}

/// This executable with other arguments, inside the management namespace of a fleet.
pub(crate) fn again(
    fleet: &Fleet,
    arguments: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>,
) -> Result<Process> {
    let executable = std::env::current_exe().context("the path of the running executable is unknown")?;
    let words = fleet.enter_node()?;
    let mut command = Process::new(&words[0]);
    command.args(&words[1..]).arg(executable).args(arguments);
    command.env(block::ENV_REGISTRY, &fleet.state.registry).env(crate::context::ENV_FLEET, fleet.layout.root());
    Ok(command)
}

/// Whether a command talks to listeners of a fleet.
fn talks(command: &Command) -> bool {
    match command {
        Command::Demo(_) | Command::Analyze(_) | Command::Completions { .. } => false,
        Command::Fleet(command) => !matches!(
            command,
            FleetCommand::Up(_)
                | FleetCommand::Down { .. }
                | FleetCommand::List
                | FleetCommand::Logs { .. }
                | FleetCommand::Kill { .. }
                | FleetCommand::Exec { .. }
                | FleetCommand::Wan(_)
                | FleetCommand::Echo { .. }
        ),
        _ => true,
    }
}
