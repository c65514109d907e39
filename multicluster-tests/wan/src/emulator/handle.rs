//! The Rust API of a running link.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::link::{Link, Status};
use crate::nat::{Rebind, RebindError};
use crate::spec::Problems;

/// Commands that wait for the link at most.
pub(super) const COMMANDS_MAX: usize = 64;
/// The link answers between two packets; longer than this it is not coming back.
const PATIENCE: Duration = Duration::from_secs(10);

/// Changes and shows a running link; clones speak to the same one.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: SyncSender<Command>,
    wake: Arc<OwnedFd>,
}

/// A command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EmulatorError {
    /// What was asked makes no sense; nothing has changed.
    #[error(transparent)]
    Refused(#[from] Problems),
    /// The translation cannot be changed so.
    #[error(transparent)]
    Rebind(#[from] RebindError),
    /// The link has ended.
    #[error("the link has ended\n    hint: its log says why")]
    Ended,
}

#[derive(Debug)]
pub(super) enum Command {
    Show(Sender<Status>),
    Set(Map<String, Value>, Sender<Result<Status, Problems>>),
    Rebind(Rebind, Sender<Result<Status, RebindError>>),
    Stop,
}

impl Handle {
    pub(super) fn new(commands: SyncSender<Command>, wake: Arc<OwnedFd>) -> Self {
        Self { commands, wake }
    }

    /// All that can be seen of the link.
    ///
    /// # Errors
    /// The link has ended.
    pub fn status(&self) -> Result<Status, EmulatorError> {
        self.ask(Command::Show)
    }

    /// Changes the link, as [`LinkSpec::changed`](crate::LinkSpec::changed) says, between two packets.
    ///
    /// # Errors
    /// The change is refused, or the link has ended.
    pub fn set(&self, change: Map<String, Value>) -> Result<Status, EmulatorError> {
        Ok(self.ask(|reply| Command::Set(change, reply))??)
    }

    /// Makes translated flows leave with another port or address from now on.
    ///
    /// # Errors
    /// The link translates nothing, has no other address, or has ended.
    pub fn rebind(&self, what: Rebind) -> Result<Status, EmulatorError> {
        Ok(self.ask(|reply| Command::Rebind(what, reply))??)
    }

    pub(super) fn stop(&self) {
        // A link that has ended needs no stopping.
        let _ = self.send(Command::Stop);
    }

    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Result<T, EmulatorError> {
        let (reply, answer): (_, Receiver<T>) = channel();
        self.send(command(reply))?;
        answer.recv_timeout(PATIENCE).map_err(|_| EmulatorError::Ended)
    }

    fn send(&self, command: Command) -> Result<(), EmulatorError> {
        self.commands.send(command).map_err(|_| EmulatorError::Ended)?;
        rustix::io::write(&self.wake, &1_u64.to_ne_bytes()).map(drop).map_err(|_| EmulatorError::Ended)
    }
}

impl Command {
    /// Carries it out; false if the link is to stop. Answers that nobody waits for any more are dropped.
    pub(super) fn execute(self, link: &mut Link) -> bool {
        match self {
            Self::Show(reply) => drop(reply.send(link.status())),
            Self::Set(change, reply) => {
                let next = link.spec().changed(&change);
                let set = next.map(|spec| link.set(std::time::Instant::now(), spec));
                drop(reply.send(set.map(|()| link.status())));
            }
            Self::Rebind(what, reply) => drop(reply.send(link.rebind(what).map(|()| link.status()))),
            Self::Stop => return false,
        }
        true
    }
}
