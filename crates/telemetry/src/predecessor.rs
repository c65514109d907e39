//! What a killed process still holds for a moment, when its successor starts at once: the kernel closes its sockets and files only
//! when its last thread is gone.

use std::fmt::Display;
use std::io;
use std::time::Duration;

use tokio::time::Instant;

/// How long a start waits for its predecessor.
pub const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// Opens a listener, a socket or another thing that only one process can have, again and again while somebody else has it, for at
/// most [`PREDECESSOR_PATIENCE`]. Says once that it waits. Any other error, and the last one, is returned.
pub async fn when_free<T, F>(what: impl Display, mut open: impl FnMut() -> F) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let deadline = Instant::now() + PREDECESSOR_PATIENCE;
    let mut told = false;
    loop {
        match open().await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                if !told {
                    tracing::warn!(%what, "another process still holds it; waiting for its end");
                    told = true;
                }
                tokio::time::sleep(PAUSE).await;
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(kind: io::ErrorKind, times: u32) -> impl FnMut() -> std::future::Ready<io::Result<u32>> {
        let mut attempts = 0;
        move || {
            attempts += 1;
            std::future::ready(if attempts <= times { Err(kind.into()) } else { Ok(attempts) })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_is_waited_for_and_nothing_else() {
        assert_eq!(when_free("a port", failing(io::ErrorKind::AddrInUse, 20)).await.ok(), Some(21));
        let denied = when_free("a port", failing(io::ErrorKind::PermissionDenied, 1)).await;
        assert_eq!(denied.map_err(|error| error.kind()), Err(io::ErrorKind::PermissionDenied));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stranger_is_not_waited_for_forever() {
        let began = Instant::now();
        let held = when_free("a port", failing(io::ErrorKind::AddrInUse, u32::MAX)).await;
        assert_eq!(held.map_err(|error| error.kind()), Err(io::ErrorKind::AddrInUse));
        assert!((5..6).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    }
}
