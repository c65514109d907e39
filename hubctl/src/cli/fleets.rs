//! `hubctl fleet`: meshes on this machine.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use fleet::call::Speak;
use fleet::echo::EchoPort;

#[derive(Debug, Subcommand)]
pub(crate) enum FleetCommand {
    /// Bring a fleet up
    Up(Up),
    /// End all processes of a fleet and remove its directory
    Down {
        /// The fleet's directory [default: --fleet, or the only one]
        directory: Option<PathBuf>,
    },
    /// The fleets of this user
    List,
    /// Processes, whether they run and whether they serve
    Status,
    /// Send a signal to a process
    Kill {
        /// The process, as `fleet status` names it
        process: String,
        /// KILL, TERM, STOP, CONT, …
        #[arg(long, default_value = "KILL")]
        signal: String,
    },
    /// Start a process that was killed, and wait until it serves
    Start {
        /// The process, as `fleet status` names it
        process: String,
    },
    /// Print what a process wrote
    Logs {
        /// The process, as `fleet status` names it
        process: String,
        /// Go on printing
        #[arg(short, long)]
        follow: bool,
    },
    /// Apply manifests to a cluster: all of them or none; wait until its proxies have them
    Apply(Apply),
    /// Delete what manifests name from a cluster
    Delete(Manifests),
    /// Run a command as if it were in a workload: in its namespaces, or with proxy variables that lead to its sidecar
    Exec {
        /// `<cluster>/<workload>` or `<cluster>/<pod>`; on the ground netns also any other namespace, such as `node`
        workload: String,
        /// The command
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Call a service from a workload
    Call(Call),
    /// Forward a local port to a workload's view of a service
    Forward {
        /// `<cluster>/<workload>` or `<cluster>/<pod>`
        workload: String,
        /// `<service>.<namespace>:<port>`
        target: String,
        /// Where to listen
        #[arg(long, default_value = "127.0.0.1:0")]
        local: SocketAddr,
    },
    /// Emulated links between clusters: what is set, what passed, and changes while they run
    #[command(subcommand)]
    Wan(WanCommand),
    /// The second half of `fleet up`, inside the management namespace
    #[command(hide = true)]
    Finish {
        /// Seconds that each step may take
        #[arg(long)]
        patience: u64,
    },
    /// What leads pods without a sidecar to what is behind the addresses of services, on the ground `netns`
    #[command(hide = true)]
    KubeProxy {
        /// The cluster
        cluster: String,
    },
    /// The echo server that workloads run by default
    #[command(hide = true)]
    Echo {
        /// `name=protocol:address`
        #[arg(long = "port", required = true)]
        ports: Vec<EchoPort>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum WanCommand {
    /// What is set on a link, and its counters
    Show {
        /// The cluster at one end, or `hub` [default: all links]
        #[arg(requires = "right")]
        left: Option<String>,
        /// The cluster at the other end
        right: Option<String>,
    },
    /// Change a link: `delay=40ms loss=1%` for both directions, `east-to-west rate=20mbit` for one; `<condition>=off` puts it back
    Set {
        /// The cluster at one end, or `hub`
        left: String,
        /// The cluster at the other end
        right: String,
        /// Conditions, as `isthmus-wan set --help` lists them
        #[arg(required = true)]
        words: Vec<String>,
    },
    /// Let translated flows leave with another port or address
    Rebind {
        /// The cluster at one end, or `hub`
        left: String,
        /// The cluster at the other end
        right: String,
        /// `port` or `address`
        what: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// The fleet file
    #[arg(short, long)]
    pub(crate) file: PathBuf,
    /// What the fleet stands on
    ///
    /// [default: the one that the file names, else loopback]
    #[arg(long, value_enum)]
    pub(crate) ground: Option<Ground>,
    /// The fleet's directory: new or empty [default: one named after the fleet, under the temporary directory]
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// Leave everything in place if it does not come up
    #[arg(long)]
    pub(crate) keep_on_failure: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Ground {
    /// Loopback addresses and explicit proxies; no privileges, and no boundary between local users
    Loopback,
    /// A network namespace per pod, gateway, agent, hub node and DNS shim; needs root, or user namespaces
    Netns,
}

impl From<Ground> for fleet::Ground {
    fn from(ground: Ground) -> Self {
        match ground {
            Ground::Loopback => Self::Loopback,
            Ground::Netns => Self::Netns,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Manifests {
    /// The cluster
    pub(crate) cluster: String,
    /// A file of YAML documents; `-` is standard input
    #[arg(short, long, required = true)]
    pub(crate) file: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    pub(crate) manifests: Manifests,
    /// Apply nothing if analysis finds an error
    #[arg(long)]
    pub(crate) strict: bool,
    /// Do not wait until the agent and its proxies have taken it
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Call {
    /// `<cluster>/<workload>` or `<cluster>/<pod>`
    pub(crate) workload: String,
    /// What to call
    pub(crate) url: String,
    /// HTTP method
    #[arg(short = 'X', long = "request")]
    pub(crate) method: Option<String>,
    /// Request header `name: value`
    #[arg(short = 'H', long = "header")]
    pub(crate) headers: Vec<String>,
    /// Request body; `@file` reads one
    #[arg(short, long)]
    pub(crate) data: Option<String>,
    /// http1, h2, grpc or tcp
    #[arg(long, default_value = "http1")]
    pub(crate) protocol: Speak,
    /// Print status and headers too
    #[arg(short, long)]
    pub(crate) include: bool,
    /// Seconds that the call may take
    #[arg(long, default_value_t = 30)]
    pub(crate) timeout: u64,
}
