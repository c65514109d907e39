//! Manifests as an operator has them: in files, and in the directories of a fleet's clusters.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use config::analyze::ClusterManifests;
use federation_crds::{Manifest, ManifestKey, parse_manifests, validate_manifest_set};
use fleet::plan::ClusterPlan;
use fleet::{Fleet, Hint};
use mesh::{ClusterName, MeshId, MeshInfo, TrustDomain, Workload};

use crate::output::note;

/// The text of a file, and what messages call it.
pub(crate) struct Text {
    pub(crate) source: String,
    pub(crate) text: String,
}

/// Reads files; `-` is standard input, a directory all manifests in it, as for `kubectl`.
pub(crate) fn read(files: &[PathBuf]) -> Result<Vec<Text>> {
    let mut texts = Vec::new();
    for path in files {
        if !path.is_dir() {
            texts.push(read_one(path)?);
            continue;
        }
        let inside = files_of(path, &["yaml", "yml", "json"]);
        if inside.is_empty() {
            let hint =
                "name files, or a directory with files that end in .yaml, .yml or .json; those below it are not read";
            return Err(Hint::error(format!("there is no manifest in {}", path.display()), hint));
        }
        for path in inside {
            texts.push(read_one(&path)?);
        }
    }
    Ok(texts)
}

/// The files of a directory that end in one of these, in order; no hidden ones.
fn files_of(directory: &Path, ends: &[&str]) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.retain(|path| {
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        !hidden && path.extension().is_some_and(|extension| ends.iter().any(|end| extension == *end))
    });
    files.sort();
    files
}

fn read_one(path: &Path) -> Result<Text> {
    if path == Path::new("-") {
        let text = std::io::read_to_string(std::io::stdin()).context("cannot read standard input")?;
        return Ok(Text { source: "standard input".to_owned(), text });
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Text { source: path.display().to_string(), text })
}

/// Reads and validates the objects of all texts, or names everything that is wrong with any of them.
pub(crate) fn parse(texts: &[Text]) -> Result<Vec<Manifest>> {
    let mut errors = Vec::new();
    let mut parsed = Vec::new();
    for text in texts {
        match parse_manifests(&text.text, &text.source) {
            Ok(manifests) => parsed.push((text.source.as_str(), manifests)),
            Err(refused) => errors.extend(refused.0),
        }
    }
    if let Err(twice) = validate_manifest_set(parsed.iter().map(|(source, manifests)| (*source, manifests.as_slice())))
    {
        errors.extend(twice.0);
    }
    if errors.is_empty() {
        return Ok(parsed.into_iter().flat_map(|(_, manifests)| manifests).collect());
    }
    let lines: Vec<String> = errors.iter().map(|error| format!("\n{error}")).collect();
    let count = if errors.len() == 1 { "one mistake".to_owned() } else { format!("{} mistakes", errors.len()) };
    let hint = "mend the fields named above; docs/config has a page per kind";
    Err(Hint::error(format!("refused, with {count}; nothing was changed:{}", lines.concat()), hint))
}

/// `newer` on top of `older`: an object of the same key is replaced.
pub(crate) fn overlay(older: Vec<Manifest>, newer: Vec<Manifest>) -> Vec<Manifest> {
    let replaced: BTreeSet<ManifestKey> = newer.iter().map(Manifest::key).collect();
    let mut manifests: Vec<Manifest> =
        older.into_iter().filter(|manifest| !replaced.contains(&manifest.key())).collect();
    manifests.extend(newer);
    manifests
}

/// A cluster of which nothing is known but some files.
pub(crate) fn alone(manifests: Vec<Manifest>) -> Result<ClusterManifests> {
    let (cluster, mesh_id) = (ClusterName::new("local")?, MeshId::new("local")?);
    let trust_domain = TrustDomain::of_cluster(&cluster, &mesh_id);
    let mesh = MeshInfo { mesh_id, cluster, trust_domain, roots: Vec::new(), bundle_serial: 0 };
    Ok(ClusterManifests::new(mesh, manifests))
}

