//! Who asks, and for what.

use super::{Entry, RouteRequest};
use crate::model::{Labels, View, Workload};
use crate::names::Namespace;
use crate::policy::{DestinationRules, OutboundPolicy, Visibility};
use crate::topology::Placed;

/// The arguments of a decision.
pub(super) struct Context<'a> {
    pub(super) view: &'a View,
    pub(super) request: &'a RouteRequest<'a>,
    /// The client: the workload beside the proxy, or the gateway itself. Without one only what is for everyone is seen.
    workload: Option<&'a Workload>,
}

impl<'a> Context<'a> {
    pub(super) fn new(view: &'a View, request: &'a RouteRequest<'a>) -> Self {
        Self { view, request, workload: view.workload.as_deref() }
    }

    pub(super) fn workload(&self) -> Option<&'a Workload> {
        self.workload
    }

    /// The port that was dialled, which rules mean by `port`.
    pub(super) fn dialled(&self) -> u16 {
        match self.request.entry {
            Entry::Workload => self.request.port,
            Entry::Gateway(port) => port,
        }
    }

    pub(super) fn is_in(&self, namespace: &Namespace) -> bool {
        self.workload.is_some_and(|workload| workload.namespace == *namespace)
    }

    pub(super) fn has_labels(&self, wanted: &Labels) -> bool {
        wanted.is_empty() || self.placed().is_some_and(|client| client.has(wanted))
    }

    /// A label of the client, those included that say where it is.
    pub(super) fn label(&self, key: &str) -> Option<&'a str> {
        self.placed()?.label(key)
    }

    fn placed(&self) -> Option<Placed<'a>> {
        let Workload { labels, locality, .. } = self.workload?;
        Some(Placed { labels, locality, cluster: self.view.cluster() })
    }

    pub(super) fn sees(&self, visibility: &Visibility) -> bool {
        match self.workload {
            Some(workload) => visibility.includes(&workload.namespace),
            None => *visibility == Visibility::Everywhere,
        }
    }

    pub(super) fn is_governed_by(&self, rules: &DestinationRules) -> bool {
        match self.workload {
            Some(workload) => rules.applies_to(&workload.namespace, &workload.labels),
            None => rules.of_service && rules.workload_selector.is_empty() && self.sees(&rules.visible_to),
        }
    }

    /// `region/zone/subzone`, or empty.
    pub(super) fn locality(&self) -> &'a str {
        self.workload.map_or("", |workload| workload.locality.as_str())
    }

    /// What a Sidecar says; a gateway has none.
    pub(super) fn outbound(&self) -> Option<&'a OutboundPolicy> {
        let of_workload = self.request.entry == Entry::Workload;
        self.workload.filter(|_| of_workload).map(|workload| &workload.config.outbound)
    }
}
