//! The section `wan:` of a fleet file: emulated links between clusters.

use std::collections::BTreeSet;

use wan::{Side, WanSpec};

use super::ClusterSpec;
use super::read::{Problem, Reader, report};

/// What the hub's network is called at the end of a link.
pub(crate) const HUB: &str = "hub";

/// Reads the links; every mistake is reported with its path.
pub(super) fn read(reader: &Reader<'_>, clusters: &[ClusterSpec], problems: &mut Vec<Problem>) -> Vec<WanSpec> {
    let mut links = Vec::new();
    let mut pairs = BTreeSet::new();
    for (path, value) in reader.list("wan", problems) {
        let Some(fields) = value.as_object() else {
            report(
                problems,
                &path,
                "expected fields".to_owned(),
                "write for example {between: [east, west], delay: 40ms}".to_owned(),
            );
            continue;
        };
        match WanSpec::read(fields) {
            Ok(link) => {
                check(&path, &link, clusters, &mut pairs, problems);
                links.push(link);
            }
            Err(found) => {
                problems.extend(found.0.into_iter().map(|one| one.within(&path)).map(|one| Problem {
                    field: one.field,
                    message: one.message,
                    hint: one.hint,
                }));
            }
        }
    }
    links
}

fn check(
    path: &str,
    link: &WanSpec,
    clusters: &[ClusterSpec],
    pairs: &mut BTreeSet<[String; 2]>,
    problems: &mut Vec<Problem>,
) {
    let field = format!("{path}.between");
    for name in &link.between {
        if name != HUB && clusters.iter().all(|cluster| cluster.name.as_str() != name) {
            let hint = "name clusters of this file, or hub".to_owned();
            report(problems, &field, format!("there is no cluster {name:?}"), hint);
        }
    }
    let mut pair = link.between.clone();
    pair.sort();
    if !pairs.insert(pair) {
        let hint = "one entry has the conditions of both directions".to_owned();
        report(problems, &field, "the link is listed twice".to_owned(), hint);
    }
    if link.side(HUB).is_some()
        && link.link.nat.as_ref().is_some_and(|nat| nat.side == link.side(HUB).unwrap_or(Side::Left))
    {
        let hint = "let it hide the cluster: agents dial the hub".to_owned();
        report(problems, &format!("{path}.nat"), "the hub cannot be hidden".to_owned(), hint);
    }
}
