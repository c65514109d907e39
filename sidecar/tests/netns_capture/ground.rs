//! Three namespaces on one bridge: a client, a server, and a host outside that is everybody's default route.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dial::Dialer;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Where something runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Client,
    Server,
    Outside,
}

impl Place {
    const ALL: [Self; 3] = [Self::Client, Self::Server, Self::Outside];

    /// The last part of its addresses.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Client => 1,
            Self::Server => 2,
            Self::Outside => 3,
        }
    }
}

/// The namespaces; dropped with everything in them.
pub(crate) struct Ground {
    prefix: String,
    directory: tempfile::TempDir,
}

impl Ground {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        for (program, package) in [("ip", "iproute2"), ("nft", "nftables"), ("curl", "curl"), ("setpriv", "util-linux")]
        {
            let found = Command::new(program).arg("--version").output().is_ok();
            assert!(found, "{program} cannot be run\nhint: this test needs the package {package}");
        }
        let prefix = format!("cap{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let ground = Self { prefix, directory: tempfile::tempdir().unwrap() };
        let wire = ground.name("w");
        let added = ip(&["netns", "add", &wire]);
        assert!(added.is_ok(), "no network namespace can be made\nhint: run this test as root: {added:?}");
        ip(&["-n", &wire, "link", "add", "wire", "type", "bridge"]).unwrap();
        ip(&["-n", &wire, "link", "set", "wire", "up"]).unwrap();
        for place in Place::ALL {
            ground.add(place, &wire);
        }
        ground.write_config();
        ground
    }

    fn add(&self, place: Place, wire: &str) {
        let (namespace, number) = (self.namespace(place), place.number());
        let port = format!("port{number}");
        ip(&["netns", "add", &namespace]).unwrap();
        ip(&["-n", wire, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &namespace]).unwrap();
        ip(&["-n", wire, "link", "set", &port, "master", "wire", "up"]).unwrap();
        ip(&["-n", &namespace, "link", "set", "lo", "up"]).unwrap();
        ip(&["-n", &namespace, "link", "set", "eth0", "up"]).unwrap();
        ip(&["-n", &namespace, "addr", "add", &format!("10.77.0.{number}/24"), "dev", "eth0"]).unwrap();
        ip(&["-n", &namespace, "addr", "add", &format!("fd77::{number}/64"), "dev", "eth0", "nodad"]).unwrap();
        if place != Place::Outside {
            ip(&["-n", &namespace, "route", "add", "default", "via", "10.77.0.3"]).unwrap();
            ip(&["-n", &namespace, "route", "add", "default", "via", "fd77::3"]).unwrap();
        }
    }

    fn write_config(&self) {
        let text = "credential: /none\ncache_dir: /none\nbind: 10.77.0.1\n\
                    listen: {mtls: '[::]:15008', admin: '[::]:15020'}\ncapture: {}\n";
        self.file("sidecar.yaml", text);
    }

    /// Writes a file; its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path: PathBuf = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn name(&self, part: &str) -> String {
        format!("{}{part}", self.prefix)
    }

    pub(crate) fn namespace(&self, place: Place) -> String {
        self.name(&place.number().to_string())
    }

    /// `isthmus-sidecar capture <verb>` in a namespace.
    pub(crate) fn capture(&self, place: Place, verb: &str, settings: &[&str]) {
        self.try_capture(place, verb, settings).unwrap();
    }

    pub(crate) fn try_capture(&self, place: Place, verb: &str, settings: &[&str]) -> Result<String, String> {
        let config = self.directory.path().join("sidecar.yaml");
        let binary = env!("CARGO_BIN_EXE_isthmus-sidecar");
        let mut command = vec![binary, "capture", verb, "--config", config.to_str().unwrap()];
        command.extend(settings);
        self.exec(place, &command)
    }

    /// An unmodified client.
    pub(crate) fn curl(&self, place: Place, arguments: &[&str]) -> Result<String, String> {
        self.run(place, &[], arguments)
    }

    /// The same, run by another program.
    pub(crate) fn run(&self, place: Place, before: &[&str], arguments: &[&str]) -> Result<String, String> {
        // Errors of HTTP are answers, those of connections are not.
        let curl = ["curl", "--silent", "--show-error", "--globoff", "--max-time", "20"];
        let command: Vec<&str> = before.iter().chain(&curl).chain(arguments).copied().collect();
        self.exec(place, &command)
    }

    /// A client that says one thing after another, each after a pause, and hears until there is `last` in it.
    pub(crate) fn talk(&self, place: Place, to: &str, parts: &[(Duration, &str)], last: &str) -> String {
        let to: SocketAddr = to.parse().unwrap();
        let namespace = self.namespace(place);
        let talk = async {
            let mut stream = Dialer::unmarked().connect(to).await.unwrap();
            let mut heard = Vec::new();
            for (pause, part) in parts {
                tokio::time::sleep(*pause).await;
                stream.write_all(part.as_bytes()).await.unwrap();
            }
            while !String::from_utf8_lossy(&heard).contains(last) {
                let read = stream.read_buf(&mut heard).await.unwrap();
                assert!(read > 0, "the stream ended: {}", String::from_utf8_lossy(&heard));
            }
            String::from_utf8_lossy(&heard).into_owned()
        };
        std::thread::scope(|scope| {
            let client = scope.spawn(move || {
                enter(&namespace);
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), talk).await.unwrap() })
            });
            client.join().unwrap()
        })
    }

    pub(crate) fn exec(&self, place: Place, command: &[&str]) -> Result<String, String> {
        let namespace = self.namespace(place);
        let mut all = vec!["netns", "exec", &namespace];
        all.extend(command);
        ip(&all)
    }
}

/// Moves this thread into a namespace.
pub(crate) fn enter(namespace: &str) {
    let file = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

impl Drop for Ground {
    fn drop(&mut self) {
        let places = Place::ALL.map(|place| self.namespace(place));
        for namespace in places.iter().chain([&self.name("w")]) {
            // What was not made is not there.
            let _gone = ip(&["netns", "del", namespace]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("ip").args(arguments).stdin(std::process::Stdio::null()).output();
    let output = output.map_err(|error| error.to_string())?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(out.into_owned()) } else { Err(format!("{arguments:?}: {out}{err}")) }
}
