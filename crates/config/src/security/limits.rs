//! RateLimitPolicy.

use mesh::RateLimit;

use super::Scoped;
use crate::compile::Input;
use crate::finding::Finding;
use crate::mesh_config::MeshConfig;

/// Reads them all, in an order that does not depend on the manifests'.
pub(super) fn read(_: &Input<'_>, _: &MeshConfig, _: &mut Vec<Finding>) -> Vec<Scoped<RateLimit>> {
    Vec::new()
}
