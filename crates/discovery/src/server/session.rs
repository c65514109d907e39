//! The server's side of one stream, without any I/O: what the client has, what it may get, what to send next.
//!
//! At most one response per type is unacknowledged. Changes that come meanwhile are not queued: the next response is
//! the difference between what the client has and the newest snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use envoy_types::pb::google::protobuf::Any;

use super::snapshot::{Entry, Peer, Snapshot};
use crate::types::{Kind, WILDCARD};

/// Names that one client may subscribe to per type, so that its state stays bounded.
pub const MAX_NAMES: usize = 20_000;
/// Resources in one response.
const MAX_RESOURCES: usize = 512;
/// Bytes of resources in one response; a larger single resource travels alone.
const MAX_BYTES: usize = 1024 * 1024;

/// Why the server ends a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A type URL that this version does not know.
    #[error("type {0:?} is not known; hint: the client is newer than its agent")]
    UnknownType(String),
    /// More names than a client may have.
    #[error("more than {MAX_NAMES} names are subscribed to")]
    TooManyNames,
}

/// What one type on the stream stands at.
#[derive(Debug, Default)]
struct Subscription {
    /// Every visible resource is wanted.
    wildcard: bool,
    /// Wanted by name.
    names: BTreeSet<String>,
    /// What the client has, with versions; kept from when it was sent.
    has: BTreeMap<String, String>,
    /// Names that the client was told do not exist.
    told_absent: BTreeSet<String>,
    /// The nonce of the response that is not acknowledged yet.
    pending: Option<String>,
    /// A first response is owed even if it is empty: it tells the client that it is up to date.
    owes_first: bool,
}

/// How far a client has come with one type, for `/debug/clients`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Revision of the last acknowledged response.
    pub acked_revision: u64,
    /// Resources that the client has.
    pub resources: usize,
    /// The last refusal's text.
    pub refused: Option<String>,
}

/// The state of one client's stream.
#[derive(Debug)]
pub struct Session {
    peer: Peer,
    snapshot: Option<Arc<Snapshot>>,
    subscriptions: BTreeMap<Kind, Subscription>,
    progress: BTreeMap<Kind, Progress>,
    sent_revision: BTreeMap<Kind, u64>,
    nonce: u64,
}

impl Session {
    /// A stream of an admitted client.
    pub fn new(peer: Peer) -> Self {
        Self {
            peer,
            snapshot: None,
            subscriptions: BTreeMap::new(),
            progress: BTreeMap::new(),
            sent_revision: BTreeMap::new(),
            nonce: 0,
        }
    }

    /// The client.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// How far the client has come.
    pub fn progress(&self) -> &BTreeMap<Kind, Progress> {
        &self.progress
    }

    /// Takes a newer snapshot.
    pub fn handle_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        self.snapshot = Some(snapshot);
    }

    /// Takes a request: the first of a type, a change of subscription, an ack or a nack.
    pub fn handle_request(&mut self, request: &DeltaDiscoveryRequest) -> Result<(), Violation> {
        let kind = Kind::of_type_url(&request.type_url)
            .ok_or_else(|| Violation::UnknownType(request.type_url.chars().take(200).collect()))?;
        let first = !self.subscriptions.contains_key(&kind);
        let subscription = self.subscriptions.entry(kind).or_default();
        if first {
            subscription.owes_first = true;
            subscription.has = request.initial_resource_versions.clone().into_iter().collect();
            subscription.wildcard = request.resource_names_subscribe.is_empty();
        }
        if !request.response_nonce.is_empty() && subscription.pending.as_ref() == Some(&request.response_nonce) {
            subscription.pending = None;
            let progress = self.progress.entry(kind).or_default();
            progress.acked_revision = self.sent_revision.get(&kind).copied().unwrap_or_default();
            progress.refused = request.error_detail.as_ref().map(|status| status.message.clone());
        }
        for name in &request.resource_names_unsubscribe {
            subscription.unsubscribe(name);
        }
        for name in &request.resource_names_subscribe {
            subscription.subscribe(name, first);
        }
        if subscription.names.len() > MAX_NAMES || subscription.has.len() > MAX_NAMES {
            return Err(Violation::TooManyNames);
        }
        Ok(())
    }

    /// The next response, if one is due: call until it returns `None`.
    pub fn poll_response(&mut self) -> Option<DeltaDiscoveryResponse> {
        let snapshot = self.snapshot.clone()?;
        for kind in Kind::ALL {
            let Some(subscription) = self.subscriptions.get_mut(&kind) else { continue };
            if subscription.pending.is_some() {
                continue;
            }
            let allowed = |name: &str| self.peer.may_see(&snapshot, kind, name);
            let Some(mut response) = subscription.next(kind, &snapshot, &allowed) else {
                // Nothing to send is as good as acknowledged.
                if subscription.has_anything() {
                    let progress = self.progress.entry(kind).or_default();
                    progress.acked_revision = snapshot.revision;
                    progress.resources = subscription.has.len();
                }
                continue;
            };
            self.nonce += 1;
            response.nonce = self.nonce.to_string();
            subscription.pending = Some(response.nonce.clone());
            self.sent_revision.insert(kind, snapshot.revision);
            self.progress.entry(kind).or_default().resources = subscription.has.len();
            return Some(response);
        }
        None
    }
}