/// What is in the directories of all clusters of a fleet, with `newer` on top of those of one of them.
pub(crate) fn of_fleet(fleet: &Fleet, newer: Option<(&ClusterName, &[Manifest])>) -> Vec<ClusterManifests> {
    let of = |cluster: &ClusterPlan| {
        let mut manifests = of_directory(&fleet.layout.manifests(cluster.name.as_str()));
        if let Some((_, newer)) = newer.filter(|(name, _)| **name == cluster.name) {
            manifests = overlay(manifests, newer.to_vec());
        }
        let mesh = MeshInfo {
            mesh_id: fleet.plan().mesh.clone(),
            cluster: cluster.name.clone(),
            trust_domain: cluster.trust_domain.clone(),
            roots: Vec::new(),
            bundle_serial: 0,
        };
        let mut read = ClusterManifests::new(mesh, manifests);
        add_clients(&mut read, cluster);
        read
    };
    fleet.plan().clusters.iter().map(of).collect()
}

/// Workloads without a Service are known to the agent by their registration only.
fn add_clients(read: &mut ClusterManifests, cluster: &ClusterPlan) {
    for pod in cluster.pods.iter().filter(|pod| pod.mesh) {
        let workload = || Workload {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            service_account: pod.service_account.clone(),
            labels: pod.labels.clone(),
            ports: Vec::new(),
            mtls: mesh::MtlsMode::Permissive,
            locality: String::new(),
            config: std::sync::Arc::default(),
        };
        read.local.workloads.entry(format!("{}/{}", pod.namespace, pod.name)).or_insert_with(workload);
    }
}

/// Every object of a directory source. What the agent does not understand is not in force, and is left out here.
fn of_directory(directory: &Path) -> Vec<Manifest> {
    let mut manifests = Vec::new();
    for path in files_of(directory, &["yaml", "yml"]) {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        match parse_manifests(&text, &path.display().to_string()) {
            Ok(parsed) => manifests = overlay(parsed, manifests),
            Err(errors) => note(&format!("warning: not analyzed: {errors}")),
        }
    }
    manifests
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, port: u16) -> String {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n")
    }

    fn text(source: &str, text: String) -> Text {
        Text { source: source.to_owned(), text }
    }

    #[test]
    fn a_directory_is_its_manifests() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        let refused = read(&[directory.path().to_owned()]).err().expect("it is empty").to_string();
        assert!(refused.starts_with("there is no manifest in "), "{refused}");
        for name in ["b.yml", "a.yaml", "c.json", ".hidden.yaml", "README.md"] {
            std::fs::write(at(name), name).expect("written");
        }
        let texts = read(&[directory.path().to_owned(), at("README.md")]).expect("read");
        let names: Vec<&str> = texts.iter().map(|text| text.text.as_str()).collect();
        assert_eq!(names, ["a.yaml", "b.yml", "c.json", "README.md"]);
    }

    #[test]
    fn all_mistakes_of_all_files_are_told_at_once() {
        let texts = [
            text("a.yaml", service("web", 0)),
            text("b.yaml", format!("# head\n{}", service("db", 1).replace("spec", "spce"))),
        ];
        let told = crate::failure::describe(&parse(&texts).expect_err("refused"));
        assert!(told.starts_with("error: refused, with 2 mistakes; nothing was changed:\n"), "{told}");
        assert!(told.contains("\na.yaml:1 (document 1): Service default/web: spec.ports[0].port: "), "{told}");
        assert!(told.contains("\nb.yaml:1 (document 1): Service default/db: spce: unknown field"), "{told}");
        let twice = [text("a.yaml", service("web", 1)), text("b.yaml", service("web", 2))];
        assert!(
            crate::failure::describe(&parse(&twice).expect_err("refused")).contains("the same object stands in a.yaml")
        );
    }

    #[test]
    fn a_newer_object_replaces_the_older_one() {
        let read = |name: &str, port| parse(&[text("x", service(name, port))]).expect("valid");
        let both = overlay([read("a", 1), read("b", 1)].concat(), read("a", 2));
        assert_eq!(both, [read("b", 1), read("a", 2)].concat());
    }
}
