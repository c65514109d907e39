//! What processes of a fleet hold.

use crate::Scenario;

/// The memory of a process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Now.
    pub resident: u64,
    /// The most that it ever was.
    pub peak: u64,
}

impl Scenario {
    /// What a process holds, as the kernel counts it.
    pub fn memory(&self, process: &str) -> Memory {
        let pid = self.fleet.record(process).unwrap_or_else(|| panic!("{process} runs")).pid;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel says so");
            line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
        };
        Memory { resident: field("VmRSS:"), peak: field("VmHWM:") }
    }
}
