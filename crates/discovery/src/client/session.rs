//! The client's side of discovery, without any I/O: what it holds, what it asks for, what it answers.
//!
//! It outlives streams: a new stream opens with the versions held, so that only differences travel.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::google::rpc::Status;
use mesh::View;

use super::wanted::Wanted;
use crate::delta::{self, Delta, Rejected};
use crate::types::{Kind, NodeId, WILDCARD};

/// gRPC's INVALID_ARGUMENT, which a nack carries.
const INVALID_ARGUMENT: i32 = 3;

/// A resource as it was received: what goes back into the cache and, as versions, to a new stream.
#[derive(Debug, Clone, PartialEq)]
struct Held {
    version: String,
    bytes: Vec<u8>,
}

/// What is known now, for readers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// The last good state.
    pub(crate) view: Arc<View>,
    /// What was asked for and does not exist.
    pub(crate) absent: Arc<BTreeSet<Wanted>>,
    /// Kinds of which a complete answer (or cache) was seen.
    pub(crate) complete: BTreeSet<Kind>,
}

/// What a response led to.
#[derive(Debug)]
pub(crate) struct Handled {
    /// The ack or nack to send.
    pub(crate) reply: DeltaDiscoveryRequest,
    /// Resources that were refused.
    pub(crate) rejected: Vec<Rejected>,
}

/// The state of the client.
#[derive(Debug)]
pub(crate) struct Session {
    node: NodeId,
    known: Known,
    held: BTreeMap<Kind, BTreeMap<String, Held>>,
    /// Subscribed to by name; sidecars only.
    wanted: BTreeSet<Wanted>,
    /// Kinds whose first request went out on the current stream; empty without one.
    opened: BTreeSet<Kind>,
}

impl Session {
    pub(crate) fn new(node: NodeId) -> Self {
        Self { node, known: Known::default(), held: BTreeMap::new(), wanted: BTreeSet::new(), opened: BTreeSet::new() }
    }

    /// What is known now.
    pub(crate) fn known(&self) -> &Known {
        &self.known
    }

    /// Subscribed to by name.
    pub(crate) fn wanted(&self) -> &BTreeSet<Wanted> {
        &self.wanted
    }

    /// The requests that open a stream.
    pub(crate) fn handle_connected(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.opened.clear();
        let mut requests: Vec<_> = self.node.role.wildcards().iter().map(|kind| self.first_request(*kind)).collect();
        let by_name = Kind::BY_NAME.into_iter().filter(|kind| self.wanted.iter().any(|wanted| wanted.kind() == *kind));
        requests.extend(by_name.map(|kind| self.first_request(kind)));
        self.opened.extend(requests.iter().filter_map(|request| Kind::of_type_url(&request.type_url)));
        requests
    }

    /// The stream is gone; subscriptions are kept for the next one.
    pub(crate) fn handle_disconnected(&mut self) {
        self.opened.clear();
    }

