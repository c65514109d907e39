//! The network of the ground `netns`, as it is planned.

#![expect(clippy::expect_used, reason = "a test that cannot go on says why and ends")]

use std::net::Ipv4Addr;
use std::path::Path;

use fleet::network::{self, Namespace};
use fleet::plan::Kind;
use fleet::{FleetFile, Plan};

const FILE: &str = "
name: demo
ground: netns
hub: {nodes: 1}
clusters:
  - name: east
    gateways: 2
    workloads:
      - {name: web, namespace: shop, ports: [{port: 80}]}
      - {name: job, mesh: false, command: [sleep, '1000']}
  - name: west
    ingress: [{}]
";

fn plan() -> Plan {
    Plan::new(&FleetFile::parse(FILE).expect("valid"), 42)
}

fn namespace(name: &str) -> Namespace {
    network::namespaces(&plan()).into_iter().find(|namespace| namespace.name == name).expect("planned")
}

#[test]
fn every_pod_and_component_has_a_namespace_after_its_parent() {
    let plan = plan();
    let all = network::namespaces(&plan);
    let rows: Vec<_> = all
        .iter()
        .map(|namespace| format!("{} < {}", namespace.name, namespace.parent(&plan).unwrap_or_default()))
        .collect();
    let expected = "node < |hub/fabric < node|east/fabric < node|west/fabric < node|hub-1 < hub/fabric|\
        east/agent < east/fabric|east/gateway-1 < east/fabric|east/gateway-2 < east/fabric|east/dns < east/fabric|\
        east/web-1 < east/fabric|east/job-1 < east/fabric|west/agent < west/fabric|west/gateway-1 < west/fabric|\
        west/istio-ingressgateway < west/fabric|west/dns < west/fabric";
    assert_eq!(rows.join("|"), expected);
    for process in plan.processes() {
        let inside = process.namespace.expect("every process has a namespace");
        assert!(all.iter().any(|namespace| namespace.name == inside), "{}: {inside}", process.name);
    }
}

#[test]
fn both_families_read_alike() {
    for (address, expected) in [
        (Ipv4Addr::new(10, 42, 1, 20), "fd69:42:1::20"),
        (Ipv4Addr::new(10, 239, 0, 254), "fd69:239::254"),
        (Ipv4Addr::new(10, 16, 200, 9), "fd69:16:200::9"),
    ] {
        assert_eq!(network::ipv6(address).to_string(), expected);
    }
}

#[test]
fn a_pod_has_an_address_of_each_family_a_way_out_and_a_proxy_of_its_own() {
    let script = network::setup(&plan(), &namespace("east/web-1"), Path::new("/it's/net"));
    for line in [
        r"mount --bind '/it'\''s/net/resolv.conf' /etc/resolv.conf",
        "link add eth0 type veth peer name p20 netns $1",
        "addr add 10.42.1.20/24 dev eth0",
        "addr add fd69:42:1::20/64 dev eth0 nodad",
        "route add default via 10.42.1.254",
        "route add default via fd69:42:1::254",
        "iifname \"eth0\" tcp dport 15002 ip saddr != 100.127.0.1 counter reject with tcp reset",
        "exec sleep infinity",
    ] {
        assert!(script.lines().any(|found| found == line), "{line}\n{script}");
    }
    let unmeshed = network::setup(&plan(), &namespace("east/job-1"), Path::new("/net"));
    assert!(!unmeshed.contains("15002"), "{unmeshed}");
    let plan = plan();
    let processes = plan.processes();
    let found: Vec<_> = processes.iter().filter(|process| process.kind == Kind::KubeProxy).collect();
    let [kube_proxy] = found[..] else { panic!("one for each cluster that has such pods: {found:?}") };
    assert_eq!((kube_proxy.name.as_str(), kube_proxy.namespace.as_deref()), ("east/kube-proxy", Some("node")));
}

