//! The client's side of discovery, without any I/O: what it holds, what it asks for, what it answers.
//!
//! It outlives streams: a new stream opens with the versions held, so that only differences travel.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::google::rpc::Status;
use mesh::{ServiceName, View};

use crate::delta::{self, Delta, Item, Rejected, Removed};
use crate::types::{Kind, NodeId, Role, WILDCARD};

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
    /// Services that were asked for and do not exist.
    pub(crate) absent: Arc<BTreeSet<ServiceName>>,
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
    /// Services subscribed to by name; sidecars only.
    wanted: BTreeSet<ServiceName>,
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

    /// Services subscribed to by name.
    pub(crate) fn wanted(&self) -> &BTreeSet<ServiceName> {
        &self.wanted
    }

    /// The requests that open a stream.
    pub(crate) fn handle_connected(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.opened.clear();
        let mut requests: Vec<_> = self.node.role.wildcards().iter().map(|kind| self.first_request(*kind)).collect();
        if !self.wanted.is_empty() {
            requests.push(self.first_request(Kind::Service));
        }
        self.opened.extend(requests.iter().filter_map(|request| Kind::of_type_url(&request.type_url)));
        requests
    }

    /// The stream is gone; subscriptions are kept for the next one.
    pub(crate) fn handle_disconnected(&mut self) {
        self.opened.clear();
    }

    /// Subscribes to a service; the request goes out now if there is a stream.
    pub(crate) fn handle_subscribe(&mut self, name: ServiceName) -> Option<DeltaDiscoveryRequest> {
        if self.node.role != Role::Sidecar || !self.wanted.insert(name.clone()) || !self.connected() {
            return None;
        }
        if self.opened.insert(Kind::Service) {
            return Some(self.first_request(Kind::Service));
        }
        Some(DeltaDiscoveryRequest {
            type_url: Kind::Service.type_url().to_owned(),
            resource_names_subscribe: vec![name.to_string()],
            ..DeltaDiscoveryRequest::default()
        })
    }

    /// Ends subscriptions and forgets what they brought.
    pub(crate) fn handle_unsubscribe(&mut self, names: Vec<ServiceName>) -> Option<DeltaDiscoveryRequest> {
        let names: Vec<_> = names.into_iter().filter(|name| self.wanted.remove(name)).collect();
        if names.is_empty() {
            return None;
        }
        let texts: Vec<String> = names.iter().map(ToString::to_string).collect();
        if let Some(held) = self.held.get_mut(&Kind::Service) {
            texts.iter().for_each(|name| drop(held.remove(name)));
        }
        let absent = Arc::make_mut(&mut self.known.absent);
        absent.retain(|name| !names.contains(name));
        let revision = self.known.view.revision;
        let removed = names.into_iter().map(Removed::Service).collect();
        self.known.view = Arc::new(delta::apply(&self.known.view, Delta { revision, put: Vec::new(), removed }));
        (self.connected() && self.opened.contains(&Kind::Service)).then(|| DeltaDiscoveryRequest {
            type_url: Kind::Service.type_url().to_owned(),
            resource_names_unsubscribe: texts,
            ..DeltaDiscoveryRequest::default()
        })
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
            if self.node.role == Role::Sidecar && kind == Kind::Service {
                let present = response.resources.iter().map(|resource| &resource.name);
                let names = present.chain(&response.removed_resources);
                self.wanted.extend(names.filter_map(|name| name.parse::<ServiceName>().ok()));
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
        let names =
            if wildcard { vec![WILDCARD.to_owned()] } else { self.wanted.iter().map(ToString::to_string).collect() };
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
        let by_name = kind == Kind::Service && self.node.role == Role::Sidecar;
        let wanted = &self.wanted;
        if by_name {
            // An answer may cross with an unsubscription.
            delta.put.retain(|item| !matches!(item, Item::Service(service) if !wanted.contains(&service.name)));
        }
        let refused: BTreeSet<&str> = rejected.iter().map(|rejected| rejected.name.as_str()).collect();
        let held = self.held.entry(kind).or_default();
        for name in &response.removed_resources {
            held.remove(name);
        }
        for resource in response.resources.iter().filter(|resource| !refused.contains(resource.name.as_str())) {
            let unwanted = by_name && !resource.name.parse().is_ok_and(|name: ServiceName| wanted.contains(&name));
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
        let absent = if kind == Kind::Service { self.known.absent.iter().collect() } else { Vec::new() };
        DeltaDiscoveryResponse {
            system_version_info: revision,
            type_url: kind.type_url().to_owned(),
            resources: resources.collect(),
            removed_resources: absent.into_iter().map(ToString::to_string).collect(),
            ..DeltaDiscoveryResponse::default()
        }
    }
}

fn note_absence(absent: &mut BTreeSet<ServiceName>, delta: &Delta, wanted: &BTreeSet<ServiceName>) {
    for item in &delta.put {
        if let Item::Service(service) = item {
            absent.remove(&service.name);
        }
    }
    for removed in &delta.removed {
        if let Removed::Service(name) = removed
            && wanted.contains(name)
        {
            absent.insert(name.clone());
        }
    }
}
