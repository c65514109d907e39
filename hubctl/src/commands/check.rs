//! `hubctl check`: one real probe per hop, from both ends, and the name of the hop that fails.
//!
//! The hub is not on the data path, so a hub that is down is a warning: everything behind it is still checked.

mod hops;

use std::pin::Pin;

use anyhow::Result;
use serde::Serialize;

use crate::context::Context;
use crate::output::{self, Table, note};

/// What a probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// The hop works.
    Ok,
    /// Something to look at; traffic flows without it.
    Warn,
    /// The hop is broken.
    Fail,
}

/// One finished probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// From whom to whom.
    pub(crate) hop: String,
    /// Whether it works.
    pub(crate) verdict: Verdict,
    /// What was seen.
    pub(crate) detail: String,
}

/// One probe to run.
pub(crate) struct Check {
    /// From whom to whom.
    pub(crate) hop: String,
    /// The probe.
    pub(crate) run: Pin<Box<dyn Future<Output = (Verdict, String)> + Send>>,
}

impl Check {
    /// A hop whose probe either sees something good or says what is wrong.
    pub(crate) fn new(
        hop: impl Into<String>,
        probe: impl Future<Output = Result<String, String>> + Send + 'static,
    ) -> Self {
        let run = async move {
            match probe.await {
                Ok(seen) => (Verdict::Ok, seen),
                Err(why) => (Verdict::Fail, why),
            }
        };
        Self { hop: hop.into(), run: Box::pin(run) }
    }

    /// The same for something that traffic does not need.
    pub(crate) fn optional(
        hop: impl Into<String>,
        probe: impl Future<Output = Result<String, String>> + Send + 'static,
    ) -> Self {
        let run = async move {
            match probe.await {
                Ok(seen) => (Verdict::Ok, seen),
                Err(why) => (Verdict::Warn, why),
            }
        };
        Self { hop: hop.into(), run: Box::pin(run) }
    }
}

/// Runs all probes at once; the findings keep the order of the checks.
pub(crate) async fn run_all(checks: Vec<Check>) -> Vec<Finding> {
    let mut running = Vec::new();
    for check in checks {
        running.push((check.hop, tokio::spawn(check.run)));
    }
    let mut findings = Vec::new();
    for (hop, task) in running {
        let (verdict, detail) = match task.await {
            Ok(found) => found,
            Err(error) => (Verdict::Fail, format!("the probe itself broke: {error}")),
        };
        findings.push(Finding { hop, verdict, detail });
    }
    findings
}

pub(super) async fn run(context: &Context) -> Result<u8> {
    let fleet = context.fleet()?;
    let findings = run_all(hops::checks(context, &fleet)).await;
    let mut table = Table::new(&["", "HOP", "SEEN"]);
    for finding in &findings {
        let mark = match finding.verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        table.row([mark.to_owned(), finding.hop.clone(), finding.detail.clone()]);
    }
    output::print(context.output, &table, &findings)?;
    let failed: Vec<_> = findings.iter().filter(|finding| finding.verdict == Verdict::Fail).collect();
    match failed.first() {
        None => Ok(0),
        Some(first) => {
            note(&format!("error: {} of {} hops fail; first: {}", failed.len(), findings.len(), first.hop));
            note("hint: hops are listed from the inside out; mend the first one that fails and check again");
            Ok(1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn findings_keep_the_order_of_the_checks_and_optional_hops_only_warn() {
        let findings = run_all(vec![
            Check::new("a", async {
                tokio::task::yield_now().await;
                Ok("seen".to_owned())
            }),
            Check::new("b", async { Err("gone".to_owned()) }),
            Check::optional("c", async { Err("gone".to_owned()) }),
        ])
        .await;
        let seen: Vec<_> = findings.iter().map(|finding| (finding.hop.as_str(), finding.verdict)).collect();
        assert_eq!(seen, [("a", Verdict::Ok), ("b", Verdict::Fail), ("c", Verdict::Warn)]);
    }
}
