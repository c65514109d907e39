//! The flows of datagrams that a workload has open, whichever way they came.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use bytes::Bytes;
use proxy::outbound::{Dialled, Outbound};
use proxy::udp::{Deliver, QUEUE};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long flows may take to end after whoever they belong to.
const END: Duration = Duration::from_secs(5);

/// Where a flow goes, and where its answers go.
pub(crate) struct Begin {
    pub(crate) dialled: Dialled,
    pub(crate) deliver: Deliver,
}

/// At most so many flows, told apart by `K`. One more ends that of which nothing was heard for longest.
pub(crate) struct Flows<K> {
    outbound: Outbound,
    most: usize,
    open: HashMap<K, Flow>,
    tasks: JoinSet<()>,
}

struct Flow {
    queue: mpsc::Sender<Bytes>,
    /// When the workload last sent.
    used: Instant,
}

impl<K: Eq + Hash + Clone> Flows<K> {
    pub(crate) fn new(outbound: Outbound, most: usize) -> Self {
        Self { outbound, most, open: HashMap::new(), tasks: JoinSet::new() }
    }

    /// Hands a datagram to its flow, which begins if there is none. Never waits: a datagram for which a flow has no room is
    /// dropped.
    pub(crate) fn send(&mut self, key: &K, payload: &[u8], begin: impl FnOnce() -> Option<Begin>) {
        let payload = Bytes::copy_from_slice(payload);
        let sent = self.open.get_mut(key).map(|flow| {
            flow.used = Instant::now();
            flow.queue.try_send(payload.clone())
        });
        match sent {
            Some(Ok(())) => return,
            Some(Err(TrySendError::Full(_))) => return self.outbound.dropped_datagram(),
            // It ended, or there was none.
            Some(Err(TrySendError::Closed(_))) | None => {}
        }
        let Some(Begin { dialled, deliver }) = begin() else { return self.outbound.dropped_datagram() };
        self.make_room();
        let (queue, from) = mpsc::channel(QUEUE);
        // There is room for the first.
        let _ = queue.try_send(payload);
        let outbound = self.outbound.clone();
        self.tasks.spawn(async move { outbound.datagrams(from, deliver, dialled).await });
        self.open.insert(key.clone(), Flow { queue, used: Instant::now() });
    }

    /// Counts a datagram that belongs to no flow.
    pub(crate) fn dropped(&self) {
        self.outbound.dropped_datagram();
    }

    /// Waits until a flow has ended; `None` at once while there is none.
    pub(crate) async fn ended(&mut self) -> Option<()> {
        self.tasks.join_next().await.map(drop)
    }

    /// Ends all; each writes its record.
    pub(crate) async fn end(mut self) {
        self.open.clear();
        let _ = tokio::time::timeout(END, async { while self.ended().await.is_some() {} }).await;
    }

    fn make_room(&mut self) {
        if self.open.len() < self.most {
            return;
        }
        self.open.retain(|_, flow| !flow.queue.is_closed());
        if self.open.len() >= self.most
            && let Some(oldest) = self.open.iter().min_by_key(|(_, flow)| flow.used).map(|(key, _)| key.clone())
        {
            self.open.remove(&oldest);
        }
    }
}
