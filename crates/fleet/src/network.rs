//! The network of a fleet on the ground `netns`: which namespaces there are, how they are wired, what may pass. Pure.
//!
//! ```text
//!   node ──m0── hub/fabric ──br0── hub-1 hub-2 …         node: where hubctl and the tests stand; forwards nothing
//!     ├──m1── east/fabric ──br0── east/agent east/gateway-1 east/dns east/web-1 …
//!     └──m2── west/fabric ──br0── …
//!           fabric ══wan<k>══ fabric                      every pair; only what `rules::fabric` names may pass
//! ```
//!
//! Every network is `10.<block>.<k>.0/24` and `fd69:<block>:<k>::/64`, the hub's with k = 0; the fabric is `.254`. Links
//! between fabrics are unnumbered: both ends use the address of their bridge.

mod rules;
mod script;

use std::net::{Ipv4Addr, Ipv6Addr};

use wan::{Side, WanSpec};

use crate::file::HUB;
use crate::plan::{ClusterPlan, Plan, PodPlan};

pub use script::{connect, disconnect, hosts, link, resolv_conf, setup};

/// The namespace in which `hubctl` and the tests stand.
pub const NODE: &str = "node";
/// Its only IPv4 address: pods let it, and nobody else, use their explicit proxy.
pub const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(100, 127, 0, 1);
/// The last octet of every fabric.
const FABRIC: u8 = 254;

/// One namespace of a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// `node`, `hub/fabric`, `hub-1`, `east/fabric`, `east/agent`, `east/web-1`, …
    pub name: String,
    /// Where it is in the network.
    pub place: Place,
}

/// Where a namespace is in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The management namespace.
    Node,
    /// The router of a network.
    Fabric(u8),
    /// Behind the bridge of its network.
    Member(Ipv4Addr),
}

impl Namespace {
    /// The namespace at the other end of the link that its setup makes.
    pub fn parent(&self, plan: &Plan) -> Option<String> {
        match self.place {
            Place::Node => None,
            Place::Fabric(_) => Some(NODE.to_owned()),
            Place::Member(address) => Some(fabric_name(plan, network_of(address))),
        }
    }

    /// The process that holds it, a pod's pause container so to speak.
    pub fn pause(&self) -> String {
        pause(&self.name)
    }
}

/// The name of the process that holds a namespace.
pub fn pause(namespace: &str) -> String {
    format!("{namespace}/pause")
}

/// Every namespace, each after its parent.
pub fn namespaces(plan: &Plan) -> Vec<Namespace> {
    let member = |name: String, address| Namespace { name, place: Place::Member(address) };
    let mut all = vec![Namespace { name: NODE.to_owned(), place: Place::Node }];
    all.extend(networks(plan).map(|k| Namespace { name: fabric_name(plan, k), place: Place::Fabric(k) }));
    all.extend(plan.hub.iter().map(|node| member(format!("hub-{}", node.id), node.ip)));
    for cluster in &plan.clusters {
        let inside = |name: &str| format!("{}/{name}", cluster.name);
        all.push(member(inside("agent"), cluster.agent));
        all.extend(cluster.gateways.iter().map(|gateway| member(inside(&gateway.name), gateway.ip)));
        all.extend(cluster.edges.iter().map(|edge| member(inside(&edge.name), edge.ip)));
        all.push(member(inside("dns"), cluster.dns));
        all.extend(cluster.pods.iter().map(|pod| member(inside(&pod.name), pod.ip)));
    }
    all
}

/// The namespace of a process.
pub fn namespace_of(process: &str) -> &str {
    ["/sidecar", "/app", "/pause"].iter().find_map(|end| process.strip_suffix(end)).unwrap_or(process)
}

