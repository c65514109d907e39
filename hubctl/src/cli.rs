//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use fleet::call::Speak;
use fleet::echo::EchoPort;

use crate::context::Context;

/// Operates an Isthmus mesh, and plays with one on this machine.
#[derive(Debug, Parser)]
#[command(name = "hubctl", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub(crate) context: Context,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show everything once: two clusters, traffic between them, failures under load
    Demo(Demo),
    /// A whole mesh as processes on this machine
    #[command(subcommand)]
    Fleet(FleetCommand),
    /// The hub itself
    #[command(subcommand)]
    Hub(HubCommand),
    /// Join tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Make a cluster a member, with the line that `token create` printed
    JoinCluster(JoinCluster),
    /// Member clusters and their leases
    Clusters,
    /// One cluster's membership
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Let a cluster's share as a destination fall to zero, without a failed request; its own requests go on
    Drain(Drain),
    /// End a drain: the cluster gets its share again, at once
    Undrain(Undrain),
    /// Every proxy: whether it is connected to its agent, and whether it runs the newest configuration
    ProxyStatus(ProxyStatus),
    /// Services of the mesh: addresses, ports, who exports them
    Services,
    /// Exports, cluster by cluster
    Exports,
    /// East-west gateways, cluster by cluster
    Gateways {
        /// Ports of the gateways at which clients without a sidecar reach services of other clusters; of a fleet
        #[arg(long)]
        listeners: bool,
    },
    /// Send real probes over every hop, from both ends, and name the one that fails
    Check,
    /// Find what is wrong with configuration as a whole: in files, or in the clusters of a fleet with files on top
    Analyze(Analyze),
    /// Tell where a request would go and whether it would be let in, and why
    Explain(Explain),
    /// Routes that a proxy runs: hosts, rules, destinations
    Routes(Proxy),
    /// What a proxy asks of clients: mTLS, tokens, authorization, limits; and what its workload may reach
    Policies(Proxy),
    /// Endpoints that a proxy knows, with load and ejection
    Endpoints(Proxy),
    /// Print the completion script of a shell: `source <(hubctl completions bash)`
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Leave the mesh: exports first, so that nobody uses them any more, then everything else; the name is free afterwards
    Leave(Leave),
}

#[derive(Debug, Args)]
pub(crate) struct Leave {
    /// The cluster's name
    pub(crate) name: String,
    /// Also if services are gone with it
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) speaker: Speaker,
}

/// Who speaks.
#[derive(Debug, Args)]
pub(crate) struct Speaker {
    /// Speak as the cluster itself, with what its agent has in this data directory, and not as an operator
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// The cluster's name
    pub(crate) name: String,
    /// The time in which its share falls to zero, such as 60s or 5m
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    pub(crate) over: u64,
    #[command(flatten)]
    pub(crate) speaker: Speaker,
}

#[derive(Debug, Args)]
pub(crate) struct Undrain {
    /// The cluster's name
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) speaker: Speaker,
}

#[derive(Debug, Args)]
pub(crate) struct ProxyStatus {
    /// Only those of this cluster
    pub(crate) cluster: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Leave the fleet running
    #[arg(long)]
    pub(crate) keep: bool,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Requests per second while things fail
    #[arg(long, default_value_t = 200)]
    pub(crate) rate: u32,
    /// Stop after the first cross-cluster answers
    #[arg(long)]
    pub(crate) no_failures: bool,
    /// What the fleet stands on
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) ground: DemoGround,
    /// What was measured so far, for the half that runs inside the fleet's network
    #[arg(long, hide = true)]
    pub(crate) inside: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DemoGround {
    /// The best one that this machine allows
    Auto,
    /// Loopback addresses and explicit proxies
    Loopback,
    /// Network namespaces and transparent capture
    Netns,
}

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

