//! Programs that nobody here wrote: installed where they are missing, run, and ended with the test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::{Scenario, eventually, texts};

/// How long a server may take to listen.
const LISTENS: Duration = Duration::from_secs(20);

/// Makes sure that a tool of the machine is there: installs Debian's package where that is possible, and says so.
pub fn tool(name: &str, package: &str) {
    let found = |name: &str| Command::new("sh").args(["-c", &format!("command -v {name}")]).output();
    let found = |name: &str| found(name).is_ok_and(|output| output.status.success());
    if found(name) {
        return;
    }
    eprintln!("installing {package} for {name}");
    let install = format!("apt-get update -qq && apt-get install -y -qq --no-install-recommends {package}");
    let said = sh(&install);
    assert!(found(name), "{name} is missing and cannot be installed: {said}\nhint: install {name} (Debian: {package})");
}

/// The Python of a virtual environment that has these packages, kept in the cache directory of CI.
///
/// `packages` are requirements with versions: another set is another environment.
pub fn python(packages: &[&str]) -> PathBuf {
    tool("python3", "python3 python3-venv");
    let directory = cache().join("python").join(packages.join("_"));
    let python = directory.join("bin/python");
    let ready = directory.join("READY");
    if ready.exists() {
        return python;
    }
    let parent = directory.parent().expect("a directory in the cache");
    std::fs::create_dir_all(parent).expect("the cache is writable");
    // Tests run side by side in several processes: one of them installs, the others wait.
    let lock = std::fs::File::create(parent.join("LOCK")).expect("the cache is writable");
    lock.lock().expect("the lock of the cache");
    if !ready.exists() {
        eprintln!("installing {} from PyPI into {}", packages.join(", "), directory.display());
        let here = directory.display();
        let wanted = packages.join(" ");
        let said = sh(&format!("python3 -m venv '{here}' && '{here}/bin/pip' install --quiet {wanted}"));
        let installed = Command::new(&python).args(["-m", "pip", "show", "--quiet"]).args(names(packages)).status();
        assert!(installed.is_ok_and(|status| status.success()), "{wanted} cannot be installed: {said}");
        std::fs::write(&ready, "").expect("the cache is writable");
    }
    python
}

/// A program that a package of [`python`] brought.
pub fn foreign_binary(python: &Path, name: &str) -> String {
    python.with_file_name(name).display().to_string()
}

fn names<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    packages.iter().filter_map(|package| package.split("==").next()).collect()
}

/// Where tools live between runs: beside the caches of `.ci/run`.
fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/tmp".into()));
    let caches = || std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from);
    std::env::var_os("ISTHMUS_CI_CACHE").map_or_else(|| caches().join("isthmus-ci"), PathBuf::from)
}

fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-c", script]).env("DEBIAN_FRONTEND", "noninteractive").output();
    let (stdout, stderr) = texts(&output.expect("sh runs"));
    stdout + &stderr
}

/// A server that nobody here wrote. Dropping it ends it.
pub struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts a program and waits until it accepts connections; its output goes to a file beside the fleet.
    pub async fn start(scenario: &Scenario, name: &str, command: &[&str], listens: SocketAddr) -> Self {
        let (program, arguments) = command.split_first().expect("a program");
        let log = scenario.beside(&format!("{name}.log"));
        let file = std::fs::File::create(&log).expect("a log");
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stderr(file.try_clone().expect("a log")).stdout(file);
        for variable in fleet::process::PROXY_VARIABLES {
            command.env_remove(variable);
        }
        let child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
        let mut server = Self { child, log };
        eventually(&format!("{name} listens on {listens}"), LISTENS, async || {
            let ended = server.child.try_wait().ok().flatten();
            assert!(ended.is_none(), "{name} ended: {}", server.log());
            let connected = tokio::net::TcpStream::connect(listens).await;
            connected.map(drop).map_err(|error| format!("{error}: {}", server.log()))
        })
        .await;
        server
    }

    /// What the server has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Scenario {
    /// An address of the fleet's block that the fleet does not use: nobody else can have its ports.
    pub fn outside(&self, number: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([127, self.fleet.plan().block, 250, number], port))
    }

    /// A path for a file of the test, beside the fleet.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.path().parent().unwrap_or(Path::new("/tmp")).join(name)
    }

    /// Writes a file of the test, beside the fleet, and gives its path.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.beside(name);
        std::fs::write(&path, text).expect("the directory of the test is writable");
        path.display().to_string()
    }
}
