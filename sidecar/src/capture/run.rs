//! Handing rulesets to the kernel, through `nft`.

use std::io::{self, Write as _};
use std::process::{Command, Stdio};

use super::options::Options;
use super::ruleset::{removal, ruleset};

/// Why a ruleset is not in force.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// There is no `nft`.
    #[error("nft cannot be run\nhint: install nftables; `isthmus-sidecar capture print` shows what it would be told")]
    Missing(#[source] io::Error),
    /// It was not listened to.
    #[error("nft did not read the ruleset")]
    Unread(#[source] io::Error),
    /// The kernel or `nft` refused; nothing was changed.
    #[error(
        "nft refused the ruleset, nothing was changed: {said}\nhint: CAP_NET_ADMIN in this network namespace is needed, and nf_tables with NAT in the kernel"
    )]
    Refused {
        /// What `nft` said.
        said: String,
    },
}

/// Puts the ruleset in force in the current network namespace, in one transaction.
pub fn apply(options: &Options) -> Result<(), NftError> {
    nft(&ruleset(options))
}

/// Removes it from the current network namespace, if it is there.
pub fn remove() -> Result<(), NftError> {
    nft(&removal())
}

fn nft(text: &str) -> Result<(), NftError> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(NftError::Missing)?;
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().map_err(NftError::Unread)?;
    if !output.status.success() {
        return Err(NftError::Refused { said: String::from_utf8_lossy(&output.stderr).trim().to_owned() });
    }
    written.map_err(NftError::Unread)
}
