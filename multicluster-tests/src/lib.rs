//! What the tests over whole fleets share: a fleet from a few lines of YAML, taken down whatever happens.
//!
//! Fleets run the real binaries as processes on the `loopback` ground, each in a directory and an address block of its
//! own, so that tests run side by side; or, with [`on_netns`], in network namespaces.

#![expect(clippy::expect_used, clippy::panic, reason = "support of tests: whatever fails here is a failed test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::Duration;

use fleet::down::{GRACE, down};
use fleet::up::{UpRequest, up};
use fleet::{Fleet, FleetFile, Ground};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

mod agreement;
mod certificates;
mod configure;
mod credentials;
mod curl;
mod cut;
mod datagrams;
mod flows;
mod inside;
mod long_flow;
mod memory;
mod mixed;
mod netns;
mod shots;
mod tools;
mod undisturbed;
pub use agreement::Asked;
pub use certificates::Certificates;
pub use credentials::{BadCredential, Fakes};
pub use curl::{answer, curl, s_client};
pub use datagrams::{addresses, connected, echo, exchange};
pub use flows::{FlowReport, Flows};
pub use inside::Inside;
pub use long_flow::LongFlow;
pub use memory::Memory;
pub use mixed::{Flow, FlowKind, Mixed, Sent};
pub use netns::{demand_netns, network_file, on_netns, within};
pub use shots::{Shot, assert_at_most, assert_only_in_flight_failed, assert_share, shoot, tally, volley};
pub use tools::{Server, foreign_binary, python, tool};
pub use undisturbed::Undisturbed;

/// Two clusters: `east/web` calls, `west/reviews` serves. One hub voter and one gateway each, to start fast.
pub const SMALL: &str = "
name: small
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    gateways: 1
    workloads:
      - {name: web, serviceAccount: web, labels: {app: web, version: v1}}
  - name: west
    gateways: 1
    workloads:
      - name: reviews
        serviceAccount: reviews
        labels: {app: reviews, version: v2}
        export: true
        ports:
          - {name: http, port: 9080, protocol: http}
          - {name: grpc, port: 9090, protocol: grpc}
          - {name: h2, port: 9091, protocol: http2}
          - {name: tcp, port: 9000, protocol: tcp}
          - {name: first, port: 9001, protocol: tcp-server-first}
      - name: secret
        serviceAccount: secret
        labels: {app: secret, version: v1}
        ports: [{name: http, port: 9080, protocol: http}]
";

/// Between two looks.
const BREATH: Duration = Duration::from_millis(50);

/// A running fleet. Dropping it takes it down.
pub struct Scenario {
    /// The fleet.
    pub fleet: Fleet,
    directory: Option<TempDir>,
}

impl Scenario {
    /// Brings up the fleet that `file` describes, and waits until every export is usable.
    pub async fn up(file: &str) -> Self {
        Self::up_on(Ground::Loopback, file).await
    }

    /// The same on any ground. On `netns` only [`Scenario::hubctl`] and its like reach the fleet, unless the caller stands in
    /// its management namespace: [`on_netns`].
    pub async fn up_on(ground: Ground, file: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("isthmus-test-").tempdir().expect("a directory");
        let mut file = FleetFile::parse(file).expect("the fleet file is valid");
        file.ground = ground;
        let mut request = UpRequest::new(file, directory.path().join("fleet"), binaries());
        request.patience = Duration::from_secs(90);
        let fleet = up(request, &|_| ()).await.expect("the fleet comes up");
        Self { fleet, directory: Some(directory) }
    }

    /// The fleet's directory.
    pub fn path(&self) -> &Path {
        self.fleet.layout.root()
    }

    /// Runs `hubctl --fleet <this>` and gives what it said.
    pub async fn hubctl(&self, args: &[&str]) -> Output {
        let mut command = tokio::process::Command::new(binaries().join("hubctl"));
        command.arg("--fleet").arg(self.path()).args(args).stdin(std::process::Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await;
        output.unwrap_or_else(|_| panic!("hubctl {args:?} did not end within a minute")).expect("hubctl runs")
    }

    /// Runs hubctl, which must succeed, and gives its standard output.
    pub async fn ok(&self, args: &[&str]) -> String {
        let output = self.hubctl(args).await;
        let (stdout, stderr) = texts(&output);
        assert!(output.status.success(), "hubctl {args:?}: {}\n{stdout}\n{stderr}\n{}", output.status, self.logs());
        stdout
    }

    /// Runs hubctl, which must succeed and print JSON.
    pub async fn json(&self, args: &[&str]) -> Value {
        let stdout = self.ok(args).await;
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("hubctl {args:?}: {error}: {stdout}"))
    }

