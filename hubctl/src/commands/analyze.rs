//! `hubctl analyze`: what is wrong with a configuration as a whole, before or after it is applied.

use anyhow::Result;
use config::analyze::{ClusterManifests, analyze_mesh};
use federation_crds::Manifest;
use fleet::Hint;
use mesh::ClusterName;

use crate::cli::Analyze;
use crate::context::Context;
use crate::findings;
use crate::manifests;
use crate::output::{self, note};

/// Exit code 1 if there is an error among the findings, or if a file is refused.
pub(super) fn run(context: &Context, options: &Analyze) -> Result<u8> {
    let parsed = manifests::parse(&manifests::read(&options.files)?)?;
    let (clusters, only) = clusters(context, options, parsed)?;
    let found = analyze_mesh(&clusters);
    let shown = found.iter().filter(|(cluster, _)| only.as_ref().is_none_or(|only| only == *cluster));
    let shown: Vec<_> =
        shown.flat_map(|(cluster, found)| found.iter().map(move |finding| (cluster, finding))).collect();
    if context.output.is_document() {
        let documents: Vec<_> = shown.iter().map(|(cluster, finding)| findings::document(cluster, finding)).collect();
        output::document(context.output, &documents)?;
    } else {
        output::text(&findings::tell(shown.iter().copied(), only.is_none() && clusters.len() > 1))?;
        if shown.is_empty() {
            note("no findings");
        }
    }
    Ok(u8::from(findings::has_error(shown.iter().map(|(_, finding)| *finding))))
}

/// What is looked at, and the one cluster that is told about, if it is one.
fn clusters(
    context: &Context,
    options: &Analyze,
    parsed: Vec<Manifest>,
) -> Result<(Vec<ClusterManifests>, Option<ClusterName>)> {
    if options.cluster.is_none() && !options.all_clusters {
        if options.files.is_empty() {
            let hint = "name files, or a cluster of a fleet with --cluster, or all of them with --all-clusters";
            return Err(Hint::error("there is nothing to analyze", hint));
        }
        if context.fleet().is_ok() {
            note(
                "these files are analyzed alone; with --cluster <NAME> they are analyzed on top of what a cluster of the fleet has",
            );
        }
        let alone = manifests::alone(parsed)?;
        let name = alone.mesh.cluster.clone();
        return Ok((vec![alone], Some(name)));
    }
    let fleet = context.fleet()?;
    let Some(name) = &options.cluster else {
        // Files that name no cluster are meant for each of them.
        let clusters = manifests::of_fleet(&fleet, None).into_iter();
        let with = |cluster: ClusterManifests| {
            let mut with = ClusterManifests::new(cluster.mesh, manifests::overlay(cluster.manifests, parsed.clone()));
            for (name, workload) in cluster.local.workloads {
                with.local.workloads.entry(name).or_insert(workload);
            }
            with
        };
        return Ok((clusters.map(with).collect(), None));
    };
    let name = fleet.cluster(name)?.name.clone();
    Ok((manifests::of_fleet(&fleet, Some((&name, &parsed))), Some(name)))
}
