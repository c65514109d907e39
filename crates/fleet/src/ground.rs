//! What a fleet stands on, and whether this machine allows it.

use std::fmt;
use std::process::{Command, Stdio};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::hint::Hint;

/// What a fleet stands on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ground {
    /// Addresses in 127.0.0.0/8 and explicit proxies. Needs no privileges; no boundary between local users.
    #[default]
    Loopback,
    /// A network and a mount namespace per pod, gateway, agent, hub node and DNS shim. Needs root or user namespaces.
    Netns,
}

/// What the `netns` ground calls: iproute2, nftables and util-linux.
const TOOLS: [(&str, &str); 4] =
    [("ip", "iproute2"), ("nft", "nftables"), ("nsenter", "util-linux"), ("unshare", "util-linux")];

/// Everything that `up` will ask the kernel for, in namespaces that end with the script.
const TRIAL: &str = "ip link set lo up && ip link add trial0 type veth peer name trial1 \
    && ip link add trial2 type bridge && nft add table inet trial && echo 1 > /proc/sys/net/ipv4/ip_forward \
    && mount --bind /etc/hosts /etc/resolv.conf";

impl Ground {
    /// Every ground, in the order that messages list them.
    pub const ALL: [Self; 2] = [Self::Loopback, Self::Netns];

    /// The name used in files and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Netns => "netns",
        }
    }

    /// The ground of a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ground| ground.as_str() == name)
    }

    /// Tries the ground on this machine. The error says what is missing, with a hint.
    pub fn check(self) -> Result<()> {
        match self {
            Self::Loopback => Ok(()),
            Self::Netns => check_netns(),
        }
    }
}

impl fmt::Display for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether namespaces are made by root; otherwise they are made inside a user namespace.
pub(crate) fn as_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The words that make namespaces of one's own, outside of any user namespace that a fleet has.
pub(crate) fn unshare() -> Vec<String> {
    let user: &[&str] = if as_root() { &[] } else { &["--user", "--map-root-user"] };
    ["unshare"].iter().chain(user).chain(&["--net", "--mount", "--"]).map(|word| (*word).to_owned()).collect()
}

fn check_netns() -> Result<()> {
    for (tool, package) in TOOLS {
        let found = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if found.is_err() {
            let hint = format!("install it (Debian: {package}), or use the ground loopback");
            return Err(Hint::error(format!("the ground netns needs `{tool}`, which is not there"), hint));
        }
    }
    let words = unshare();
    let mut trial = Command::new(&words[0]);
    let tried = trial.args(&words[1..]).args(["sh", "-c", TRIAL]).stdin(Stdio::null()).output()?;
    if tried.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&tried.stderr);
    let who = if as_root() { "root" } else { "this user" };
    let message = format!("{who} may not make network namespaces here: {}", said.trim().replace('\n', "; "));
    let hint = "run as root with CAP_SYS_ADMIN and CAP_NET_ADMIN, allow unprivileged user namespaces, \
                or use the ground loopback";
    Err(Hint::error(message, hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ground_is_found_by_its_name() {
        for ground in Ground::ALL {
            assert_eq!(Ground::parse(ground.as_str()), Some(ground));
        }
        assert_eq!(Ground::parse("kind"), None);
    }
}
