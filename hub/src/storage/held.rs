//! A data directory that the process before still holds: after `kill -9` the kernel gives locks back only with its last thread.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(20);

/// Waits until nobody has the file locked; false if somebody still has after `patience`. Says once that it waits. Blocks.
pub(super) fn until_released(path: &Path, patience: Duration) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    let deadline = Instant::now() + patience;
    let mut told = false;
    loop {
        match file.try_lock() {
            // Given back with the handle: whoever opens the file now locks it for itself.
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return Ok(false),
            Err(TryLockError::WouldBlock) => {
                if !told {
                    tracing::warn!(path = %path.display(), "another process still holds it; waiting for its end");
                    told = true;
                }
                pause();
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the kernel tells nobody when a lock is given back, and storage is opened by a thread"
)]
fn pause() {
    std::thread::sleep(PAUSE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_waited_for_but_not_forever() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("raft.redb");
        assert!(until_released(&path, Duration::ZERO).unwrap(), "what is not there is not held");
        let holder = File::create(&path).unwrap();
        holder.lock().unwrap();
        assert!(!until_released(&path, Duration::from_millis(50)).unwrap());
        let (holding, held) = std::sync::mpsc::channel::<()>();
        let waiting = std::thread::spawn({
            let path = path.clone();
            move || {
                drop(holding);
                until_released(&path, Duration::from_secs(20)).unwrap()
            }
        });
        let _ = held.recv();
        drop(holder);
        assert!(waiting.join().unwrap());
    }
}
