//! The shell: two devices, one thread that moves packets between them, and the handle that changes what holds there.

mod handle;
mod pump;

use std::io;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::oneshot;

use crate::device::{DeviceError, DeviceSpec};
use crate::link::Link;
use crate::spec::LinkSpec;

pub use handle::{EmulatorError, Handle};
use pump::Pump;

/// A link that runs, until it is dropped.
#[derive(Debug)]
pub struct Emulator {
    handle: Handle,
    ended: oneshot::Receiver<io::Result<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A link does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A device cannot be made.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The thread cannot be made.
    #[error("cannot start the thread of the link")]
    Thread(#[source] io::Error),
}

impl Emulator {
    /// Makes both devices and starts to move packets between them. Random decisions follow from `seed`.
    ///
    /// # Errors
    /// A device cannot be made; neither is left behind.
    pub fn start(left: &DeviceSpec, right: &DeviceSpec, link: LinkSpec, seed: u64) -> Result<Self, StartError> {
        let devices = [left.open()?, right.open()?];
        let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(to_thread)?);
        let (commands, inbox) = sync_channel(handle::COMMANDS_MAX);
        let (report, ended) = oneshot::channel();
        let pump = Pump::new(devices, Link::new(link, seed), inbox, wake.clone());
        let run = move || {
            // Nobody listens any more if the emulator was dropped.
            let _ = report.send(pump.run());
        };
        let thread = std::thread::Builder::new().name("wan-link".to_owned()).spawn(run).map_err(StartError::Thread)?;
        Ok(Self { handle: Handle::new(commands, wake), ended, thread: Some(thread) })
    }

    /// What changes and shows the link.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits until the link ends by itself, which it does only when a device is gone.
    ///
    /// # Errors
    /// What the device said.
    pub async fn ended(&mut self) -> io::Result<()> {
        (&mut self.ended).await.unwrap_or_else(|_| Err(io::Error::other("the thread of the link broke off")))
    }
}

fn to_thread(errno: rustix::io::Errno) -> StartError {
    StartError::Thread(errno.into())
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing left to tell.
            let _ = thread.join();
        }
    }
}