#[derive(Debug, Subcommand)]
pub(crate) enum HubCommand {
    /// Make the files of a new hub: its root, certificates of its nodes, the first operator's credential
    Init {
        /// The mesh
        #[arg(long)]
        mesh_id: String,
        /// Where the files go
        #[arg(long)]
        dir: PathBuf,
        /// `<id>=<api host:port>,<join host:port>`
        #[arg(long = "member", required = true)]
        members: Vec<String>,
    },
    /// Every node: role, revision, and whether its state equals the others'
    Status,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a single-use token and print the line that joins the cluster
    Create {
        /// The cluster's name
        #[arg(long)]
        cluster: String,
        /// Its trust domain [default: `<cluster>.<mesh>`]
        #[arg(long)]
        trust_domain: Option<String>,
        /// How long it can be used, such as 15m
        #[arg(long, default_value = "15m", value_parser = parse_duration)]
        ttl: u64,
    },
    /// All tokens, without their secrets
    List,
    /// Make a token unusable
    Revoke {
        /// Its id, as `token list` shows it
        id: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct JoinCluster {
    /// The cluster's name, as in the token
    pub(crate) name: String,
    /// Join listeners of the hub
    #[arg(long, value_delimiter = ',', required = true)]
    pub(crate) hub: Vec<String>,
    /// The token
    #[arg(long)]
    pub(crate) token: String,
    /// The hash of the hub's root, `sha256:…`
    #[arg(long)]
    pub(crate) ca_hash: String,
    /// The trust domain, if the token is for another than `<cluster>.<mesh>`
    #[arg(long)]
    pub(crate) trust_domain: Option<String>,
    /// The agent's data directory
    #[arg(long)]
    pub(crate) data: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Analyze {
    /// Files of YAML documents; `-` is standard input
    pub(crate) files: Vec<PathBuf>,
    /// The cluster of the fleet that the files are for
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    /// Every cluster of the fleet, and what does not fit between them
    #[arg(long, conflicts_with = "cluster")]
    pub(crate) all_clusters: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Proxy {
    /// `<cluster>/<workload>`, `<cluster>/<pod>` or `<cluster>/<gateway>`
    pub(crate) workload: String,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// `<cluster>/<workload>`, `<cluster>/<pod>` or `<cluster>/<ingress or egress gateway>`
    #[arg(long, required_unless_present = "name")]
    pub(crate) from: Option<String>,
    /// A URL or `<host>:<port>`, as the workload or the gateway's client would name it; `<service>.<namespace>:<port>` means
    /// the service in all clusters, and `udp://<host>:<port>` a port of UDP
    #[arg(long, required_unless_present = "name")]
    pub(crate) to: Option<String>,
    /// A name in DNS: what the shim of the cluster answers, of every cluster without `--from`
    #[arg(long, value_name = "NAME", conflicts_with_all = ["to", "method", "path", "headers", "sni"])]
    pub(crate) name: Option<String>,
    /// The type of record to ask for: A, AAAA, SRV, TXT, CNAME, PTR, SOA or ANY
    #[arg(long = "type", value_name = "TYPE", default_value = "A", requires = "name")]
    pub(crate) kind: String,
    /// HTTP method
    #[arg(short = 'X', long = "request", value_name = "METHOD")]
    pub(crate) method: Option<String>,
    /// Path with its query
    #[arg(long)]
    pub(crate) path: Option<String>,
    /// Request header `name: value`
    #[arg(short = 'H', long = "header")]
    pub(crate) headers: Vec<String>,
    /// The name in the ClientHello: a connection that speaks TLS, which the proxy does not read
    #[arg(long, value_name = "NAME", conflicts_with_all = ["method", "path", "headers"])]
    pub(crate) sni: Option<String>,
}

/// Seconds of `90s`, `15m`, `2h` or a bare number of seconds.
fn parse_duration(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("write a number with s, m or h, such as 15m".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "write a number with s, m or h, such as 15m".to_owned())?;
    match number.checked_mul(factor) {
        Some(0) => Err("nothing can be done in no time; write for example 15m".to_owned()),
        Some(seconds) => Ok(seconds),
        None => Err("that is too long".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_read_as_people_write_them() {
        for (text, seconds) in [("15m", Ok(900)), ("90s", Ok(90)), ("90", Ok(90)), ("2h", Ok(7200))] {
            assert_eq!(parse_duration(text), seconds);
        }
        for refused in ["1d", "m", "0s", "0", "99999999999999999999s", "9999999999999999h"] {
            assert!(parse_duration(refused).is_err(), "{refused}");
        }
    }
}