#[test]
fn only_gateways_and_agents_cross_between_networks() {
    let ruleset = |name| network::setup(&plan(), &namespace(name), Path::new("/net"));
    let accepted = |text: &str| {
        let between = text.lines().filter(|line| line.contains("wan") && line.contains("accept"));
        between.map(str::to_owned).collect::<Vec<_>>().join("\n")
    };
    let east = ruleset("east/fabric");
    assert!(east.contains("hook forward priority filter; policy drop;"), "{east}");
    let expected = "\
iifname \"br0\" oifname \"wan0\" ip saddr { 10.42.1.1 } ip daddr { 10.42.0.1 } tcp dport { 7443, 7444 } counter name leaving accept
iifname \"br0\" oifname \"wan2\" ip saddr { 10.42.1.2, 10.42.1.3 } ip daddr { 10.42.2.2 } udp dport 15443 counter name leaving accept
iifname \"br0\" oifname \"wan2\" ip saddr { 10.42.1.2, 10.42.1.3 } ip daddr { 10.42.2.2 } tcp dport 15443 counter name leaving accept
iifname \"wan2\" oifname \"br0\" ip saddr { 10.42.2.2 } ip daddr { 10.42.1.2, 10.42.1.3 } udp dport 15443 counter name entering accept
iifname \"wan2\" oifname \"br0\" ip saddr { 10.42.2.2 } ip daddr { 10.42.1.2, 10.42.1.3 } tcp dport 15443 counter name entering accept";
    assert_eq!(accepted(&east), expected);
    let expected = "\
iifname \"wan1\" oifname \"br0\" ip saddr { 10.42.1.1 } ip daddr { 10.42.0.1 } tcp dport { 7443, 7444 } counter name entering accept
iifname \"wan2\" oifname \"br0\" ip saddr { 10.42.2.1 } ip daddr { 10.42.0.1 } tcp dport { 7443, 7444 } counter name entering accept";
    assert_eq!(accepted(&ruleset("hub/fabric")), expected);
    assert!(!ruleset("node").contains("ip_forward"), "the management namespace leads nowhere");
}

#[test]
fn fabrics_are_joined_in_pairs_and_every_member_is_on_a_bridge() {
    let (plan, all) = (plan(), network::namespaces(&plan()));
    let west = namespace("west/fabric");
    let holder = |name: &str| Ok(if name == "hub/fabric" { 7 } else { 8 });
    let links = network::link(&plan, &west, &holder).expect("linked");
    let expected = "link add wan0 type veth peer name wan2 netns 7\nlink add wan1 type veth peer name wan2 netns 8\n";
    assert_eq!(links, expected);
    let connected = network::connect(&plan, &west, &all);
    for line in [
        "link set p1 master br0 up",
        "link set p10 master br0 up",
        "addr replace 10.42.2.254 peer 10.42.1.254 dev wan1",
        "route replace 10.42.1.0/24 via 10.42.1.254 dev wan1",
        "route replace fd69:42:1::/64 via fd69:42:1::254 dev wan1",
    ] {
        assert!(connected.lines().any(|found| found == line), "{line}\n{connected}");
    }
    let node = network::connect(&plan, &namespace("node"), &all);
    assert!(node.contains("route replace 10.42.2.0/24 via 10.42.2.254 dev m2\n"), "{node}");
}

#[test]
fn resolvers_are_those_of_the_cluster() {
    let plan = plan();
    let web = "nameserver 10.42.1.9\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n";
    for (address, expected) in [
        ([10, 42, 1, 20], web),
        ([10, 42, 2, 10], "nameserver 10.42.2.9\n"),
        ([10, 42, 1, 9], ""),
        ([10, 42, 0, 1], ""),
    ] {
        assert_eq!(network::resolv_conf(&plan, Ipv4Addr::from(address)), expected, "{address:?}");
    }
    let hosts = network::hosts(&namespace("east/web-1"), Ipv4Addr::new(10, 42, 1, 20));
    assert!(hosts.ends_with("10.42.1.20 web-1\nfd69:42:1::20 web-1\n"), "{hosts}");
}
