//! Claims a `127.<n>.0.0/16` block, so that several fleets can run at once without choosing ports.
//!
//! A claim is a file `<n>` under `$TMPDIR/isthmus-fleets-<uid>`, made with `O_EXCL` under an exclusive lock. It names the
//! fleet's directory, its instance id and the process that claimed it. A claim is stale, and may be taken over, when that
//! process is gone and no process carries the instance id.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::hint::Hint;
use crate::plan::port;
use crate::process::{PidRecord, of_instance};

/// Second octets that fleets use. 127.0 is everyone's; resolvers like 127.0.0.53 live there.
const BLOCKS: std::ops::RangeInclusive<u8> = 16..=239;

/// Environment variable that names the directory of claims; set for a `hubctl` that starts itself again inside a user
/// namespace, where it has another user id.
pub const ENV_REGISTRY: &str = "ISTHMUS_FLEETS";

/// A claimed block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The second octet.
    pub block: u8,
    /// The fleet's directory.
    pub directory: PathBuf,
    /// The fleet's instance id.
    pub instance: String,
    /// Who claimed it.
    pub claimant: PidRecord,
}

/// The directory of claims of the calling user.
pub fn registry() -> PathBuf {
    if let Some(registry) = std::env::var_os(ENV_REGISTRY) {
        return PathBuf::from(registry);
    }
    std::env::temp_dir().join(format!("isthmus-fleets-{}", rustix::process::getuid().as_raw()))
}

/// Claims the first free block for a fleet.
pub fn claim(registry: &Path, directory: &Path, instance: &str) -> Result<Claim> {
    let _lock = lock(registry)?;
    for block in BLOCKS {
        let claim =
            Claim { block, directory: directory.to_owned(), instance: instance.to_owned(), claimant: PidRecord::own() };
        let path = registry.join(block.to_string());
        if path.exists() {
            // Nobody writes while the lock is held, so one that does not parse was left half written by a crash.
            if load(&path).is_some_and(|existing| !is_stale(&existing)) {
                continue;
            }
            std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        if !is_free(block) {
            continue;
        }
        let opened = OpenOptions::new().write(true).create_new(true).open(&path);
        let mut file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot claim {}", path.display())),
        };
        file.write_all(&serde_json::to_vec(&claim)?)?;
        return Ok(claim);
    }
    Err(Hint::error("no address block is free", "end a fleet with `hubctl fleet down`"))
}

/// Gives a block back, if it is still the one of this instance.
pub fn release(registry: &Path, block: u8, instance: &str) -> Result<()> {
    if !registry.exists() {
        return Ok(());
    }
    let _lock = lock(registry)?;
    let path = registry.join(block.to_string());
    if load(&path).is_some_and(|claim| claim.instance == instance) {
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// Every claim, stale ones too, by block.
pub fn claims(registry: &Path) -> Vec<Claim> {
    BLOCKS.filter_map(|block| load(&registry.join(block.to_string()))).collect()
}

fn load(path: &Path) -> Option<Claim> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn is_stale(claim: &Claim) -> bool {
    !claim.claimant.is_alive() && of_instance(&claim.instance).is_empty()
}

/// Another user may run a fleet there: their claims are in a directory of their own.
fn is_free(block: u8) -> bool {
    let hub = (Ipv4Addr::new(127, block, 0, 1), port::HUB_API);
    let agent = (Ipv4Addr::new(127, block, 1, 1), port::DISCOVERY);
    TcpListener::bind(hub).is_ok() && TcpListener::bind(agent).is_ok()
}

/// Opens the registry, which must be ours (its parent may be writable by everyone), and locks it.
fn lock(registry: &Path) -> Result<File> {
    let created = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(registry);
    created.with_context(|| format!("cannot create {}", registry.display()))?;
    let owner = std::fs::symlink_metadata(registry)?;
    if !owner.is_dir() || owner.uid() != rustix::process::getuid().as_raw() {
        let message = format!("{} belongs to somebody else", registry.display());
        return Err(Hint::error(message, "set TMPDIR to a directory of your own"));
    }
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(registry.join("lock"))?;
    file.lock().context("cannot lock the claims")?;
    Ok(file)
}