    /// Subscribes to a resource; the request goes out now if there is a stream.
    pub(crate) fn handle_subscribe(&mut self, wanted: Wanted) -> Option<DeltaDiscoveryRequest> {
        if !self.node.role.is_workload() || !self.wanted.insert(wanted.clone()) || !self.connected() {
            return None;
        }
        let kind = wanted.kind();
        if self.opened.insert(kind) {
            return Some(self.first_request(kind));
        }
        Some(DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: vec![wanted.name()],
            ..DeltaDiscoveryRequest::default()
        })
    }

    /// Ends subscriptions and forgets what they brought.
    pub(crate) fn handle_unsubscribe(&mut self, names: Vec<Wanted>) -> Vec<DeltaDiscoveryRequest> {
        let names: Vec<_> = names.into_iter().filter(|name| self.wanted.remove(name)).collect();
        if names.is_empty() {
            return Vec::new();
        }
        for name in &names {
            if let Some(held) = self.held.get_mut(&name.kind()) {
                held.remove(&name.name());
            }
        }
        let absent = Arc::make_mut(&mut self.known.absent);
        absent.retain(|name| !names.contains(name));
        let revision = self.known.view.revision;
        let removed = names.iter().cloned().map(Wanted::into_removed).collect();
        self.known.view = Arc::new(delta::apply(&self.known.view, Delta { revision, put: Vec::new(), removed }));
        let request = |kind: Kind| {
            let of_kind = names.iter().filter(|name| name.kind() == kind).map(Wanted::name);
            let resource_names_unsubscribe: Vec<String> = of_kind.collect();
            let due = self.connected() && self.opened.contains(&kind) && !resource_names_unsubscribe.is_empty();
            let type_url = kind.type_url().to_owned();
            due.then(|| DeltaDiscoveryRequest { type_url, resource_names_unsubscribe, ..Default::default() })
        };
        Kind::BY_NAME.into_iter().filter_map(request).collect()
    }

    /// Merges a response. `None` for a type that was never asked for.
    pub(crate) fn handle_response(&mut self, response: &DeltaDiscoveryResponse) -> Option<Handled> {
        let kind = Kind::of_type_url(&response.type_url)?;
        let rejected = self.merge(kind, response);
        let error_detail = (!rejected.is_empty()).then(|| {
            let texts: Vec<String> = rejected.iter().take(10).map(ToString::to_string).collect();
            Status { code: INVALID_ARGUMENT, message: texts.join("; "), details: Vec::new() }
        });
        let reply = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail,
            ..DeltaDiscoveryRequest::default()
        };
        Some(Handled { reply, rejected })
    }

    /// What the cache keeps: one response per kind that was answered.
    pub(crate) fn export(&self) -> Vec<DeltaDiscoveryResponse> {
        let revision = self.known.view.revision.to_string();
        // Private keys stay in memory.
        let complete = self.known.complete.iter().filter(|kind| **kind != Kind::Secret);
        complete.map(|kind| self.export_kind(*kind, revision.clone())).collect()
    }

    /// Restores what [`Session::export`] gave; whatever does not decode is left out and returned.
    pub(crate) fn import(&mut self, cached: &[DeltaDiscoveryResponse]) -> Vec<Rejected> {
        let mut rejected = Vec::new();
        for response in cached {
            let Some(kind) = Kind::of_type_url(&response.type_url) else { continue };
            if self.node.role.is_workload() && Kind::BY_NAME.contains(&kind) {
                let present = response.resources.iter().map(|resource| &resource.name);
                let names = present.chain(&response.removed_resources);
                self.wanted.extend(names.filter_map(|name| Wanted::parse(kind, name)));
            }
            rejected.extend(self.merge(kind, response));
        }
        rejected
    }

    fn connected(&self) -> bool {
        !self.opened.is_empty()
    }

    fn first_request(&self, kind: Kind) -> DeltaDiscoveryRequest {
        let wildcard = self.node.role.wildcards().contains(&kind);
        let names = if wildcard {
            vec![WILDCARD.to_owned()]
        } else {
            self.wanted.iter().filter(|wanted| wanted.kind() == kind).map(Wanted::name).collect()
        };
        let held = self.held.get(&kind).into_iter().flatten();
        DeltaDiscoveryRequest {
            node: Some(Node { id: self.node.to_string(), ..Node::default() }),
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: names,
            initial_resource_versions: held.map(|(name, held)| (name.clone(), held.version.clone())).collect(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn merge(&mut self, kind: Kind, response: &DeltaDiscoveryResponse) -> Vec<Rejected> {
        let (mut delta, rejected) = delta::decode(kind, response);
        let by_name = Kind::BY_NAME.contains(&kind) && self.node.role.is_workload();
        let wanted = &self.wanted;
        if by_name {
            // An answer may cross with an unsubscription.
            delta.put.retain(|item| Wanted::of_item(item).is_none_or(|item| wanted.contains(&item)));
        }
        let refused: BTreeSet<&str> = rejected.iter().map(|rejected| rejected.name.as_str()).collect();
        let held = self.held.entry(kind).or_default();
        for name in &response.removed_resources {
            held.remove(name);
        }
        for resource in response.resources.iter().filter(|resource| !refused.contains(resource.name.as_str())) {
            let unwanted = by_name && !Wanted::parse(kind, &resource.name).is_some_and(|name| wanted.contains(&name));
            if let (Some(any), false) = (&resource.resource, unwanted) {
                let value = Held { version: resource.version.clone(), bytes: any.value.clone() };
                held.insert(resource.name.clone(), value);
            }
        }
        if by_name {
            note_absence(Arc::make_mut(&mut self.known.absent), &delta, wanted);
        }
        self.known.view = Arc::new(delta::apply(&self.known.view, delta));
        self.known.complete.insert(kind);
        rejected
    }

    fn export_kind(&self, kind: Kind, revision: String) -> DeltaDiscoveryResponse {
        let held = self.held.get(&kind).into_iter().flatten();
        let resources = held.map(|(name, held)| Resource {
            name: name.clone(),
            version: held.version.clone(),
            resource: Some(Any { type_url: kind.type_url().to_owned(), value: held.bytes.clone() }),
            ..Resource::default()
        });
        let absent = self.known.absent.iter().filter(|absent| absent.kind() == kind);
        DeltaDiscoveryResponse {
            system_version_info: revision,
            type_url: kind.type_url().to_owned(),
            resources: resources.collect(),
            removed_resources: absent.map(Wanted::name).collect(),
            ..DeltaDiscoveryResponse::default()
        }
    }
}

fn note_absence(absent: &mut BTreeSet<Wanted>, delta: &Delta, wanted: &BTreeSet<Wanted>) {
    for present in delta.put.iter().filter_map(Wanted::of_item) {
        absent.remove(&present);
    }
    let removed = delta.removed.iter().filter_map(Wanted::of_removed);
    absent.extend(removed.filter(|removed| wanted.contains(removed)));
}
