//! Two namespaces with `isthmus-wan` between them.

use std::fmt::Debug;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use wan::{Namespace, Rebind, Request, Side, Status, ask, change_of_words};

pub(crate) const LEFT: &str = "10.9.0.1";
pub(crate) const RIGHT: &str = "10.9.0.2";
/// What the left side looks like behind a NAT; the right side has a route to both.
pub(crate) const NAT: &str = "198.51.100.1,198.51.100.2";

/// Everything is gone when it is dropped.
pub(crate) struct Ground {
    names: [String; 2],
    pub(crate) child: Child,
    pub(crate) control: PathBuf,
    _directory: TempDir,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Ground {
    /// `words` as of `isthmus-wan set`; none for a perfect wire.
    pub(crate) fn new(words: &str) -> Self {
        demand();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let names = ["l", "r"].map(|side| format!("iwan-{}-{number}{side}", std::process::id()));
        for name in &names {
            run("ip", &["netns", "add", name]);
            run("ip", &["-n", name, "link", "set", "lo", "up"]);
        }
        let directory = tempfile::tempdir().unwrap();
        let control = directory.path().join("wan.sock");
        let child = start(&names, &control, words);
        Self { names, child, control, _directory: directory }
    }

    pub(crate) fn name(&self, side: Side) -> &str {
        &self.names[usize::from(side == Side::Right)]
    }

    pub(crate) fn set(&self, words: &str) -> Status {
        let change = change_of_words(words.split(' ')).unwrap();
        ask(&self.control, &Request::Set { change }).unwrap()
    }

    pub(crate) fn rebind(&self, what: Rebind) {
        ask(&self.control, &Request::Rebind { what }).unwrap();
    }

    pub(crate) fn status(&self) -> Status {
        ask(&self.control, &Request::Show {}).unwrap()
    }

    /// A program in the namespace of `side`, until it ends.
    pub(crate) fn exec(&self, side: Side, words: &str) -> String {
        let output = self.command(side, words).output().unwrap();
        text(&output, words)
    }

    pub(crate) fn command(&self, side: Side, words: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.name(side)]).args(words.split(' '));
        command
    }

    /// What `make` makes, such as a socket, belongs to the namespace of `side` for good.
    pub(crate) fn inside<T: Send>(&self, side: Side, make: impl FnOnce() -> T + Send) -> T {
        let namespace: Namespace = self.name(side).parse().unwrap();
        let make = || {
            namespace.enter().unwrap();
            make()
        };
        std::thread::scope(|scope| scope.spawn(make).join().unwrap())
    }

    /// A socket that gives up after 200 ms of silence.
    pub(crate) fn udp(&self, side: Side, address: &str) -> UdpSocket {
        let socket = self.inside(side, || UdpSocket::bind(address)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        socket
    }

    /// Runs an iperf3 server on the right and a client on the left; the client's report.
    pub(crate) fn iperf(&self, words: &str) -> serde_json::Value {
        let mut server = self.command(Side::Right, "iperf3 -s -1 --forceflush").stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("Server listening")), "the iperf3 server listens");
        let report = self.exec(Side::Left, &format!("iperf3 -J -c {RIGHT} {words}"));
        lines.for_each(drop);
        server.wait().unwrap();
        serde_json::from_str(&report).unwrap()
    }
}

/// Waits until `seen` is something, for at most ten seconds.
pub(crate) fn eventually<T>(what: &str, mut seen: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        if let Some(found) = seen() {
            return found;
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
    panic!("{what} did not happen within ten seconds");
}

fn demand() {
    assert!(std::path::Path::new("/dev/net/tun").exists(), "/dev/net/tun is missing\n    hint: modprobe tun");
    let root = rustix::process::geteuid().is_root();
    assert!(root, "this ground needs root\n    hint: sudo -E cargo test -p isthmus-wan --test netns_link");
    for (tool, package) in [("ip", "iproute2"), ("ping", "iputils-ping"), ("iperf3", "iperf3")] {
        let found = Command::new(tool).arg("-V").output();
        assert!(found.is_ok(), "{tool} is missing\n    hint: apt-get install {package}");
    }
}

fn start(names: &[String; 2], control: &std::path::Path, words: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus-wan"));
    command.args(["run", "--left", &names[0], "--right", &names[1], "--right-route", "198.51.100.0/24"]);
    command.args(["--left-address", "10.9.0.1/30", "--right-address", "10.9.0.2/30"]);
    command.args(["--left-address", "fd09::1/64", "--right-address", "fd09::2/64"]);
    command.arg("--control").arg(control).env("NO_COLOR", "1").stderr(Stdio::piped());
    if !words.is_empty() {
        command.args(["--set", words]);
    }
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    // The seed, among others: shown when a test fails.
    let ready = lines
        .by_ref()
        .find_map(|line| line.ok().inspect(|line| println!("{line}")).filter(|line| line.contains("ready")));
    ready.expect("isthmus-wan says that it is ready");
    std::thread::spawn(move || lines.for_each(drop));
    child
}

fn run(program: &str, words: &[&str]) {
    text(&Command::new(program).args(words).output().unwrap(), &words.join(" "));
}

fn text(output: &Output, words: impl Debug) -> String {
    let show = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{words:?}: {}{}", show(&output.stdout), show(&output.stderr));
    show(&output.stdout)
}

impl Drop for Ground {
    fn drop(&mut self) {
        // Each may be gone already; what is left is removed.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}
