//! What is wrong with a set of manifests as a whole.

pub mod codes;

use crate::compile::{Input, compile};
use crate::finding::Finding;

/// Everything that is found about the manifests of one cluster, sorted; what compilation finds included.
pub fn analyze(input: &Input<'_>) -> Vec<Finding> {
    compile(input).findings
}
