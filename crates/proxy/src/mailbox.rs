//! A queue of datagrams between two tasks that never makes anybody wait: when it is full, the oldest gives way.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// Bytes that wait at most, whoever sends them: four of the longest datagrams.
const BYTES: usize = 256 * 1024;

/// The queue; one task takes from it.
#[derive(Debug)]
pub struct Mailbox {
    room: usize,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Bytes>,
    /// Of all in the queue.
    bytes: usize,
    closed: bool,
}

impl Mailbox {
    /// With room for so many datagrams, and for [`BYTES`] of them.
    pub fn new(room: usize) -> Self {
        Self { room: room.max(1), state: Mutex::default(), wake: Notify::new() }
    }

    /// Puts a datagram in; `false` when one was dropped for it, or it for all others are of no use any more.
    pub fn put(&self, datagram: Bytes) -> bool {
        let mut state = self.state();
        if state.closed {
            return false;
        }
        let before = state.queue.len();
        state.bytes += datagram.len();
        state.queue.push_back(datagram);
        while state.queue.len() > self.room || (state.bytes > BYTES && state.queue.len() > 1) {
            state.next();
        }
        let dropped = state.queue.len() <= before;
        drop(state);
        self.wake.notify_one();
        !dropped
    }

    /// The oldest; `None` when it is closed and empty.
    pub async fn take(&self) -> Option<Bytes> {
        loop {
            {
                let mut state = self.state();
                if let Some(datagram) = state.next() {
                    return Some(datagram);
                }
                if state.closed {
                    return None;
                }
            }
            self.wake.notified().await;
        }
    }

    /// The oldest, if there is one.
    pub fn try_take(&self) -> Option<Bytes> {
        self.state().next()
    }

    /// Nothing more comes in.
    pub fn close(&self) {
        self.state().closed = true;
        self.wake.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next(&mut self) -> Option<Bytes> {
        let datagram = self.queue.pop_front()?;
        self.bytes -= datagram.len();
        Some(datagram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_gives_way_and_what_is_left_is_taken_after_the_end() {
        let mailbox = Mailbox::new(2);
        let fits: Vec<bool> = [b"a", b"b", b"c"].map(|one| mailbox.put(Bytes::from_static(one))).into();
        assert_eq!(fits, [true, true, false]);
        mailbox.close();
        assert!(!mailbox.put(Bytes::from_static(b"d")));
        let taken = [mailbox.take().await, mailbox.take().await, mailbox.take().await];
        let long = Mailbox::new(64);
        for _ in 0..20 {
            long.put(vec![0; 65_000].into());
        }
        assert_eq!(std::iter::from_fn(|| long.try_take()).count(), BYTES / 65_000, "bytes are bounded, too");
        assert_eq!(taken.map(|one| one.map(|one| one.to_vec())), [Some(b"b".to_vec()), Some(b"c".to_vec()), None]);
    }
}