    /// Runs hubctl, which must fail, and gives its standard error.
    pub async fn fails(&self, args: &[&str]) -> String {
        let output = self.hubctl(args).await;
        let (stdout, stderr) = texts(&output);
        assert!(!output.status.success(), "hubctl {args:?} succeeded: {stdout}");
        stderr
    }

    /// The last lines of every process' log, for the message of a failing test.
    pub fn logs(&self) -> String {
        let processes = self.fleet.plan().processes();
        let tails = processes.iter().map(|process| {
            let tail = fleet::wait::tail(&self.fleet.layout.log(&process.name));
            format!("--- {}\n{tail}\n", process.name)
        });
        tails.collect()
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        let (root, registry) = (self.path().to_owned(), self.fleet.state.registry.clone());
        if std::thread::panicking() && std::env::var_os("ISTHMUS_KEEP").is_some() {
            let kept = self.directory.take().map(TempDir::keep);
            eprintln!("kept for inspection: {kept:?}; end it with `hubctl fleet down --fleet {}`", root.display());
            return;
        }
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        // A runtime of its own: a test's runtime cannot be blocked on from inside.
        let downed = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(down(&root, &registry, GRACE))
        });
        match downed.join() {
            Ok(Ok(_)) => {}
            problem => eprintln!("the fleet was not taken down cleanly: {problem:?}"),
        }
    }
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// The directory of the workspace's binaries, built once per test process so that they are never older than the test.
pub fn binaries() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        // target/<profile>/{deps,examples}/<this> -> target/<profile>
        let this = std::env::current_exe().expect("the path of the test");
        let directory = this.ancestors().nth(2).expect("a target directory").to_owned();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--bins", "--manifest-path"]);
        build.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"));
        if directory.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo runs").success(), "the binaries do not build");
        directory
    });
    built.clone()
}

/// Asks again and again, until the answer is `Ok`; fails the test with the last answer when the time is over.
pub async fn eventually<T>(what: &str, within: Duration, mut probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + within;
    loop {
        let why = match probe().await {
            Ok(value) => return value,
            Err(why) => why,
        };
        assert!(Instant::now() < deadline, "not within {} s: {what}: {why}", within.as_secs());
        tokio::time::sleep(BREATH).await;
    }
}

/// Names the part of a test that begins, with the time since the start of the process.
pub fn step(name: &str) {
    static STARTED: OnceLock<Instant> = OnceLock::new();
    println!("[{:5.1} s] {name}", STARTED.get_or_init(Instant::now).elapsed().as_secs_f64());
}

/// A service of the client's own cluster, for [`Undisturbed`].
pub const NEAR: &str = "near.default.svc.cluster.local";
/// A workload that serves it, as an element of a fleet file's list.
pub const NEAR_WORKLOAD: &str =
    "{name: near, labels: {app: near, version: v1}, ports: [{name: http, port: 9080, protocol: http}]}";

/// The exported service of [`SMALL`], by its clusterset name.
pub const REVIEWS: &str = "reviews.default.svc.clusterset.local";

impl Scenario {
    /// The explicit proxy of a workload, `east/web`.
    pub fn proxy(&self, workload: &str) -> std::net::SocketAddr {
        self.fleet.pod(workload).expect("the workload exists").1.proxy()
    }

    /// A call of `east/web` to [`REVIEWS`]; `path` begins with the port: `9080/hello`.
    pub fn call(&self, path: &str) -> fleet::call::Call {
        fleet::call::Call::get(self.proxy("east/web"), &format!("http://{REVIEWS}:{path}")).expect("a URL")
    }

    /// GETs from [`REVIEWS`] and gives the echo server's answer; anything but 200 fails the test.
    pub async fn get(&self, path: &str) -> Value {
        let reply = self.call(path).send().await;
        let reply = reply.unwrap_or_else(|error| panic!("{path}: {error:#}\n{}", self.logs()));
        let body = String::from_utf8_lossy(&reply.body);
        assert_eq!(reply.status, Some(http::StatusCode::OK), "{path}: {body}\n{}", self.logs());
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
    }
}