/// The IPv6 address that stands beside an IPv4 address, readable digit by digit: `10.42.1.20` and `fd69:42:1::20`.
pub fn ipv6(address: Ipv4Addr) -> Ipv6Addr {
    let [_, block, k, last] = address.octets();
    let digits = |number: u8| u16::from(number / 100) << 8 | u16::from(number / 10 % 10) << 4 | u16::from(number % 10);
    Ipv6Addr::new(0xfd69, digits(block), digits(k), 0, 0, 0, 0, digits(last))
}

/// The same for [`NODE_ADDRESS`], outside of all networks.
pub fn node_ipv6() -> Ipv6Addr {
    Ipv6Addr::new(0xfd69, 0xffff, 0, 0, 0, 0, 0, 1)
}

/// The process of an emulated link.
pub fn wan_name(link: &WanSpec) -> String {
    let [left, right] = &link.between;
    format!("wan/{left}-{right}")
}

/// The fabric of a cluster, or of the hub.
pub fn fabric_of(name: &str) -> String {
    format!("{name}/fabric")
}

/// What `isthmus-wan run` is told about one end: device, addresses and routes as [`connect`] gives them to plain links.
pub fn wan_end(plan: &Plan, side: &str, near: &str, far: &str) -> Vec<String> {
    let (near, far) = (number_of(plan, near), number_of(plan, far));
    let address = fabric_address(plan, near);
    let network = Ipv4Addr::new(10, plan.block, far, 0);
    let mut words = vec![format!("--{side}-device"), format!("wan{far}")];
    for address in [format!("{address}/32"), format!("{}/128", ipv6(address))] {
        words.extend([format!("--{side}-address"), address]);
    }
    let mut routes = vec![format!("{network}/24"), format!("{}/64", ipv6(network))];
    routes.extend(hidden(plan, far, near).iter().map(|address| format!("{address}/32")));
    for route in routes {
        words.extend([format!("--{side}-route"), route]);
    }
    words
}

/// The addresses behind which network `k` is hidden from network `from`.
fn hidden(plan: &Plan, k: u8, from: u8) -> Vec<Ipv4Addr> {
    let nat = emulated(plan, k, from).and_then(|link| Some((link, link.link.nat.as_ref()?)));
    let hides = nat.filter(|(link, nat)| number_of(plan, &link.between[usize::from(nat.side == Side::Right)]) == k);
    hides.map(|(_, nat)| nat.addresses.clone()).unwrap_or_default()
}

/// The number of a network; 0 for `hub`.
fn number_of(plan: &Plan, name: &str) -> u8 {
    let position = plan.clusters.iter().position(|cluster| cluster.name.as_str() == name);
    position.and_then(|position| u8::try_from(position + 1).ok()).unwrap_or(0)
}

/// The emulated link between two networks, if it is not a plain one.
fn emulated(plan: &Plan, one: u8, other: u8) -> Option<&WanSpec> {
    plan.wan.iter().find(|link| {
        let ends = link.between.each_ref().map(|name| number_of(plan, name));
        ends == [one, other] || ends == [other, one]
    })
}

/// The numbers of all networks: the hub's, then one per cluster.
fn networks(plan: &Plan) -> impl Iterator<Item = u8> {
    0..=u8::try_from(plan.clusters.len()).unwrap_or(u8::MAX)
}

fn network_of(address: Ipv4Addr) -> u8 {
    address.octets()[2]
}

fn fabric_name(plan: &Plan, k: u8) -> String {
    match cluster_of(plan, k) {
        Some(cluster) => fabric_of(cluster.name.as_str()),
        None => fabric_of(HUB),
    }
}

fn cluster_of(plan: &Plan, k: u8) -> Option<&ClusterPlan> {
    plan.clusters.get(usize::from(k).checked_sub(1)?)
}

pub(crate) fn fabric_address(plan: &Plan, k: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, plan.block, k, FABRIC)
}

fn pod_of(plan: &Plan, address: Ipv4Addr) -> Option<&PodPlan> {
    cluster_of(plan, network_of(address))?.pods.iter().find(|pod| pod.ip == address)
}