impl Subscription {
    fn has_anything(&self) -> bool {
        self.wildcard || !self.names.is_empty()
    }

    fn subscribe(&mut self, name: &str, first: bool) {
        if name == WILDCARD {
            self.wildcard = true;
            return;
        }
        self.names.insert(name.to_owned());
        self.told_absent.remove(name);
        // Who subscribes again wants an answer again, unless it said which version it has.
        if !first {
            self.has.remove(name);
        }
    }

    fn unsubscribe(&mut self, name: &str) {
        if name == WILDCARD {
            self.wildcard = false;
            let names = &self.names;
            self.has.retain(|name, _| names.contains(name));
            return;
        }
        self.names.remove(name);
        self.told_absent.remove(name);
        if !self.wildcard {
            self.has.remove(name);
        }
    }

    /// What the client lacks, and what it has and should not; `None` when it is up to date.
    fn next(
        &mut self,
        kind: Kind,
        snapshot: &Snapshot,
        allowed: &dyn Fn(&str) -> bool,
    ) -> Option<DeltaDiscoveryResponse> {
        let removed = self.removals(kind, snapshot, allowed);
        let mut resources = Vec::new();
        let mut size = 0;
        let candidates: Vec<(&String, &Arc<Entry>)> = if self.wildcard {
            snapshot.of_kind(kind).collect()
        } else {
            self.names.iter().filter_map(|name| Some((name, snapshot.get(kind, name)?))).collect()
        };
        for (name, entry) in candidates {
            if !allowed(name) || self.has.get(name) == Some(&entry.version) {
                continue;
            }
            if !resources.is_empty() && (resources.len() >= MAX_RESOURCES || size + entry.bytes.len() > MAX_BYTES) {
                break;
            }
            size += entry.bytes.len();
            self.has.insert(name.clone(), entry.version.clone());
            self.told_absent.remove(name);
            resources.push(Resource {
                name: name.clone(),
                version: entry.version.clone(),
                resource: Some(Any { type_url: kind.type_url().to_owned(), value: entry.bytes.clone() }),
                ..Resource::default()
            });
        }
        if resources.is_empty() && removed.is_empty() && !self.owes_first {
            return None;
        }
        self.owes_first = false;
        Some(DeltaDiscoveryResponse {
            system_version_info: snapshot.revision.to_string(),
            type_url: kind.type_url().to_owned(),
            resources,
            removed_resources: removed,
            ..DeltaDiscoveryResponse::default()
        })
    }

    fn removals(&mut self, kind: Kind, snapshot: &Snapshot, allowed: &dyn Fn(&str) -> bool) -> Vec<String> {
        let exists = |name: &str| snapshot.get(kind, name).is_some() && allowed(name);
        let mut removed: BTreeSet<String> = self.has.keys().filter(|name| !exists(name)).cloned().collect();
        let untold = self.names.iter().filter(|name| !self.told_absent.contains(*name) && !exists(name));
        removed.extend(untold.cloned());
        for name in &removed {
            self.has.remove(name);
            if self.names.contains(name) {
                self.told_absent.insert(name.clone());
            }
        }
        removed.into_iter().collect()
    }
}
