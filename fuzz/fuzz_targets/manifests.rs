//! Manifests: what is accepted compiles.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(manifests) = federation_crds::parse_manifests(text, "fuzz.yaml") else { return };
    let trust_domain = mesh::TrustDomain::new("east.demo").expect("a trust domain");
    let local = config::local::build(&manifests, &trust_domain);
    let mesh = mesh::MeshInfo {
        mesh_id: mesh::MeshId::new("demo").expect("a mesh id"),
        cluster: mesh::ClusterName::new("east").expect("a cluster"),
        trust_domain,
        roots: Vec::new(),
        bundle_serial: 1,
    };
    let imported = BTreeMap::new();
    let _compiled =
        config::compile(&config::Input { manifests: &manifests, local: &local, mesh: &mesh, imported: &imported });
});
