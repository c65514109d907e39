//! What may pass: the nftables rulesets of fabrics and pods.

use std::fmt::Write;
use std::net::Ipv4Addr;

use crate::network::{NODE_ADDRESS, cluster_of, hidden, networks, node_ipv6, number_of};
use crate::plan::{ClusterPlan, Plan, port};

/// The fabric of network `k` forwards nothing but QUIC (and its fallback on TCP) between gateways, agents' connections to
/// the hub, and what the management namespace starts. `nft list counters` in the fabric shows how much of each.
pub(super) fn fabric(plan: &Plan, k: u8) -> String {
    let mut rules = String::from("ct state established,related accept\niifname \"br0\" oifname \"br0\" accept\n");
    rules.push_str("iifname \"mgmt\" oifname \"br0\" accept\n");
    for other in networks(plan).filter(|other| *other != k) {
        let (from_here, from_there) = (flows(plan, k, other), flows(plan, other, k));
        for flow in from_here {
            let _ = writeln!(rules, "iifname \"br0\" oifname \"wan{other}\" {flow} counter name leaving accept");
        }
        for flow in from_there {
            let _ = writeln!(rules, "iifname \"wan{other}\" oifname \"br0\" {flow} counter name entering accept");
        }
    }
    rules.push_str("counter name refused drop\n");
    format!(
        "table inet fabric {{\ncounter leaving {{ }}\ncounter entering {{ }}\ncounter refused {{ }}\n\
         chain forward {{\ntype filter hook forward priority filter; policy drop;\n{rules}}}\n}}\n"
    )
}

/// What network `from` may begin towards network `to`.
fn flows(plan: &Plan, from: u8, to: u8) -> Vec<String> {
    match (cluster_of(plan, from), cluster_of(plan, to)) {
        (Some(from), Some(to)) => {
            // Where a network is hidden, its gateways are seen as the addresses that hide it.
            let hidden = hidden(plan, number_of(plan, from.name.as_str()), number_of(plan, to.name.as_str()));
            let sources = from.gateways.iter().map(|gateway| gateway.ip).chain(hidden);
            let pair = format!("ip saddr {} ip daddr {}", set(sources), gateways(to));
            vec![format!("{pair} udp dport {}", port::QUIC), format!("{pair} tcp dport {}", port::QUIC)]
        }
        (Some(from), None) => {
            let hub = set(plan.hub.iter().map(|node| node.ip));
            let hidden = hidden(plan, number_of(plan, from.name.as_str()), 0);
            let sources = set(std::iter::once(from.agent).chain(hidden));
            let (api, join) = (port::HUB_API, port::HUB_JOIN);
            vec![format!("ip saddr {sources} ip daddr {hub} tcp dport {{ {api}, {join} }}")]
        }
        (None, _) => Vec::new(),
    }
}

fn gateways(cluster: &ClusterPlan) -> String {
    set(cluster.gateways.iter().map(|gateway| gateway.ip))
}

fn set(addresses: impl Iterator<Item = Ipv4Addr>) -> String {
    let listed: Vec<_> = addresses.map(|address| address.to_string()).collect();
    format!("{{ {} }}", listed.join(", "))
}

/// A pod's explicit proxy speaks as its workload: only the workload itself and the management namespace may use it.
pub(super) fn pod() -> String {
    let (proxy, node, node6) = (port::EXPLICIT, NODE_ADDRESS, node_ipv6());
    format!(
        "table inet pod {{\nchain input {{\ntype filter hook input priority filter; policy accept;\n\
         iifname \"eth0\" tcp dport {proxy} ip saddr != {node} counter reject with tcp reset\n\
         iifname \"eth0\" tcp dport {proxy} ip6 saddr != {node6} counter reject with tcp reset\n}}\n}}\n"
    )
}
