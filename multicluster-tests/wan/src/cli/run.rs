//! `isthmus-wan run`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use ipnet::IpNet;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use wan::{DeviceSpec, Emulator, LinkSpec, Namespace, change_of_words, serve};

/// The environment variable with the log filter, as in every process of Isthmus.
const LOG_VARIABLE: &str = "ISTHMUS_LOG";

#[derive(Debug, Args)]
pub(super) struct Run {
    /// The left namespace: a name of `ip netns`, a path such as /proc/PID/ns/net, or `current`.
    #[arg(long)]
    left: Namespace,
    /// The right namespace.
    #[arg(long)]
    right: Namespace,
    /// Name of the device in the left namespace.
    #[arg(long, default_value = "wan0")]
    left_device: String,
    /// Name of the device in the right namespace.
    #[arg(long, default_value = "wan0")]
    right_device: String,
    /// Address of the left device with its prefix, such as 10.9.0.1/30; may be given again.
    #[arg(long)]
    left_address: Vec<IpNet>,
    /// Address of the right device with its prefix.
    #[arg(long)]
    right_address: Vec<IpNet>,
    /// What the left namespace reaches through the link beside the prefixes of its addresses; may be given again.
    #[arg(long)]
    left_route: Vec<IpNet>,
    /// What the right namespace reaches through the link.
    #[arg(long)]
    right_route: Vec<IpNet>,
    /// MTU of both devices, in bytes of IP.
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u16).range(552..))]
    mtu: u16,
    /// Where to listen for `set`, `show` and `rebind`; it exists as soon as the link is up.
    #[arg(long)]
    control: PathBuf,
    /// Makes random decisions the same again; drawn and logged if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Conditions to start with, in the words of `isthmus-wan set`; may be given again.
    #[arg(long, value_name = "WORDS")]
    set: Vec<String>,
    /// Conditions to start with, as JSON: the fields `both`, `left-to-right`, `right-to-left` and `nat`.
    #[arg(long, value_name = "JSON")]
    spec: Option<String>,
}

impl Run {
    pub(super) fn execute(&self) -> anyhow::Result<()> {
        let filter = std::env::var(LOG_VARIABLE).unwrap_or_else(|_| "info".to_owned());
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
        let link = self.link()?;
        let seed = self.seed.unwrap_or_else(rand::random);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
        runtime.block_on(self.link_up(link, seed))
    }

    fn link(&self) -> anyhow::Result<LinkSpec> {
        let mut link: LinkSpec = match &self.spec {
            Some(json) => LinkSpec::default()
                .changed(&serde_json::from_str(json).context(
                    "--spec is no JSON object\n    hint: write it like '{\"both\": {\"delay\": \"40ms\"}}'",
                )?)?,
            None => LinkSpec::default(),
        };
        for words in &self.set {
            link = link.changed(&change_of_words(words.split_whitespace())?)?;
        }
        Ok(link)
    }

    async fn link_up(&self, link: LinkSpec, seed: u64) -> anyhow::Result<()> {
        // Before anything is made, so that a signal never leaves something behind.
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let mut emulator = Emulator::start(&self.left_end(), &self.right_end(), link, seed)?;
        let handle = emulator.handle();
        let socket = Socket::bind(&self.control)?;
        tracing::info!(seed, left = %self.left, right = %self.right, control = %self.control.display(), "ready");
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: the link goes down"),
            _ = interrupt.recv() => tracing::info!("SIGINT: the link goes down"),
            ended = emulator.ended() => ended.context("a device is gone\n    hint: did its namespace end?")?,
            served = serve(socket.listener, handle) => served.context("the control socket failed")?,
        }
        Ok(())
    }

    fn left_end(&self) -> DeviceSpec {
        DeviceSpec {
            namespace: self.left.clone(),
            name: self.left_device.clone(),
            addresses: self.left_address.clone(),
            routes: self.left_route.clone(),
            mtu: self.mtu,
        }
    }

    fn right_end(&self) -> DeviceSpec {
        DeviceSpec {
            namespace: self.right.clone(),
            name: self.right_device.clone(),
            addresses: self.right_address.clone(),
            routes: self.right_route.clone(),
            mtu: self.mtu,
        }
    }
}

/// The control socket; its file goes with it.
struct Socket {
    listener: UnixListener,
    _file: Removed,
}

struct Removed(PathBuf);

impl Socket {
    fn bind(path: &Path) -> anyhow::Result<Self> {
        let context = || {
            format!(
                "cannot listen at {}\n    hint: choose another --control, in a directory that exists",
                path.display()
            )
        };
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            anyhow::bail!("a link already listens at {}\n    hint: choose another --control", path.display());
        }
        // What is left of a process that was killed; anything else there makes `bind` fail.
        if std::fs::symlink_metadata(path).is_ok_and(|found| is_socket(&found)) {
            std::fs::remove_file(path).with_context(context)?;
        }
        let listener = UnixListener::bind(path).with_context(context)?;
        Ok(Self { listener, _file: Removed(path.to_owned()) })
    }
}

fn is_socket(found: &std::fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_socket(&found.file_type())
}

impl Drop for Removed {
    fn drop(&mut self) {
        // Whoever removed it first did what is to be done.
        let _ = std::fs::remove_file(&self.0);
    }
}
