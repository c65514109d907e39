//! Builds the other executables when the demo was started by `cargo run` from a checkout.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use fleet::Hint;

use super::Clock;

/// Builds with the cargo, the profile and the target directory of the running executable, so that nothing compiles twice. Gives
/// the seconds that it took; 0 when cargo did not start this process.
pub(super) async fn binaries(clock: Clock) -> Result<f64> {
    let (Some(cargo), Some(manifest)) = (std::env::var_os("CARGO"), std::env::var_os("CARGO_MANIFEST_DIR")) else {
        return Ok(0.0);
    };
    let executable = std::env::current_exe().context("the path of the running executable is unknown")?;
    let Some((target, profile)) = target_and_profile(&executable) else { return Ok(0.0) };
    let workspace = PathBuf::from(manifest);
    let workspace = workspace.parent().context("the manifest has no parent directory")?;
    clock.say("building the other executables (the first time takes minutes; cargo says how far it is)");
    let mut command = tokio::process::Command::new(cargo);
    command.args(["build", "--bins", "--profile", &profile]).arg("--target-dir").arg(&target).current_dir(workspace);
    // Cargo's progress is on standard error, which is the terminal's.
    command.kill_on_drop(true);
    let status = command.status().await.context("cannot run cargo")?;
    if !status.success() {
        return Err(Hint::error("the executables do not build", "see cargo's messages above"));
    }
    let took = clock.seconds();
    clock.say("built");
    Ok(took)
}

/// `<target>/debug/hubctl` is profile `dev`; any other directory has the profile's name.
fn target_and_profile(executable: &Path) -> Option<(PathBuf, String)> {
    let directory = executable.parent()?;
    let profile = match directory.file_name()?.to_str()? {
        "debug" => "dev",
        other => other,
    };
    Some((directory.parent()?.to_owned(), profile.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_follows_from_the_directory() {
        let of = |path: &str| target_and_profile(Path::new(path));
        assert_eq!(of("/t/debug/hubctl"), Some(("/t".into(), "dev".into())));
        assert_eq!(of("/t/release/hubctl"), Some(("/t".into(), "release".into())));
    }
}
