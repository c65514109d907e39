//! The committed CRDs are what the types say.

use std::path::Path;

use federation_crds::crds::{crds, to_yaml};

/// Set to write the files instead of comparing them.
const WRITE: &str = "ISTHMUS_WRITE_CRDS";

#[test]
fn the_committed_crds_are_those_of_the_types() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
    for (name, crd) in crds() {
        let path = dir.join(name);
        let expected = to_yaml(&crd).unwrap();
        if std::env::var_os(WRITE).is_some() {
            std::fs::write(&path, &expected).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == expected, "{} drifted; run {WRITE}=1 cargo test -p isthmus-federation-crds", path.display());
    }
}

#[test]
fn both_versions_are_served_and_the_newer_is_stored() {
    for (_, crd) in crds().into_iter().filter(|(name, _)| name.starts_with("multicluster")) {
        let versions: Vec<_> =
            crd.spec.versions.iter().map(|version| (version.name.as_str(), version.served, version.storage)).collect();
        assert_eq!(versions, [("v1alpha1", true, false), ("v1beta1", true, true)]);
        assert_eq!(crd.spec.versions[0].schema, crd.spec.versions[1].schema);
        assert!(crd.spec.versions.iter().all(|version| version.subresources.is_some()), "status is a subresource");
    }
}
