//! Gateway, the VirtualServices bound to it, and Secrets, compiled.

use crate::compile::{Compiled, Input};
use crate::mesh_config::MeshConfig;

/// Compiles them into `compiled`.
pub fn compile(_input: &Input<'_>, _mesh_config: &MeshConfig, _compiled: &mut Compiled) {}
