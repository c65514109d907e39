//! tcpdump on devices of the fleet's namespaces, and what it wrote.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use multicluster_tests::{Scenario, network_file};
use rustix::process::{Pid, Signal, kill_process};

/// How long tcpdump may take to begin and to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running capture of one device. Dropping it ends it.
pub(crate) struct Capture {
    child: Child,
    file: PathBuf,
    name: String,
    said: mpsc::Receiver<String>,
}

/// What was captured on one device.
pub(crate) struct Captured {
    /// `<namespace> <device>`.
    pub(crate) name: String,
    /// What frames begin with.
    pub(crate) link: Link,
    /// The frames, whole and in order.
    pub(crate) frames: Vec<Vec<u8>>,
}

/// What a captured frame begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// An Ethernet header: veth and loopback.
    Ethernet,
    /// The IP header: TUN.
    Raw,
}

impl Capture {
    /// Captures everything on a device from now on.
    pub(crate) fn begin(scenario: &Scenario, namespace: &str, device: &str) -> Self {
        let name = format!("{namespace} {device}");
        let file = scenario.beside(&format!("{}.pcap", name.replace(['/', ' '], "-")));
        let net = format!("--net={}", network_file(&scenario.fleet, namespace));
        let mut command = Command::new("nsenter");
        command.args([&net, "tcpdump", "-Z", "root", "-n", "--immediate-mode", "-U", "-s", "0", "-B", "32768"]);
        command.args(["-i", device, "-w"]).arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("nsenter runs");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let (say, said) = mpsc::channel();
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| say.send(line)));
        let capture = Self { child, file, name, said };
        capture.wait_for("listening on");
        capture
    }

    /// Ends the capture and reads it; fails if the kernel dropped a packet.
    pub(crate) fn end(mut self) -> Captured {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, Signal::INT).expect("tcpdump runs");
        let dropped = self.wait_for("dropped by kernel");
        assert!(dropped.starts_with("0 "), "{}: {dropped}", self.name);
        self.child.wait().expect("tcpdump ends");
        let mut bytes = Vec::new();
        std::fs::File::open(&self.file).and_then(|mut file| file.read_to_end(&mut bytes)).expect("the capture");
        let (link, frames) = read(&bytes);
        Captured { name: self.name.clone(), link, frames }
    }

    /// The line of tcpdump that has this in it.
    fn wait_for(&self, what: &str) -> String {
        let mut lines = Vec::new();
        loop {
            match self.said.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(what) => return line,
                Ok(line) => lines.push(line),
                Err(why) => panic!("{}: tcpdump did not say {what:?}: {why}: {lines:?}", self.name),
            }
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Reads a pcap file of this machine (the format is written in its byte order).
fn read(bytes: &[u8]) -> (Link, Vec<Vec<u8>>) {
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    assert_eq!(word(0), 0xa1b2_c3d4, "a pcap file");
    let link = match word(20) {
        1 => Link::Ethernet,
        101 => Link::Raw,
        other => panic!("unknown link type {other}"),
    };
    let (mut frames, mut at) = (Vec::new(), 24);
    while at + 16 <= bytes.len() {
        let (kept, whole) = (word(at + 8) as usize, word(at + 12) as usize);
        assert_eq!(kept, whole, "a frame was cut");
        frames.push(bytes[at + 16..at + 16 + kept].to_vec());
        at += 16 + kept;
    }
    assert_eq!(at, bytes.len(), "the last frame is whole");
    (link, frames)
}
