//! Into the namespaces of a fleet, and who is there already.
//!
//! Everything that talks to a fleet on the ground `netns` does so from its management namespace: `hubctl` starts itself again
//! there ([`Fleet::is_outside`], [`Fleet::enter_node`]), processes of the fleet are started inside theirs ([`Fleet::enter`]).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::ground::{self, Ground};
use crate::handle::Fleet;
use crate::hint::Hint;
use crate::network::{self, NODE, Namespace};
use crate::plan::ProcessPlan;
use crate::process::PidRecord;

impl Fleet {
    /// Whether the calling process stands outside of the network of this fleet, so that it reaches none of its listeners.
    pub fn is_outside(&self) -> bool {
        if self.plan().ground != Ground::Netns {
            return false;
        }
        let node = self.record(&network::pause(NODE)).filter(PidRecord::is_alive);
        node.is_some_and(|node| !shares(node.pid, "net"))
    }

    /// The words before a command that run it in the management namespace, with the files of the caller.
    pub fn enter_node(&self) -> Result<Vec<String>> {
        self.nsenter(NODE, &["--net"])
    }

    /// The words before a command that run it in a namespace: its network and its `/etc`.
    pub fn enter(&self, namespace: &str) -> Result<Vec<String>> {
        self.nsenter(namespace, &["--net", "--mount"])
    }

    /// The same, staying in the working directory of the caller.
    pub fn enter_here(&self, namespace: &str) -> Result<Vec<String>> {
        let here = std::env::current_dir().context("the working directory is gone")?;
        self.nsenter(namespace, &["--net", "--mount", &format!("--wdns={}", here.display())])
    }

    fn nsenter(&self, namespace: &str, parts: &[&str]) -> Result<Vec<String>> {
        let holder = self.holder(namespace)?;
        let mut words = vec!["nsenter".to_owned(), format!("--target={}", holder.pid)];
        if !shares(holder.pid, "user") {
            words.extend(["--user".to_owned(), "--preserve-credentials".to_owned()]);
        }
        words.extend(parts.iter().map(|part| (*part).to_owned()));
        words.push("--".to_owned());
        Ok(words)
    }

    /// The process that holds a namespace.
    pub(crate) fn holder(&self, namespace: &str) -> Result<PidRecord> {
        let pause = network::pause(namespace);
        self.record(&pause).filter(PidRecord::is_alive).ok_or_else(|| {
            let hint = format!("`hubctl fleet start {pause}` makes it anew; then start what ran in it");
            Hint::error(format!("nothing holds the namespace {namespace}"), hint)
        })
    }

    /// A namespace by name, for messages to people.
    pub fn namespace(&self, name: &str) -> Result<Namespace> {
        let all = if self.plan().ground == Ground::Netns { network::namespaces(self.plan()) } else { Vec::new() };
        all.into_iter().find(|namespace| namespace.name == name).ok_or_else(|| {
            let hint = "`hubctl fleet status` lists the namespaces as <namespace>/pause";
            Hint::error(format!("there is no namespace {name:?}"), hint)
        })
    }

    /// What starts the process that makes and holds a namespace.
    pub(crate) fn pause_command(&self, process: &ProcessPlan) -> Result<Vec<String>> {
        let namespace = self.namespace(process.namespace.as_deref().unwrap_or_default())?;
        let script = self.layout.namespace(&namespace.name).join("setup.sh");
        let script = script.to_str().map(str::to_owned).context("the fleet's directory is not valid UTF-8")?;
        let run = ["sh".to_owned(), script];
        let Some(parent) = namespace.parent(self.plan()) else {
            return Ok([ground::unshare(), run.into()].concat());
        };
        // In the user namespace of the first one, if there is one.
        let enter = if shares(self.holder(NODE)?.pid, "user") { Vec::new() } else { self.nsenter(NODE, &[])? };
        let unshare = ["unshare", "--net", "--mount", "--"].map(str::to_owned);
        let parent = self.holder(&parent)?.pid.to_string();
        Ok([enter, unshare.into(), run.into(), vec![parent]].concat())
    }
}

/// Whether a process and the caller are in the same namespace of a type, as `/proc/<pid>/ns` names them.
fn shares(pid: i32, kind: &str) -> bool {
    let of = |process: &str| std::fs::read_link(Path::new("/proc").join(process).join("ns").join(kind)).ok();
    let (theirs, ours): (Option<PathBuf>, Option<PathBuf>) = (of(&pid.to_string()), of("self"));
    theirs.is_some() && theirs == ours
}
