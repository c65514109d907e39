//! What pods without a sidecar reach at the addresses of a service: what kube-proxy does for them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use crate::model::Service;

/// One address and TCP port of a service, and what is behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VirtualPort {
    /// The address that clients dial.
    pub address: IpAddr,
    /// The port that clients dial.
    pub port: u16,
    /// Where connections go, of the address's IP family. Empty: they are refused.
    pub backends: BTreeSet<SocketAddr>,
}

/// The virtual ports of a service. `gateways` are the addresses of the own cluster's east-west gateways.
///
/// * The cluster address leads to the ready pods of the own cluster. If there are none and the service is global, to the
///   gateways' listeners.
/// * The clusterset address leads to the gateways' listeners, which prefer the own cluster as policy says. Without a listener —
///   nobody else exports the service, or policy does not let unmeshed clients out — it leads to the own cluster's ready pods.
///
/// A headless service has none: its clients dial pods.
pub fn virtual_ports(service: &Service, gateways: &BTreeSet<IpAddr>) -> Vec<VirtualPort> {
    if service.headless {
        return Vec::new();
    }
    let own = |port: u16| -> BTreeSet<SocketAddr> {
        let ready = service.endpoints.iter().filter(|endpoint| endpoint.ready);
        let led = ready.filter_map(|endpoint| Some((endpoint, *endpoint.ports.get(&port)?)));
        led.flat_map(|(endpoint, port)| endpoint.addresses().map(move |ip| SocketAddr::new(ip, port))).collect()
    };
    let listeners = |port: u16| -> BTreeSet<SocketAddr> {
        let listener = service.listeners.get(&port);
        listener.into_iter().flat_map(|port| gateways.iter().map(|ip| SocketAddr::new(*ip, *port))).collect()
    };
    let first = |one: BTreeSet<SocketAddr>, other: BTreeSet<SocketAddr>| if one.is_empty() { other } else { one };
    let mut found = Vec::new();
    let tcp = service.ports.iter().filter(|port| !port.protocol.is_udp());
    for port in tcp.map(|port| port.number) {
        let elsewhere = if service.global { listeners(port) } else { BTreeSet::new() };
        let cluster = first(own(port), elsewhere);
        let clusterset = first(listeners(port), own(port));
        let at = |backends: BTreeSet<SocketAddr>| {
            move |address: &IpAddr| {
                let family = backends.iter().filter(|backend| backend.is_ipv4() == address.is_ipv4());
                VirtualPort { address: *address, port, backends: family.copied().collect() }
            }
        };
        found.extend(service.cluster_addresses.iter().map(at(cluster)));
        found.extend(service.clusterset_addresses.iter().map(at(clusterset)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Mesh, service};

    /// What is behind port 9080 of the cluster address and of the clusterset address.
    fn check(mesh: Mesh, edit: impl FnOnce(&mut Service), expect: [&[&str]; 2]) {
        let view = mesh.view();
        let mut service = view.services[&service("reviews")].as_ref().clone();
        service.cluster_addresses = vec!["10.96.0.1".parse().unwrap()];
        service.clusterset_addresses = vec!["240.0.0.1".parse().unwrap()];
        edit(&mut service);
        let gateways = BTreeSet::from(["10.0.0.2".parse().unwrap(), "10.0.0.3".parse().unwrap()]);
        let ports = virtual_ports(&service, &gateways);
        let behind: Vec<Vec<String>> =
            ports.iter().map(|port| port.backends.iter().map(ToString::to_string).collect()).collect();
        assert_eq!(behind, expect);
    }

    const LISTENERS: &[&str] = &["10.0.0.2:20000", "10.0.0.3:20000"];

    fn listening(service: &mut Service) {
        service.listeners.insert(9080, 20_000);
    }

    #[test]
    fn pods_of_the_own_cluster_are_behind_both_addresses_where_nobody_else_exports_it() {
        let view = Mesh::east().local("reviews", 2).view();
        let pods = view.services[&service("reviews")].endpoints.iter();
        let pods: BTreeSet<String> = pods.map(|pod| format!("{}:{}", pod.address, pod.ports[&9080])).collect();
        let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
        check(Mesh::east().local("reviews", 2), |_| (), [&pods, &pods]);
        check(Mesh::east().local("reviews", 2).import("reviews", "west", 1), |_| (), [&pods, &pods]);
        check(Mesh::east().local("reviews", 2).import("reviews", "west", 1), listening, [&pods, LISTENERS]);
    }

    #[test]
    fn gateways_are_behind_the_cluster_address_of_a_global_service_without_a_ready_pod() {
        let both = || Mesh::east().local("reviews", 2).not_ready("reviews").import("reviews", "west", 1);
        check(both(), listening, [&[], LISTENERS]);
        let global = |service: &mut Service| {
            service.global = true;
            listening(service);
        };
        check(both(), global, [LISTENERS, LISTENERS]);
        check(both(), |service| service.global = true, [&[], &[]]);
    }

    #[test]
    fn each_ip_family_leads_to_its_own() {
        let pod = "fd00::21".parse().unwrap();
        let both = |service: &mut Service| {
            service.endpoints[0].add_address(pod);
            service.cluster_addresses = vec!["fd00:1::1".parse().unwrap()];
            service.clusterset_addresses = vec!["fd00:2::1".parse().unwrap()];
        };
        check(Mesh::east().local("reviews", 2), both, [&["[fd00::21]:9080"], &["[fd00::21]:9080"]]);
        let listening = |service: &mut Service| {
            both(service);
            listening(service);
        };
        check(Mesh::east().local("reviews", 2).import("reviews", "west", 1), listening, [&["[fd00::21]:9080"], &[]]);
    }

    #[test]
    fn clients_of_a_headless_service_dial_its_pods() {
        let view = Mesh::east().local("reviews", 1).view();
        let mut service = view.services[&service("reviews")].as_ref().clone();
        (service.headless, service.cluster_addresses) = (true, vec!["10.96.0.1".parse().unwrap()]);
        assert_eq!(virtual_ports(&service, &BTreeSet::new()), []);
    }
}
