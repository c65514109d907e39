//! Handing rulesets to the kernel, through `nft`, and the route of captured datagrams, through `ip`.

use std::io::{self, Write as _};
use std::process::{Command, Stdio};

use super::options::Options;
use super::ruleset::{UDP_MARK, removal, ruleset};

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
        "nft refused the ruleset, nothing was changed: {said}\nhint: CAP_NET_ADMIN in this network namespace is needed, and nf_tables with NAT (for datagrams: TPROXY) in the kernel"
    )]
    Refused {
        /// What `nft` said.
        said: String,
    },
    /// Captured datagrams cannot be led to the sidecar.
    #[error(
        "no route for captured datagrams, nothing was changed: {said}\nhint: `ip` of iproute2 and CAP_NET_ADMIN in this network namespace are needed; without `capture.udp: true` datagrams are not captured"
    )]
    Route {
        /// What `ip` said, or why it could not be run.
        said: String,
    },
}

/// Puts the ruleset in force in the current network namespace, in one transaction. What leads captured datagrams to the
/// sidecar comes first: nothing is led before the ruleset marks it.
pub fn apply(options: &Options) -> Result<(), NftError> {
    if options.udp {
        lead("-4").map_err(|said| NftError::Route { said })?;
        if let Err(said) = lead("-6") {
            tracing::warn!(said, "datagrams of IPv6 are not captured");
        }
    }
    nft(&ruleset(options))
}

/// Removes it from the current network namespace, if it is there.
pub fn remove() -> Result<(), NftError> {
    nft(&removal())?;
    for family in ["-4", "-6"] {
        // Fails where there is none, or no `ip`: without `ip` none was made.
        let mark = UDP_MARK.to_string();
        let _ = ip(&[family, "rule", "delete", "fwmark", &mark, "lookup", &mark]);
        let _ = ip(&[family, "route", "flush", "table", &mark]);
    }
    Ok(())
}

/// Leads marked packets of a family to the loopback interface, whatever their destination.
fn lead(family: &str) -> Result<(), String> {
    let mark = UDP_MARK.to_string();
    ip(&[family, "route", "replace", "local", "default", "dev", "lo", "table", &mark])?;
    match ip(&[family, "rule", "add", "fwmark", &mark, "lookup", &mark]) {
        // It is in force already.
        Err(said) if said.contains("File exists") => Ok(()),
        done => done,
    }
}

fn ip(words: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(words).stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
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
