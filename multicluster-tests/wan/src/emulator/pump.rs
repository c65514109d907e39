//! The loop that moves packets. One thread for both directions: it sleeps in `ppoll`, whose timeout is as fine as the kernel's
//! high-resolution timers, until a packet comes, one is due, or a command is there.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tun_rs::SyncDevice;

use super::handle::Command;
use crate::link::Link;
use crate::priority;
use crate::spec::Side;

/// Packets that are read from one side before others have their turn. Each waits for the rest of its batch, so it is short.
const BATCH: usize = 16;
const PACKET_MAX: usize = 65_535;

/// See the module.
pub(super) struct Pump {
    /// By side.
    devices: [SyncDevice; 2],
    link: Link,
    commands: Receiver<Command>,
    wake: Arc<OwnedFd>,
}

impl Pump {
    pub(super) fn new(devices: [SyncDevice; 2], link: Link, commands: Receiver<Command>, wake: Arc<OwnedFd>) -> Self {
        Self { devices, link, commands, wake }
    }

    /// Runs until it is told to stop.
    pub(super) fn run(mut self) -> io::Result<()> {
        let priority = priority::raise();
        tracing::info!(priority, "the link is up");
        let mut buffer = vec![0; PACKET_MAX];
        loop {
            let mut busy = self.deliver()?;
            for side in Side::BOTH {
                busy |= self.read(side, &mut buffer)?;
            }
            while let Ok(command) = self.commands.try_recv() {
                busy = true;
                if !command.execute(&mut self.link) {
                    return Ok(());
                }
            }
            if !busy {
                self.sleep()?;
            }
        }
    }

    /// Writes all that is due; true if something was. It ends, because nothing is read meanwhile.
    fn deliver(&mut self) -> io::Result<bool> {
        let mut busy = false;
        while let Some((to, packet)) = self.link.poll_deliver(Instant::now()) {
            busy = true;
            match self.devices[to.index()].send(&packet) {
                Ok(_) => {}
                Err(error) if is_gone(&error) => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, bytes = packet.len(), side = to.as_str(), "the device took no packet");
                    self.link.handle_refused(to, packet.len());
                }
            }
        }
        Ok(busy)
    }

    /// Reads what a side sent; true if something was there.
    fn read(&mut self, side: Side, buffer: &mut [u8]) -> io::Result<bool> {
        for count in 0..BATCH {
            match self.devices[side.index()].recv(buffer) {
                Ok(length) => self.link.handle_packet(Instant::now(), side, buffer[..length].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(count > 0),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn sleep(&self) -> io::Result<()> {
        let [left, right] = &self.devices;
        let mut sources = [
            PollFd::new(left, PollFlags::IN),
            PollFd::new(right, PollFlags::IN),
            PollFd::new(&self.wake, PollFlags::IN),
        ];
        let timeout = self.link.poll_timeout().map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut sources, timeout.as_ref()) {
            Err(Errno::INTR) | Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        // The counter is only there to end the sleep; commands are taken from their channel.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        Ok(())
    }
}

/// Whether a device is gone, as with its namespace, rather than full or down.
fn is_gone(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::BADFD | Errno::BADF | Errno::NODEV))
}
