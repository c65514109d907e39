//! The access log: one JSON object a line on stdout, for every request or connection.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::registry::Registry;

/// How many lines wait for a slow reader before lines are dropped.
const QUEUE: usize = 2048;

/// The longest line, in bytes; longer ones are dropped. With [`QUEUE`] it bounds the memory of the log.
const LINE_MAX: usize = 16 * 1024;

/// Hands lines to a thread that writes them, so that a slow reader never holds up a request: what does not fit the queue
/// is dropped and counted in `isthmus_access_log_dropped_total`. Clones are the same log.
#[derive(Debug, Clone)]
pub struct AccessLog {
    queue: Option<SyncSender<Message>>,
    dropped: Counter,
}

enum Message {
    Line(Vec<u8>),
    Flush(oneshot::Sender<()>),
}

impl AccessLog {
    /// Writes to stdout. An error says that no thread could be started.
    pub fn stdout(registry: &Registry) -> io::Result<Self> {
        Self::to_writer(io::stdout(), registry)
    }

    /// Writes to anything, from a thread of its own.
    pub fn to_writer(writer: impl Write + Send + 'static, registry: &Registry) -> io::Result<Self> {
        let dropped: Counter = registry.make("isthmus_access_log_dropped", "Access log lines dropped");
        let (queue, lines) = sync_channel(QUEUE);
        let lost = dropped.clone();
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || write_lines(writer, &lines, &lost))?;
        Ok(Self { queue: Some(queue), dropped })
    }

    /// Writes nothing.
    pub fn disabled() -> Self {
        Self { queue: None, dropped: Counter::default() }
    }

    /// Logs a line; never waits.
    pub fn record(&self, entry: &impl Serialize) {
        let Some(queue) = &self.queue else { return };
        let mut line = Vec::with_capacity(512);
        if serde_json::to_writer(&mut line, entry).is_err() || line.len() >= LINE_MAX {
            self.dropped.inc();
            return;
        }
        line.push(b'\n');
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = queue.try_send(Message::Line(line)) {
            self.dropped.inc();
        }
    }

    /// How many lines were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// Waits until all that was recorded before is written, at most for `limit`; says whether that came true. Called once
    /// at the end of a process.
    pub async fn flush(&self, limit: Duration) -> bool {
        let Some(queue) = self.queue.clone() else { return true };
        let (done, written) = oneshot::channel();
        let deadline = tokio::time::Instant::now() + limit;
        let mut message = Message::Flush(done);
        // A full queue is polled: its writer is a plain thread that cannot wake a task.
        while let Err(TrySendError::Full(back)) = queue.try_send(message) {
            if tokio::time::Instant::now() >= deadline {
                return false;
            }
            message = back;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        matches!(tokio::time::timeout_at(deadline, written).await, Ok(Ok(())))
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Message")
    }
}

/// Ends when the last clone of the log is dropped.
fn write_lines(writer: impl Write, lines: &Receiver<Message>, lost: &Counter) {
    let mut out = io::BufWriter::with_capacity(64 * 1024, writer);
    while let Ok(first) = lines.recv() {
        let mut flushed = Vec::new();
        // Whatever else waits goes out with the same system call.
        for message in std::iter::once(first).chain(lines.try_iter().take(QUEUE)) {
            match message {
                Message::Line(line) if out.write_all(&line).is_err() => {
                    lost.inc();
                }
                Message::Line(_) => {}
                Message::Flush(done) => flushed.push(done),
            }
        }
        let written = out.flush().is_ok();
        for done in flushed.into_iter().filter(|_| written) {
            // Nobody may be waiting any more.
            let _ = done.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Blocks in its first write until it is told to go on.
    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn each_record_is_one_line_of_json() {
        let out = Shared::default();
        let log = AccessLog::to_writer(out.clone(), &Registry::default()).unwrap();
        log.record(&serde_json::json!({"path": "/a\nb"}));
        log.record(&serde_json::json!({"path": "/c"}));
        assert!(log.flush(Duration::from_secs(10)).await);
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "{\"path\":\"/a\\nb\"}\n{\"path\":\"/c\"}\n");
    }

    #[test]
    fn a_reader_that_is_stuck_holds_up_nobody_and_the_drops_are_counted() {
        let (go_on, stuck) = mpsc::channel();
        let log = AccessLog::to_writer(Stuck(stuck), &Registry::default()).unwrap();
        let line = "x".repeat(1000);
        for _ in 0..3 * QUEUE {
            log.record(&line);
        }
        assert!(log.dropped() > 0);
        drop(go_on);
    }

    #[test]
    fn a_line_that_is_too_long_is_dropped_and_counted() {
        let log = AccessLog::to_writer(Shared::default(), &Registry::default()).unwrap();
        log.record(&"x".repeat(LINE_MAX));
        assert_eq!(log.dropped(), 1);
    }
}
