//! Who sees a Service, and which of its endpoints come first: annotations of Istio and `trafficDistribution` of Kubernetes.

use federation_crds::{SERVICE_EXPORT_TO_ANNOTATION, Service, TRAFFIC_DISTRIBUTION_ANNOTATION};
use mesh::{Namespace, Visibility};

use crate::object::visibility;

/// Which endpoints of a Service clients want first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// `PreferClose`, `PreferSameZone`: those of the same subzone, zone, region.
    Zone,
    /// `PreferSameNode`: those of the same node. Nodes are not known, so that it is as [`Self::Zone`].
    Node,
    /// A value that means nothing.
    Unknown,
}

impl Distribution {
    /// Whether localities count.
    pub fn nearest_first(self) -> bool {
        matches!(self, Self::Zone | Self::Node)
    }
}

/// What a Service says: its field goes before Istio's annotation.
pub fn wanted(service: &Service) -> Option<Distribution> {
    let field = service.spec.as_ref().and_then(|spec| spec.traffic_distribution.as_deref());
    let annotation = || service.metadata.annotations.as_ref()?.get(TRAFFIC_DISTRIBUTION_ANNOTATION).map(String::as_str);
    let value = field.or_else(annotation)?;
    let is = |known: &&str| known.eq_ignore_ascii_case(value);
    Some(if ["PreferClose", "PreferSameZone"].iter().any(is) {
        Distribution::Zone
    } else if is(&"PreferSameNode") {
        Distribution::Node
    } else {
        Distribution::Unknown
    })
}

/// The annotation `networking.istio.io/exportTo`; without it everybody.
pub(super) fn visible_to(service: &Service, own: &Namespace) -> Visibility {
    let annotation = service.metadata.annotations.as_ref().and_then(|all| all.get(SERVICE_EXPORT_TO_ANNOTATION));
    let named: Vec<String> =
        annotation.iter().flat_map(|value| value.split(',')).map(|it| it.trim().to_owned()).collect();
    visibility(&named, own)
}
