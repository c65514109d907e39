//! `GET /isthmus/paths`: the health of the connections to other gateways as a stream, all at the start, then changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::tunnel::PathEvent;
use proxy::hbone::Incoming;
use proxy::tunnel::encode_event;
use tokio::io::AsyncWriteExt;

use crate::context::Context;
use crate::paths::PathStates;

/// Streams until the peer goes away or the gateway drains.
pub(crate) async fn stream(context: &Context, incoming: Incoming) {
    let Ok(mut body) = incoming.accept(Vec::new()) else { return };
    let mut states = context.paths.states();
    let draining = context.shutdown.draining();
    let mut known: Arc<PathStates> = Arc::new(BTreeMap::new());
    loop {
        let now = Arc::clone(&states.borrow_and_update());
        for event in changes(&known, &now) {
            if body.write_all(&encode_event(&event)).await.is_err() {
                return;
            }
        }
        known = now;
        tokio::select! {
            changed = states.changed() => if changed.is_err() { break },
            () = draining.cancelled() => break,
        }
    }
    let _ = body.shutdown().await;
}

/// What has to be told to somebody who knows `before`. A path that is gone is told as unusable.
fn changes(before: &PathStates, now: &PathStates) -> Vec<PathEvent> {
    let event =
        |id: &String, cluster: &str, usable| PathEvent { path: id.clone(), cluster: cluster.to_owned(), usable };
    let changed = now.iter().filter(|(id, state)| before.get(*id) != Some(state));
    let gone = before.iter().filter(|(id, state)| state.usable && !now.contains_key(*id));
    changed
        .map(|(id, state)| event(id, state.cluster.as_str(), state.usable))
        .chain(gone.map(|(id, state)| event(id, state.cluster.as_str(), false)))
        .collect()
}
