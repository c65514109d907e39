//! `hubctl demo`: everything once, with figures.
//!
//! Builds what is missing, brings two clusters up, sends requests from one to a service that only the other exports, then
//! kills part after part under load and counts. What it prints is what happened; nothing is assumed.

mod build;
mod failures;
mod inside;
mod story;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use fleet::plan::Kind;
use fleet::up::{UpRequest, up};
use fleet::{Fleet, FleetFile, Ground, block, down, handle};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Demo, DemoGround};
use crate::output;

/// The fleet that the demo runs; also a committed example.
const FLEET: &str = include_str!("../../deploy/fleets/two-clusters.yaml");

/// What `--json` writes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Figures {
    /// What the fleet stood on.
    ground: Ground,
    /// Building, in seconds; 0 when not run by cargo.
    build_s: f64,
    /// From nothing to a converged mesh.
    up_s: f64,
    /// From the start of the demo to the first cross-cluster answer.
    first_answer_s: f64,
    /// The story's answers.
    answers: Vec<story::Told>,
    /// One entry per kill.
    failures: Vec<failures::Figure>,
}

/// The clock that all progress lines show.
#[derive(Debug, Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn seconds(self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }

    /// One line of progress.
    fn say(self, text: &str) {
        // A reader that went away is told nothing.
        let _ = output::text(&format!("[{:5.1} s] {text}\n", self.seconds()));
    }
}

/// Runs the demo and cleans up after it, also after Ctrl-C.
pub(crate) async fn run(options: Demo) -> Result<u8> {
    if let Some(so_far) = &options.inside {
        return inside::play(&options, so_far).await;
    }
    let clock = Clock(Instant::now());
    let mut figures = Figures { build_s: build::binaries(clock).await?, ..Figures::default() };
    let directory = temporary_directory();
    let mut terminate = signal(SignalKind::terminate())?;
    let outcome = tokio::select! {
        outcome = play(&options, &directory, clock, &mut figures) => outcome.map(|()| 0),
        _ = tokio::signal::ctrl_c() => Ok(interrupted(clock)),
        _ = terminate.recv() => Ok(interrupted(clock)),
    };
    if let (Some(path), Ok(0)) = (&options.json, &outcome) {
        let text = serde_json::to_vec_pretty(&figures)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if options.keep && matches!(outcome, Ok(0)) {
        clock.say(&format!("the fleet stays in {}", directory.display()));
        farewell(&options, &directory)?;
        return outcome;
    }
    clean_up(&directory, clock).await?;
    if matches!(outcome, Ok(0)) {
        farewell(&options, &directory)?;
    }
    outcome
}

fn interrupted(clock: Clock) -> u8 {
    clock.say("interrupted");
    130
}

async fn play(options: &Demo, directory: &Path, clock: Clock, figures: &mut Figures) -> Result<()> {
    let fleet = start(options, directory, clock, figures).await?;
    if fleet.is_outside() {
        return inside::hand_over(options, &fleet, clock, figures).await;
    }
    tell(options, &fleet, clock, figures).await
}

/// The demo of a fleet that is up and can be reached.
async fn tell(options: &Demo, fleet: &Fleet, clock: Clock, figures: &mut Figures) -> Result<()> {
    story::tell(fleet, clock, figures).await?;
    if !options.no_failures {
        failures::run(fleet, options.rate, clock, figures).await?;
    }
    Ok(())
}

/// The ground that was asked for, or the best one that the machine allows, and why.
fn ground(wanted: DemoGround) -> (Ground, String) {
    match wanted {
        DemoGround::Loopback => (Ground::Loopback, "as asked for".to_owned()),
        DemoGround::Netns => (Ground::Netns, "as asked for".to_owned()),
        DemoGround::Auto => match Ground::Netns.check() {
            Ok(()) => (Ground::Netns, "this machine allows network namespaces".to_owned()),
            Err(why) => (Ground::Loopback, format!("{why:#}")),
        },
    }
}

async fn start(options: &Demo, directory: &Path, clock: Clock, figures: &mut Figures) -> Result<Fleet> {
    let mut file = FleetFile::parse(FLEET)?;
    let (ground, why) = ground(options.ground);
    clock.say(&format!("ground {ground}: {why}"));
    (file.ground, figures.ground) = (ground, ground);
    let clusters: Vec<_> = file.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    clock.say(&format!("bringing up a hub of {} and the clusters {}", file.hub_nodes, clusters.join(" and ")));
    let began = clock.seconds();
    let request = UpRequest::new(file, directory, handle::find_binaries()?);
    let fleet = up(request, &|step| clock.say(step)).await?;
    figures.up_s = clock.seconds() - began;
    let processes = fleet.plan().processes().iter().filter(|process| process.kind != Kind::Pause).count();
    clock.say(&format!("{processes} processes serve; the mesh has converged"));
    Ok(fleet)
}

fn temporary_directory() -> PathBuf {
    block::registry().join("fleets").join(format!("demo-{:08x}", std::process::id()))
}

async fn clean_up(directory: &Path, clock: Clock) -> Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    let downed = down::down(directory, &block::registry(), down::GRACE).await?;
    clock.say(&format!("cleaned up: {} processes ended, {} removed", downed.ended, directory.display()));
    Ok(())
}

