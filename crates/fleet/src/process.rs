//! Real processes: started detached, recorded at once, signalled only when it is certain that they are ours.
//!
//! A pid alone proves nothing: the kernel reuses it. A record therefore carries the start time of the process, and a signal
//! goes through a pidfd that is opened *before* that start time is compared.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// Environment variable that every process of a fleet carries: the fleet's instance id.
pub const ENV_INSTANCE: &str = "ISTHMUS_FLEET_INSTANCE";

/// A process of a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PidRecord {
    /// Process id.
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks from boot to the start of the process.
    pub start_time: u64,
}

/// What the kernel says about a recorded process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessState {
    /// It runs.
    Running,
    /// It is stopped by a signal.
    Stopped,
    /// It is gone, or its pid belongs to somebody else now.
    Dead,
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Executable and arguments.
    pub command: Vec<String>,
    /// Variables on top of the inherited ones.
    pub environment: Vec<(String, String)>,
    /// The fleet's instance id.
    pub instance: String,
    /// Where standard output and error are appended.
    pub log: PathBuf,
    /// Where the pid record goes.
    pub record: PathBuf,
}

/// Proxy variables of the caller must not leak into a fleet: its processes talk to loopback addresses only.
pub const PROXY_VARIABLES: [&str; 8] =
    ["http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];

/// Starts a process in its own process group (a Ctrl-C in the terminal does not reach it), with no standard input, and
/// records it before anything else happens. Must be called in a tokio runtime, which reaps the child when it ends.
pub fn spawn(launch: &Launch) -> Result<PidRecord> {
    let (program, arguments) = launch.command.split_first().context("the command is empty")?;
    make_parent(&launch.log)?;
    make_parent(&launch.record)?;
    let log = OpenOptions::new().create(true).append(true).open(&launch.log)?;
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    for name in PROXY_VARIABLES {
        command.env_remove(name);
    }
    command.envs(launch.environment.iter().cloned()).env(ENV_INSTANCE, &launch.instance);
    let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).context("the child has no pid")?;
    // A child that is gone already leaves a zombie until it is reaped, so its start time is still there.
    let start_time = stat(pid).map_or(0, |stat| stat.start_time);
    let record = PidRecord { pid, start_time };
    write_json(&launch.record, &record)?;
    Ok(record)
}

impl PidRecord {
    /// Reads a record; `None` if the process was never started.
    pub fn load(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// The record of the calling process.
    pub fn own() -> Self {
        let pid = i32::try_from(std::process::id()).unwrap_or(0);
        Self { pid, start_time: stat(pid).map_or(0, |stat| stat.start_time) }
    }

    /// Whether it is a namespace's holder that is done with setting up: all that is left is `sleep infinity`.
    pub fn holds(&self) -> bool {
        let command = std::fs::read_to_string(format!("/proc/{}/comm", self.pid));
        command.is_ok_and(|command| command.trim_end() == "sleep") && self.is_alive()
    }

    /// TCP ports on which somebody listens in its network namespace.
    pub fn listening(&self) -> BTreeSet<u16> {
        let table = |name| std::fs::read_to_string(format!("/proc/{}/net/{name}", self.pid)).unwrap_or_default();
        [table("tcp"), table("tcp6")].iter().flat_map(|table| table.lines().filter_map(listening_port)).collect()
    }

    /// What the kernel says about it now.
    pub fn state(&self) -> ProcessState {
        match stat(self.pid) {
            Some(stat) if stat.start_time == self.start_time => match stat.state {
                // The first thread of a process that dies is a zombie while others still hold its sockets and devices.
                'Z' | 'X' | 'x' if stat.threads <= 1 => ProcessState::Dead,
                'T' | 't' => ProcessState::Stopped,
                _ => ProcessState::Running,
            },
            _ => ProcessState::Dead,
        }
    }

    /// Whether it still exists.
    pub fn is_alive(&self) -> bool {
        self.state() != ProcessState::Dead
    }

    /// Sends a signal if the process is still the recorded one. `false`: it is gone, nothing was sent.
    pub fn signal(&self, signal: Signal) -> Result<bool> {
        let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.pid > 1) else { return Ok(false) };
        let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(false) };
        // Opened first, compared second: the descriptor cannot come to mean another process afterwards.
        if !self.is_alive() {
            return Ok(false);
        }
        match pidfd_send_signal(descriptor, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot signal process {}", self.pid)),
        }
    }
}

/// Processes whose environment carries this instance id, recorded or not: what a crash between a start and its record
/// left over, and grandchildren of applications.
pub fn of_instance(instance: &str) -> Vec<PidRecord> {
    let wanted = format!("{ENV_INSTANCE}={instance}").into_bytes();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let carries = |pid: &i32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted)
    };
    let record = |pid| Some(PidRecord { pid, start_time: stat(pid)?.start_time });
    pids.filter(|pid| *pid != own).filter(carries).filter_map(record).filter(PidRecord::is_alive).collect()
}

/// Parses the name of a signal that a person would type.
pub fn parse_signal(name: &str) -> Option<Signal> {
    Some(match name.to_uppercase().trim_start_matches("SIG") {
        "KILL" | "9" => Signal::KILL,
        "TERM" | "15" => Signal::TERM,
        "INT" | "2" => Signal::INT,
        "HUP" | "1" => Signal::HUP,
        "STOP" => Signal::STOP,
        "CONT" => Signal::CONT,
        "QUIT" => Signal::QUIT,
        _ => return None,
    })
}

/// The port of a line of `/proc/net/tcp` (proc_net_tcp in the kernel's documentation) whose state is LISTEN.
fn listening_port(line: &str) -> Option<u16> {
    let mut fields = line.split_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    let (_, port) = local.rsplit_once(':')?;
    (state == "0A").then(|| u16::from_str_radix(port, 16).ok())?
}

struct Stat {
    state: char,
    threads: u64,
    start_time: u64,
}

/// `/proc/<pid>/stat`: the command's name may contain anything, so fields count from the last `)`.
fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // proc(5): state is field 3, num_threads field 20, starttime field 22; `fields` begins with field 3.
    let number = |field: usize| fields.get(field - 3)?.parse().ok();
    Some(Stat { state: fields.first()?.chars().next()?, threads: number(20)?, start_time: number(22)? })
}

pub(crate) fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().with_context(|| format!("{} has no parent", path.display()))?;
    std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))
}

/// Writes a file that readers see whole or not at all.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    make_parent(path)?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("file");
    // The leading dot and the suffix keep directory sources from reading it.
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    std::fs::write(&temporary, bytes).with_context(|| format!("cannot write {}", temporary.display()))?;
    std::fs::rename(&temporary, path).with_context(|| format!("cannot write {}", path.display()))
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    write_atomic(path, &serde_json::to_vec_pretty(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_read_from_the_kernels_table() {
        for (line, expected) in [
            ("   0: 1401100A:2378 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0", Some(9080)),
            (
                "   1: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 0A 00000000:0",
                Some(53),
            ),
            ("   2: 1401100A:2378 0101100A:C350 01 00000000:00000000 00:00000000 00000000     0", None),
            ("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid", None),
        ] {
            assert_eq!(listening_port(line), expected, "{line}");
        }
    }
}
