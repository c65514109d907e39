//! Pings that notice a peer which is gone without a word.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use h2::{Ping, PingPong};
use tokio::time::{Instant, sleep, timeout};

use super::Settings;

/// Counts the streams of a connection; each holds one [`InUse`].
#[derive(Debug, Clone, Default)]
pub(super) struct Streams(Arc<AtomicUsize>);

impl Streams {
    /// How many streams are open.
    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts one stream until the guard is dropped.
    pub(super) fn enter(&self) -> InUse {
        self.0.fetch_add(1, Ordering::Relaxed);
        InUse(self.clone())
    }
}

/// One open stream.
#[derive(Debug)]
pub(super) struct InUse(Streams);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Returns when the peer no longer answers. Never returns when `ping` is `None`.
pub(super) async fn until_silent(ping: Option<PingPong>, settings: &Settings, streams: &Streams) {
    let Some(mut ping) = ping else { return std::future::pending().await };
    let mut last = Instant::now();
    loop {
        sleep(settings.ping_in_use).await;
        if streams.count() == 0 && last.elapsed() < settings.ping_idle {
            continue;
        }
        match timeout(settings.ping_timeout, ping.ping(Ping::opaque())).await {
            Ok(Ok(_)) => last = Instant::now(),
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
