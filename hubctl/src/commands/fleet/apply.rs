//! `fleet apply` and `fleet delete`: everything is read, checked and analyzed before the first file changes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use config::Finding;
use config::analyze::{ClusterManifests, analyze_mesh};
use federation_crds::Manifest;
use fleet::manifests::{self as directory, Applied};
use fleet::plan::ClusterPlan;
use fleet::{Fleet, Hint};
use serde_json::Value;

use super::acknowledge::{self, Expected};
use crate::cli::{Apply, Manifests};
use crate::context::Context;
use crate::findings;
use crate::manifests::{self, Text};
use crate::output::{self, Table, note};

/// Applies. Findings are warnings, as with `kubectl apply` and `istioctl analyze`; with `--strict` an error refuses.
pub(super) async fn apply(context: &Context, options: &Apply) -> Result<u8> {
    let fleet = context.fleet()?;
    let cluster = fleet.cluster(&options.manifests.cluster)?;
    let texts = manifests::read(&options.manifests.file)?;
    let parsed = manifests::parse(&texts)?;
    let objects = objects(&texts)?;
    let found = found(&fleet, cluster, &parsed);
    if !found.is_empty() {
        note(findings::tell(found.iter().map(|finding| (&cluster.name, finding)), false).trim_end());
    }
    if options.strict && findings::has_error(&found) {
        return Err(Hint::error("nothing was applied: analysis found errors", "mend them, or leave out --strict"));
    }
    let path = fleet.layout.manifests(cluster.name.as_str());
    let applied = directory::apply(&path, &objects)?;
    print(context, &applied)?;
    if options.no_wait {
        return Ok(0);
    }
    let files = objects.iter().map(directory::file_name).collect::<Result<BTreeSet<_>>>()?;
    let expected: BTreeMap<String, Expected> =
        files.into_iter().map(|file| (file.clone(), Expected::of_file(&path.join(&file)))).collect();
    acknowledge::wait(cluster, &expected).await?;
    Ok(0)
}

/// Deletes. What an object says does not matter, only which one it is.
pub(super) async fn delete(context: &Context, options: &Manifests) -> Result<u8> {
    let fleet = context.fleet()?;
    let cluster = fleet.cluster(&options.cluster)?;
    let objects = objects(&manifests::read(&options.file)?)?;
    let applied = directory::delete(&fleet.layout.manifests(cluster.name.as_str()), &objects)?;
    print(context, &applied)?;
    let gone = objects.iter().map(|object| Ok((directory::file_name(object)?, Expected::Gone)));
    acknowledge::wait(cluster, &gone.collect::<Result<_>>()?).await?;
    Ok(0)
}

fn objects(texts: &[Text]) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for text in texts {
        objects.extend(directory::documents(&text.source, &text.text)?);
    }
    if objects.is_empty() {
        return Err(Hint::error("there is no object in the files", "a manifest begins with apiVersion: and kind:"));
    }
    Ok(objects)
}

/// What is to be said about the cluster with the new objects: about themselves, and whatever they newly cause elsewhere.
fn found(fleet: &Fleet, cluster: &ClusterPlan, parsed: &[Manifest]) -> Vec<Finding> {
    let of = |clusters: Vec<ClusterManifests>| analyze_mesh(&clusters).remove(&cluster.name).unwrap_or_default();
    let before: BTreeSet<Finding> = of(manifests::of_fleet(fleet, None)).into_iter().collect();
    let applied: BTreeSet<String> = parsed.iter().map(|manifest| manifest.key().to_string()).collect();
    let mut found = of(manifests::of_fleet(fleet, Some((&cluster.name, parsed))));
    found.retain(|finding| applied.contains(&finding.object.to_string()) || !before.contains(finding));
    found
}

fn print(context: &Context, applied: &[Applied]) -> Result<()> {
    let mut table = Table::new(&["OBJECT", "ACTION"]);
    for row in applied {
        table.row([row.object.clone(), row.action.to_owned()]);
    }
    output::print(context.output, &table, &applied)
}
