//! Watches: each is a projection that follows the state.
//!
//! A watcher remembers what it has sent and sends the difference to what is there now. Revisions that pass while it
//! waits for its reader are merged, so a slow reader costs one projection and never a queue; one that takes nothing at
//! all for a minute is dropped and may come back with its last revision.

use std::time::Duration;

use api::hub as pb;
use hub_state::{Resources, Viewer, diff, projection};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::node::Node;
use crate::storage::Replica;
use crate::wire::{to_key, to_resource};

pub(crate) type WatchStream = ReceiverStream<Result<pb::WatchResponse, Status>>;

/// A reader that takes nothing for this long is dropped.
const STALLED: Duration = Duration::from_secs(60);
/// How long a replica that is behind the client's revision has to catch up.
const CATCH_UP: Duration = Duration::from_secs(5);

/// What one watcher has sent so far.
struct Watcher {
    replica: Replica,
    viewer: Viewer,
    sent: Resources,
    revision: u64,
    installs: u64,
    addresses: Vec<String>,
}

/// Starts a watch after `revision`.
pub(crate) async fn start(
    node: &Node,
    viewer: Viewer,
    revision: u64,
    draining: CancellationToken,
) -> Result<WatchStream, Status> {
    let mut position = node.replica().position();
    let caught_up = position.wait_for(|position| position.revision >= revision);
    if !matches!(tokio::time::timeout(CATCH_UP, caught_up).await, Ok(Ok(_))) {
        return Err(Status::unavailable(format!("this node has not applied revision {revision}; hint: ask another")));
    }
    let (sender, receiver) = mpsc::channel(2);
    let node = node.clone();
    tokio::spawn(async move {
        node.inner.metrics.watches.inc();
        run(&node, viewer, revision, sender, draining).await;
        node.inner.metrics.watches.dec();
    });
    Ok(ReceiverStream::new(receiver))
}

async fn run(
    node: &Node,
    viewer: Viewer,
    revision: u64,
    sender: mpsc::Sender<Result<pb::WatchResponse, Status>>,
    draining: CancellationToken,
) {
    // One place in the channel is kept for the last words.
    let Ok(last_words) = sender.clone().reserve_owned().await else { return };
    let mut position = node.replica().position();
    position.mark_changed();
    let (mut watcher, mut message) = Watcher::begin(node, viewer, revision);
    loop {
        if let Some(message) = message.take() {
            match tokio::time::timeout(STALLED, sender.reserve()).await {
                Ok(Ok(place)) => place.send(Ok(message)),
                Ok(Err(_)) => return,
                Err(_) => {
                    let why = "the watch was not read for a minute; hint: resume from the last revision";
                    last_words.send(Err(Status::resource_exhausted(why)));
                    return;
                }
            }
        }
        tokio::select! {
            () = draining.cancelled() => {
                last_words.send(Err(Status::unavailable("this node stops; hint: resume at another")));
                return;
            }
            () = sender.closed() => return,
            changed = position.changed() => if changed.is_err() {
                return;
            },
        }
        message = watcher.next(node);
    }
}

impl Watcher {
    /// The first message always comes, even if nothing changed: it carries the addresses and says where the client is.
    fn begin(node: &Node, viewer: Viewer, revision: u64) -> (Self, Option<pb::WatchResponse>) {
        let replica = node.replica().clone();
        let installs = replica.position().borrow().installs;
        let known = (revision > 0).then(|| replica.since(revision)).flatten();
        let is_snapshot = known.is_none();
        let sent = known.map(|resources| projection(&resources, &viewer)).unwrap_or_default();
        let mut watcher = Self { replica, viewer, sent, revision, installs, addresses: node.api_addresses() };
        let mut message = watcher.advance();
        message.snapshot = is_snapshot;
        message.hub_addresses = watcher.addresses.clone();
        (watcher, Some(message))
    }

    /// What to send now, if anything.
    fn next(&mut self, node: &Node) -> Option<pb::WatchResponse> {
        let position = *self.replica.position().borrow();
        let addresses = node.api_addresses();
        let moved = addresses != self.addresses;
        if position.revision == self.revision && position.installs == self.installs && !moved {
            return None;
        }
        self.installs = position.installs;
        let mut message = self.advance();
        if moved {
            message.hub_addresses = addresses.clone();
            self.addresses = addresses;
        }
        Some(message)
    }

    fn advance(&mut self) -> pb::WatchResponse {
        let (now, revision) =
            self.replica.read(|state| (projection(state.resources(), &self.viewer), state.revision()));
        let delta = diff(&self.sent, &now);
        self.sent = now;
        self.revision = revision;
        pb::WatchResponse {
            revision,
            snapshot: false,
            put: delta.put.iter().map(|(key, resource)| to_resource(key, resource)).collect(),
            deleted: delta.deleted.iter().map(to_key).collect(),
            hub_addresses: Vec::new(),
        }
    }
}
