//! The half of the demo that talks to the fleet, inside the fleet's network where nothing of it can be reached from outside.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use fleet::Fleet;
use serde::{Deserialize, Serialize};

use super::{Clock, Figures, tell};
use crate::cli::Demo;
use crate::ground;

/// What the outer half tells the inner one.
#[derive(Debug, Serialize, Deserialize)]
struct SoFar {
    /// The fleet.
    fleet: PathBuf,
    /// Seconds since the start of the demo.
    seconds: f64,
    /// What was measured.
    figures: Figures,
}

/// Lets this executable go on inside the fleet's management namespace, and takes over what it measured.
pub(super) async fn hand_over(options: &Demo, fleet: &Fleet, clock: Clock, figures: &mut Figures) -> Result<()> {
    let so_far = SoFar { fleet: fleet.layout.root().to_owned(), seconds: clock.seconds(), figures: figures.clone() };
    let mut arguments = vec!["demo".to_owned(), "--inside".to_owned(), serde_json::to_string(&so_far)?];
    arguments.extend(["--rate".to_owned(), options.rate.to_string()]);
    arguments.extend(options.no_failures.then(|| "--no-failures".to_owned()));
    let mut command = tokio::process::Command::from(ground::again(fleet, arguments)?);
    let status = command.kill_on_drop(true).status().await.context("cannot run nsenter")?;
    if !status.success() {
        bail!("the demo did not end well inside the fleet's network");
    }
    let path = figures_of(fleet);
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    *figures = serde_json::from_slice(&text).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(())
}

/// The inner half.
pub(super) async fn play(options: &Demo, so_far: &str) -> Result<u8> {
    let SoFar { fleet, seconds, mut figures } =
        serde_json::from_str(so_far).context("--inside is for hubctl itself")?;
    let now = Instant::now();
    let clock = Clock(now.checked_sub(Duration::from_secs_f64(seconds)).unwrap_or(now));
    let fleet = Fleet::open(&fleet)?;
    tell(options, &fleet, clock, &mut figures).await?;
    let path = figures_of(&fleet);
    std::fs::write(&path, serde_json::to_vec(&figures)?).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(0)
}

fn figures_of(fleet: &Fleet) -> PathBuf {
    fleet.layout.root().join("figures.json")
}
