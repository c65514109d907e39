//! What is wrong with a set of manifests as a whole.
//!
//! Objects are valid one by one when they get here. Most checks look at the manifests, some at what was compiled from
//! them; each has a module. Findings never change what is compiled.

mod aliases;
mod clusters;
pub mod codes;
mod found;
mod hosts;
mod mtls;
mod objects;
mod references;
mod registry;
mod rules;
mod selectors;

pub use clusters::{ClusterManifests, analyze_mesh, imports};

use crate::compile::{Input, compile};
use crate::finding::Finding;
use found::Found;
use registry::Registry;

/// Everything that is found about the manifests of one cluster, sorted; what compilation finds included.
pub fn analyze(input: &Input<'_>) -> Vec<Finding> {
    let compiled = compile(input);
    let registry = Registry::new(input);
    let mut found = Found::default();
    references::check(&registry, &mut found);
    aliases::check(&registry, &mut found);
    hosts::check(&registry, &mut found);
    rules::check(input.manifests, &mut found);
    selectors::check(&registry, &mut found);
    objects::check(&registry, &mut found);
    mtls::check(input, &compiled, &mut found);
    found.0.extend(compiled.findings);
    found.0.sort();
    found.0.dedup();
    found.0
}

#[cfg(test)]
mod tests;