/// How to go on playing. The executables that the demo ran with are named by their directory, so that the lines work in any
/// shell, whatever profile and target directory they were built with.
fn farewell(options: &Demo, directory: &Path) -> Result<()> {
    let executable = std::env::current_exe().context("the path of the running executable is unknown")?;
    let binaries = executable.parent().context("the executable has no directory")?;
    let fleet = options.keep.then_some(directory);
    output::text(&farewell_text(binaries, &checkout(), fleet))
}

/// The checkout that cargo runs this in; without cargo, the working directory.
fn checkout() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    package.as_deref().and_then(Path::parent).unwrap_or(Path::new("")).to_owned()
}

fn farewell_text(binaries: &Path, checkout: &Path, fleet: Option<&Path>) -> String {
    let mut lines = format!("\nGo on playing:\n  export PATH=\"{}:$PATH\"\n", binaries.display());
    match fleet {
        Some(directory) => lines.push_str(&format!("  export ISTHMUS_FLEET={}\n", directory.display())),
        None => {
            let file = checkout.join("deploy/fleets/two-clusters.yaml");
            lines.push_str(&format!("  hubctl fleet up -f {}\n", file.display()));
        }
    }
    for line in [
        "fleet status",
        "fleet call east/web http://reviews.default.svc.clusterset.local:9080/hello",
        "fleet exec east/web -- curl -s http://reviews.default.svc.clusterset.local:9080/hello",
        "explain --from east/web --to http://reviews.default.svc.clusterset.local:9080",
        "fleet kill west/gateway-1",
        "check",
        "fleet start west/gateway-1",
        "fleet down",
    ] {
        lines.push_str(&format!("  hubctl {line}\n"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn the_farewell_names_commands_that_exist_and_the_example_that_is_there() {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
        let text = farewell_text(Path::new("/t/debug"), checkout, None);
        assert!(text.contains("  export PATH=\"/t/debug:$PATH\"\n"), "{text}");
        let commands: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("  hubctl ")).collect();
        assert!(commands.first().is_some_and(|line| line.starts_with("fleet up -f ")), "{text}");
        for line in commands {
            let words = std::iter::once("hubctl").chain(line.split(' '));
            Cli::try_parse_from(words).unwrap_or_else(|error| panic!("hubctl {line}: {error}"));
            if let Some(file) = line.strip_prefix("fleet up -f ") {
                assert!(Path::new(file).exists(), "{file}");
            }
        }
        let kept = farewell_text(Path::new("/t/debug"), checkout, Some(Path::new("/tmp/f")));
        assert!(kept.contains("  export ISTHMUS_FLEET=/tmp/f\n") && !kept.contains("fleet up"), "{kept}");
    }
}
