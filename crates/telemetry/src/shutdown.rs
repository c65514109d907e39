//! How a process stops, in two steps: it drains (no new work, what runs goes on), then it ends.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The two steps as tokens, and the work that draining waits for. Clones are the same shutdown. Invariant: what has ended
/// has begun to drain.
#[derive(Debug, Clone)]
pub struct Shutdown {
    draining: CancellationToken,
    ended: CancellationToken,
    work: TaskTracker,
}

impl Shutdown {
    /// Stopped only by [`Shutdown::drain`] and [`Shutdown::end`]: for tests, and for components inside a process.
    pub fn manual() -> Self {
        Self { draining: CancellationToken::new(), ended: CancellationToken::new(), work: TaskTracker::new() }
    }

    /// The first SIGTERM or SIGINT drains, the second ends. Must be called inside a runtime.
    pub fn on_signals() -> io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = Self::manual();
        let stopped = shutdown.clone();
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                    () = stopped.ended.cancelled() => return,
                };
                if stopped.draining.is_cancelled() {
                    tracing::info!(signal = name, "ending at once");
                    stopped.end();
                } else {
                    tracing::info!(signal = name, "draining");
                    stopped.drain();
                }
            }
        });
        Ok(shutdown)
    }

    /// Cancelled when no new work may begin.
    pub fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Cancelled when everything must stop.
    pub fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Begins to drain.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Ends, drained or not.
    pub fn end(&self) {
        self.draining.cancel();
        self.ended.cancel();
    }

    /// Runs a piece of work (a connection, a stream) that draining waits for.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.work.spawn(work)
    }

    /// How many pieces of work run.
    pub fn in_flight(&self) -> usize {
        self.work.len()
    }

    /// Waits until no work runs, at most for `limit`; says whether that came true.
    pub async fn wait_idle(&self, limit: Duration) -> bool {
        self.work.close();
        tokio::time::timeout(limit, self.work.wait()).await.is_ok()
    }

    /// What a binary ends its `run` with: waits for the drain to begin, lets work go on for at most `drain_period`, then
    /// ends. A second signal cuts it short. Says whether all work was done.
    pub async fn finish(&self, drain_period: Duration) -> bool {
        self.draining.cancelled().await;
        let idle = tokio::select! {
            idle = self.wait_idle(drain_period) => idle,
            () = self.ended.cancelled() => self.work.is_empty(),
        };
        self.end();
        idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_ends_as_soon_as_the_work_is_done() {
        let shutdown = Shutdown::manual();
        let work = shutdown.spawn(tokio::time::sleep(Duration::from_secs(2)));
        shutdown.drain();
        let begun = tokio::time::Instant::now();
        assert!(shutdown.finish(Duration::from_secs(30)).await);
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
        assert!(work.is_finished() && shutdown.ended().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_does_not_end_is_left_after_the_drain_period() {
        let shutdown = Shutdown::manual();
        shutdown.spawn(std::future::pending::<()>());
        shutdown.drain();
        assert!(!shutdown.ended().is_cancelled());
        assert!(!shutdown.finish(Duration::from_secs(5)).await);
        assert!(shutdown.ended().is_cancelled());
    }

    #[tokio::test]
    async fn ending_cuts_a_drain_short() {
        let shutdown = Shutdown::manual();
        shutdown.spawn(std::future::pending::<()>());
        shutdown.end();
        assert!(shutdown.draining().is_cancelled());
        assert!(!shutdown.finish(Duration::from_secs(3600)).await);
    }
    fn signal_self(name: &str) {
        let sent = std::process::Command::new("kill").args([name, &std::process::id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    #[tokio::test]
    async fn the_first_signal_drains_and_the_second_ends() {
        let shutdown = Shutdown::on_signals().unwrap();
        signal_self("-TERM");
        shutdown.draining().cancelled().await;
        assert!(!shutdown.ended().is_cancelled());
        signal_self("-INT");
        shutdown.ended().cancelled().await;
    }
}
