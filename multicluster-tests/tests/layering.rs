//! The workspace's arrows point down only, and each heavy dependency stays where the design puts it.

#![expect(clippy::expect_used, reason = "whatever fails here is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

type Arrows = BTreeMap<String, BTreeSet<String>>;

/// Normal and build dependencies of every workspace member, by package name.
fn arrows() -> Arrows {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    packages.iter().map(|package| (text(&package["name"]), dependencies(package))).collect()
}

fn dependencies(package: &Value) -> BTreeSet<String> {
    let all = package["dependencies"].as_array().expect("dependencies");
    all.iter().filter(|dependency| dependency["kind"] != "dev").map(|dependency| text(&dependency["name"])).collect()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

const BINARIES: [&str; 6] =
    ["isthmus-agent", "isthmus-dns", "isthmus-gateway", "isthmus-hub", "isthmus-sidecar", "hubctl"];

#[test]
fn binaries_never_depend_on_each_other() {
    for (package, dependencies) in arrows() {
        if package == "isthmus-multicluster-tests" {
            continue;
        }
        for binary in BINARIES {
            assert!(!dependencies.contains(binary), "{package} depends on the binary {binary}");
        }
    }
}

#[test]
fn pure_crates_know_no_runtime_no_network_and_no_randomness() {
    let allowed = BTreeSet::from(
        ["http", "ipnet", "isthmus-mesh", "postcard", "regex", "serde", "serde_json", "thiserror"].map(str::to_owned),
    );
    let arrows = arrows();
    for pure in ["isthmus-mesh", "isthmus-hub-state"] {
        let extra: Vec<_> = arrows[pure].difference(&allowed).collect();
        assert!(extra.is_empty(), "{pure} depends on {extra:?}");
    }
    assert!(!arrows["isthmus-mesh"].contains("isthmus-mesh"));
}

#[test]
fn heavy_dependencies_stay_where_the_design_puts_them() {
    let homes: [(&str, &[&str]); 7] = [
        ("openraft", &["isthmus-hub"]),
        ("redb", &["isthmus-hub"]),
        ("sled", &["isthmus-hub"]),
        ("quinn", &["isthmus-gateway", "isthmus-identity", "isthmus-multicluster-tests"]),
        ("kube", &["isthmus-federation-crds", "isthmus-agent", "hubctl", "isthmus-multicluster-tests"]),
        ("rcgen", &["isthmus-identity"]),
        // The delta-xDS envelope is discovery's; external authorizers are asked in Envoy's words.
        ("envoy-types", &["isthmus-discovery", "isthmus-proxy"]),
    ];
    let arrows = arrows();
    for (dependency, homes) in homes {
        for (package, dependencies) in &arrows {
            let at_home = homes.contains(&package.as_str());
            assert!(at_home || !dependencies.contains(dependency), "{package} depends on {dependency}");
        }
    }
}

#[test]
fn libraries_point_down_only() {
    // What each shared library may use of this workspace; binaries may use any library.
    let below: [(&str, &[&str]); 13] = [
        ("isthmus-mesh", &[]),
        ("isthmus-telemetry", &["isthmus-mesh"]),
        ("isthmus-hub-state", &["isthmus-mesh"]),
        ("isthmus-federation-crds", &[]),
        ("isthmus-config", &["isthmus-federation-crds", "isthmus-mesh"]),
        ("isthmus-api", &["isthmus-mesh"]),
        ("isthmus-identity", &["isthmus-mesh"]),
        ("isthmus-hub-client", &["isthmus-api", "isthmus-identity", "isthmus-mesh"]),
        // ADR 5: whoever runs beside a captured workload opens sockets by one door.
        ("isthmus-dial", &[]),
        (
            "isthmus-discovery",
            &["isthmus-api", "isthmus-dial", "isthmus-identity", "isthmus-mesh", "isthmus-telemetry"],
        ),
        ("isthmus-proxy", &["isthmus-api", "isthmus-dial", "isthmus-identity", "isthmus-mesh", "isthmus-telemetry"]),
        ("isthmus-settings", &[]),
        // Usable alone.
        ("isthmus-wan", &[]),
    ];
    let arrows = arrows();
    for (library, allowed) in below {
        let used = arrows[library].iter().filter(|name| arrows.contains_key(*name));
        let extra: Vec<_> = used.filter(|name| !allowed.contains(&name.as_str())).collect();
        assert!(extra.is_empty(), "{library} depends on {extra:?}");
    }
}
