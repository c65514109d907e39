//! Findings of analysis, for people and for programs.

use config::{Finding, Severity};
use mesh::ClusterName;
use serde_json::{Value, json};

/// One line a finding, as `istioctl analyze` writes them, with the hint below. Several clusters are told apart.
pub(crate) fn tell<'a>(findings: impl IntoIterator<Item = (&'a ClusterName, &'a Finding)>, several: bool) -> String {
    let line = |(cluster, finding): (&ClusterName, &Finding)| match several {
        true => format!("{cluster}: {finding}\n"),
        false => format!("{finding}\n"),
    };
    findings.into_iter().map(line).collect()
}

/// The same as data.
pub(crate) fn document(cluster: &ClusterName, finding: &Finding) -> Value {
    json!({
        "cluster": cluster,
        "code": finding.code,
        "severity": finding.severity,
        "object": finding.object.to_string(),
        "path": finding.path,
        "message": finding.message,
        "hint": finding.hint,
    })
}

/// Whether one of them is an error.
pub(crate) fn has_error<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> bool {
    findings.into_iter().any(|finding| finding.severity == Severity::Error)
}
