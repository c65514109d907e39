//! The scripts that make namespaces and their links, and the files that pods see.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::path::Path;

use crate::network::{
    NODE_ADDRESS, Namespace, Place, cluster_of, emulated, fabric_address, fabric_name, ipv6, network_of, networks,
    node_ipv6, pod_of, rules,
};
use crate::plan::{Plan, PodPlan};

/// The script that runs as the first process of a namespace and then holds it as `sleep infinity`. `$1` is the process of its
/// parent; `directory` has the namespace's `resolv.conf` and `hosts`.
pub fn setup(plan: &Plan, namespace: &Namespace, directory: &Path) -> String {
    // Addresses are the plan's, so nobody needs to probe for duplicates of them.
    let mut script = String::from(
        "set -e\ncd /proc/sys/net\necho 0 > ipv6/conf/all/accept_dad\necho 0 > ipv6/conf/default/accept_dad\n\
         echo 0 > ipv4/ip_unprivileged_port_start\n",
    );
    let mut batch = String::from("link set lo up\n");
    let mut ruleset = String::new();
    match namespace.place {
        Place::Node => {}
        Place::Fabric(k) => {
            script.push_str("echo 1 > ipv4/ip_forward\necho 1 > ipv6/conf/all/forwarding\n");
            batch.push_str(&fabric(plan, k));
            ruleset = rules::fabric(plan, k);
        }
        Place::Member(address) => {
            script.push_str(&mounts(directory));
            batch.push_str(&member(plan, address));
            // Of pods without a sidecar `crate::kube_proxy` takes care.
            if pod_of(plan, address).is_some_and(|pod| pod.mesh) {
                ruleset = rules::pod();
            }
        }
    }
    let _ = writeln!(script, "ip -batch - <<END\n{batch}END");
    if !ruleset.is_empty() {
        let _ = writeln!(script, "nft -f - <<END\n{ruleset}END");
    }
    script.push_str("cd /\nexec sleep infinity\n");
    script
}

fn mounts(directory: &Path) -> String {
    let mount = |file: &str| format!("mount --bind {} /etc/{file}\n", quoted(&directory.join(file)));
    mount("resolv.conf") + &mount("hosts")
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

fn fabric(plan: &Plan, k: u8) -> String {
    let address = fabric_address(plan, k);
    let address6 = ipv6(address);
    format!(
        "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
         addr add {address}/24 dev br0\naddr add {address6}/64 dev br0 nodad\nlink set br0 up\n\
         link add mgmt type veth peer name m{k} netns $1\n\
         addr add {address} peer {NODE_ADDRESS} dev mgmt\naddr add {address6}/128 dev mgmt nodad\n\
         link set mgmt up\nroute add {node}/128 dev mgmt\n",
        node = node_ipv6(),
    )
}

fn member(plan: &Plan, address: Ipv4Addr) -> String {
    let router = fabric_address(plan, network_of(address));
    format!(
        "link add eth0 type veth peer name {port} netns $1\n\
         addr add {address}/24 dev eth0\naddr add {address6}/64 dev eth0 nodad\nlink set eth0 up\n\
         route add default via {router}\nroute add default via {router6}\n",
        port = bridge_port(address),
        address6 = ipv6(address),
        router6 = ipv6(router),
    )
}

fn bridge_port(address: Ipv4Addr) -> String {
    format!("p{}", address.octets()[3])
}

/// The links from one fabric to those before it, for `ip -batch`; empty for anything else. `process` gives the process that
/// holds a namespace.
pub fn link(
    plan: &Plan,
    namespace: &Namespace,
    process: &dyn Fn(&str) -> anyhow::Result<i32>,
) -> anyhow::Result<String> {
    let Place::Fabric(k) = namespace.place else { return Ok(String::new()) };
    let mut batch = String::new();
    for other in (0..k).filter(|other| emulated(plan, k, *other).is_none()) {
        let far = process(&fabric_name(plan, other))?;
        let _ = writeln!(batch, "link add wan{other} type veth peer name wan{k} netns {far}");
    }
    Ok(batch)
}

/// What connects a fabric or the management namespace once all namespaces and links are there, for `ip -batch`; empty for
/// members. May be repeated.
pub fn connect(plan: &Plan, namespace: &Namespace, all: &[Namespace]) -> String {
    match namespace.place {
        Place::Node => connect_node(plan),
        Place::Fabric(k) => connect_fabric(plan, k, all),
        Place::Member(_) => String::new(),
    }
}

/// What takes the link of a member out of its fabric, for `ip -batch`; fails if it is not there.
pub fn disconnect(namespace: &Namespace) -> String {
    let Place::Member(address) = namespace.place else { return String::new() };
    format!("link del {}\n", bridge_port(address))
}

fn connect_node(plan: &Plan) -> String {
    let mut batch = String::new();
    for k in networks(plan) {
        batch.push_str(&towards(plan, k, &format!("m{k}"), (NODE_ADDRESS, node_ipv6())));
    }
    batch
}

fn connect_fabric(plan: &Plan, k: u8, all: &[Namespace]) -> String {
    let mut batch = String::new();
    for namespace in all {
        if let Place::Member(address) = namespace.place
            && network_of(address) == k
        {
            let _ = writeln!(batch, "link set {} master br0 up", bridge_port(address));
        }
    }
    let own = fabric_address(plan, k);
    for other in networks(plan).filter(|other| *other != k && emulated(plan, k, *other).is_none()) {
        batch.push_str(&towards(plan, other, &format!("wan{other}"), (own, ipv6(own))));
    }
    batch
}

/// An unnumbered link: our address, theirs as the peer, and a route to their network.
fn towards(plan: &Plan, k: u8, device: &str, (own, own6): (Ipv4Addr, std::net::Ipv6Addr)) -> String {
    let far = fabric_address(plan, k);
    let far6 = ipv6(far);
    let [a, b, c, _] = far.octets();
    let network6 = ipv6(Ipv4Addr::new(a, b, c, 0));
    // The kernel forgets the route to an IPv6 peer when the link comes up.
    format!(
        "addr replace {own} peer {far} dev {device}\naddr replace {own6}/128 dev {device} nodad\n\
         link set {device} up\nroute replace {far6}/128 dev {device}\nroute replace {a}.{b}.{c}.0/24 via {far} dev {device}\n\
         route replace {network6}/64 via {far6} dev {device}\n"
    )
}

/// `/etc/resolv.conf` of a namespace: a pod's as on Kubernetes; other members ask their cluster's shim without a search list;
/// the shim itself and hub nodes have nobody to ask.
pub fn resolv_conf(plan: &Plan, address: Ipv4Addr) -> String {
    let Some(cluster) = cluster_of(plan, network_of(address)).filter(|cluster| cluster.dns != address) else {
        return String::new();
    };
    let mut text = format!("nameserver {}\n", cluster.dns);
    if let Some(PodPlan { namespace, .. }) = pod_of(plan, address) {
        let _ = writeln!(text, "search {namespace}.svc.cluster.local svc.cluster.local cluster.local");
        text.push_str("options ndots:5\n");
    }
    text
}

/// `/etc/hosts` of a namespace.
pub fn hosts(namespace: &Namespace, address: Ipv4Addr) -> String {
    let name = namespace.name.rsplit('/').next().unwrap_or_default();
    let address6 = ipv6(address);
    format!("127.0.0.1 localhost\n::1 localhost ip6-localhost\n{address} {name}\n{address6} {name}\n")
}
