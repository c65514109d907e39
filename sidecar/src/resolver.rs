//! Hosts outside the mesh, asked of the cluster's DNS shim.

pub use proxy::resolve::ShimResolver;
