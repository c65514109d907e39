//! The command line.

mod fleets;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::context::Context;

pub(crate) use fleets::*;

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
    /// A URL or `<host>:<port>`, as the workload or the gateway's client would name it; `udp://<host>:<port>` is a port of
    /// UDP. Only `<service>.<namespace>:<port>` without a scheme is short for `<service>.<namespace>.svc.clusterset.local`,
    /// the service of all clusters
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
