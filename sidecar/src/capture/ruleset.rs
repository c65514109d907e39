//! Options as an nftables ruleset, in the order of istio-iptables' chains.
//!
//! Connections of TCP are redirected, and the kernel remembers where they were going. It remembers that of no datagram, so
//! datagrams are left as they are: they are marked, led to the loopback interface by a rule of routing (see `apply`), and
//! handed to the sidecar there (TPROXY).

use std::collections::BTreeSet;
use std::fmt::{Display, Write as _};

use ipnet::IpNet;

use super::options::{Captured, Options};

/// The table that holds everything; nobody else's rules are touched.
pub const TABLE: &str = "inet isthmus";

/// The transaction that puts the ruleset in the place of the one before, if there is one.
pub fn ruleset(options: &Options) -> String {
    let mut text = removal();
    let nat = |hook: &str| format!("type nat hook {hook} priority {PRIORITY}");
    let mut chains = vec![
        chain("outbound", &nat("output"), &outbound(options)),
        chain("inbound", &nat("prerouting"), &inbound(options)),
    ];
    if options.udp {
        let mangle = |kind: &str, hook: &str| format!("type {kind} hook {hook} priority {UDP_PRIORITY}");
        chains.push(chain("outbound_udp", &mangle("route", "output"), &outbound_udp(options)));
        chains.push(chain("captured_udp", &mangle("filter", "prerouting"), &captured_udp(options)));
    }
    // Writing into a String cannot fail.
    let _ = write!(text, "table {TABLE} {{\n{}}}\n", chains.join("\n"));
    text
}

/// The transaction that leaves nothing, whether there was something or not.
pub fn removal() -> String {
    format!("table {TABLE}\ndelete table {TABLE}\n")
}

/// Where destination addresses are rewritten (`NF_IP_PRI_NAT_DST`; by number, for older nft knows no name at `output`).
const PRIORITY: i32 = -100;
/// Where packets are marked (`NF_IP_PRI_MANGLE`): the kernel knows their connections already.
const UDP_PRIORITY: i32 = -150;
/// The mark of datagrams on their way to the sidecar, and the number of their routing table.
pub const UDP_MARK: u32 = 1338;

fn chain(name: &str, hook: &str, rules: &[String]) -> String {
    let mut text = format!("\tchain {name} {{\n\t\t{hook}; policy accept;\n");
    for rule in rules {
        let _ = writeln!(text, "\t\t{rule}");
    }
    text + "\t}\n"
}

/// What the application sends.
fn outbound(options: &Options) -> Vec<String> {
    let mut rules = vec!["meta l4proto != tcp return".to_owned()];
    rules.extend(set("oifname", options.exclude_interfaces.iter().map(quoted), "return"));
    rules.extend(set("tcp dport", &options.exclude_outbound_ports, "return"));
    // The sidecar's own connections: capturing them would be a loop.
    rules.extend(options.mark.map(|mark| format!("meta mark {mark:#x} return")));
    rules.extend(set("meta skuid", &options.proxy_uids, "return"));
    rules.extend(set("meta skgid", &options.proxy_gids, "return"));
    let loopback = if includes_loopback(options) {
        "127.0.0.1"
    } else {
        // The application to itself, also by the pod's address; by its service's address it goes through the sidecar.
        rules.push("oifname \"lo\" return".to_owned());
        "127.0.0.0/8"
    };
    rules.extend([format!("ip daddr {loopback} return"), "ip6 daddr ::1 return".to_owned()]);
    rules.extend(networks(&options.exclude_outbound_ranges, "return"));
    let redirect = format!("redirect to :{}", options.outbound_port);
    rules.extend(set("tcp dport", &options.include_outbound_ports, &redirect));
    rules.extend(included(options, &redirect));
    rules
}

/// Datagrams that the application sends, but not its answers to others.
fn outbound_udp(options: &Options) -> Vec<String> {
    let mut rules = vec!["meta l4proto != udp return".to_owned(), "ct direction reply return".to_owned()];
    rules.extend(set("oifname", options.exclude_interfaces.iter().map(quoted), "return"));
    rules.extend(set("udp dport", &options.exclude_outbound_ports, "return"));
    rules.extend(options.mark.map(|mark| format!("meta mark {mark:#x} return")));
    rules.extend(set("meta skuid", &options.proxy_uids, "return"));
    rules.extend(set("meta skgid", &options.proxy_gids, "return"));
    rules.extend(["oifname \"lo\" return", "fib daddr type { broadcast, multicast } return"].map(str::to_owned));
    // Names must be answered before a sidecar is there, and by nobody else.
    rules.extend(options.resolver.map(|shim| {
        let family = if shim.is_ipv4() { "ip" } else { "ip6" };
        format!("{family} daddr {shim} udp dport 53 return")
    }));
    rules.extend(networks(&options.exclude_outbound_ranges, "return"));
    let captured = format!("meta mark set {UDP_MARK:#x}");
    rules.extend(set("udp dport", &options.include_outbound_ports, &captured));
    match &options.include_outbound_ranges {
        Captured::All => rules.push(captured),
        Captured::Only(ranges) => rules.extend(networks(ranges, &captured)),
    }
    rules
}

/// Marked datagrams when they come in by the loopback interface. Whoever sends to the listener itself is not heard: the
/// sidecar would send it on to itself.
fn captured_udp(options: &Options) -> Vec<String> {
    let port = options.outbound_port;
    vec![
        format!("iifname \"lo\" meta mark {UDP_MARK:#x} meta l4proto udp tproxy to :{port} accept"),
        format!("fib daddr type local udp dport {port} drop"),
    ]
}

/// What is sent to the application, and by virtual machines in the pod.
fn inbound(options: &Options) -> Vec<String> {
    let mut rules = vec!["meta l4proto != tcp return".to_owned(), "iifname \"lo\" return".to_owned()];
    rules.extend(set("iifname", options.exclude_interfaces.iter().map(quoted), "return"));
    rules.extend(of_virtual_machines(options));
    rules.extend(set("tcp dport", &options.own_ports, "return"));
    let redirect = format!("redirect to :{}", options.inbound_port);
    match &options.include_inbound_ports {
        Captured::All => {
            rules.extend(set("tcp dport", &options.exclude_inbound_ports, "return"));
            rules.push(to_all(&redirect));
        }
        Captured::Only(ports) => rules.extend(set("tcp dport", ports, &redirect)),
    }
    rules
}

/// What virtual machines send leaves the pod like what the application sends.
fn of_virtual_machines(options: &Options) -> Vec<String> {
    let from = set("iifname", options.virtual_interfaces.iter().map(quoted), "");
    let Some(from) = from.map(|from| from.trim_end().to_owned()) else { return Vec::new() };
    let redirect = format!("redirect to :{}", options.outbound_port);
    let excluded = networks(&options.exclude_outbound_ranges, "return");
    let ports = set("tcp dport", &options.exclude_outbound_ports, "return");
    let rules = excluded.into_iter().chain(ports).chain(included(options, &redirect));
    let ending = format!("{from} return");
    rules.map(|rule| format!("{from} {rule}")).chain([ending]).collect()
}

fn included(options: &Options, redirect: &str) -> Vec<String> {
    match &options.include_outbound_ranges {
        Captured::All => vec![to_all(redirect)],
        Captured::Only(ranges) => networks(ranges, redirect),
    }
}

fn includes_loopback(options: &Options) -> bool {
    matches!(&options.include_outbound_ranges, Captured::Only(ranges) if ranges.iter().any(|range| range.addr().is_loopback()))
}

/// A redirect wants to know the protocol.
fn to_all(redirect: &str) -> String {
    format!("meta l4proto tcp {redirect}")
}

/// One rule for each family that has networks. A network inside another one would be refused as an overlap.
fn networks(ranges: &[IpNet], verdict: &str) -> Vec<String> {
    let aggregated = IpNet::aggregate(&ranges.to_vec());
    let of = |family: &str, wanted: fn(&IpNet) -> bool| {
        let ranges: BTreeSet<String> =
            aggregated.iter().filter(|range| wanted(range)).map(ToString::to_string).collect();
        let protocol = if verdict.starts_with("redirect") { "meta l4proto tcp " } else { "" };
        set(&format!("{protocol}{family} daddr"), ranges, verdict)
    };
    let (four, six) =
        (of("ip", |range| matches!(range, IpNet::V4(_))), of("ip6", |range| matches!(range, IpNet::V6(_))));
    four.into_iter().chain(six).collect()
}

/// `key { a, b } verdict`; nothing for nothing.
fn set<T: Display>(key: &str, values: impl IntoIterator<Item = T>, verdict: &str) -> Option<String> {
    let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    (!values.is_empty()).then(|| format!("{key} {{ {} }} {verdict}", values.join(", ")))
}

fn quoted(name: impl Display) -> String {
    format!("\"{name}\"")
}

#[cfg(test)]
mod tests {
    use super::super::options::Setting;
    use super::*;

    fn options(settings: &[(Setting, &str)]) -> Options {
        let mut options = Options::new(15001, 15006);
        options.mark = Some(1337);
        options.own_ports = [15001, 15006, 15008, 15020, 15021].into();
        for (setting, value) in settings {
            options.set(*setting, "test", value).unwrap();
        }
        options
    }

    /// The rules of one chain, without the words that all have.
    fn rules(text: &str, chain: &str) -> Vec<String> {
        let of_chain = text.lines().skip_while(|line| line.trim() != format!("chain {chain} {{")).skip(2);
        of_chain.take_while(|line| line.trim() != "}").map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn the_default_ruleset_captures_all_but_the_sidecars_own() {
        let expected = "\
table inet isthmus
delete table inet isthmus
table inet isthmus {
	chain outbound {
		type nat hook output priority -100; policy accept;
		meta l4proto != tcp return
		meta mark 0x539 return
		oifname \"lo\" return
		ip daddr 127.0.0.0/8 return
		ip6 daddr ::1 return
		meta l4proto tcp redirect to :15001
	}

	chain inbound {
		type nat hook prerouting priority -100; policy accept;
		meta l4proto != tcp return
		iifname \"lo\" return
		tcp dport { 15001, 15006, 15008, 15020, 15021 } return
		meta l4proto tcp redirect to :15006
	}
}
";
        assert_eq!(ruleset(&options(&[])), expected);
    }

    #[test]
    fn datagrams_are_marked_and_handed_over_where_that_is_wanted() {
        let wanted = Options { udp: true, resolver: "10.1.0.53".parse().ok(), ..options(&[]) };
        let text = ruleset(&wanted);
        let expected = [
            "meta l4proto != udp return",
            "ct direction reply return",
            "meta mark 0x539 return",
            "oifname \"lo\" return",
            "fib daddr type { broadcast, multicast } return",
            "ip daddr 10.1.0.53 udp dport 53 return",
            "meta mark set 0x53a",
        ];
        assert_eq!(rules(&text, "outbound_udp"), expected);
        let handed_over = [
            "iifname \"lo\" meta mark 0x53a meta l4proto udp tproxy to :15001 accept",
            "fib daddr type local udp dport 15001 drop",
        ];
        assert_eq!(rules(&text, "captured_udp"), handed_over);
        let settings = [
            (Setting::ExcludeOutboundPorts, "123"),
            (Setting::ExcludeOutboundIpRanges, "10.0.0.0/8,fd00::/8"),
            (Setting::IncludeOutboundIpRanges, "10.96.0.0/16"),
            (Setting::IncludeOutboundPorts, "53"),
        ];
        let chosen = Options { udp: true, ..options(&settings) };
        let expected = [
            "udp dport { 123 } return",
            "ip daddr { 10.0.0.0/8 } return",
            "ip6 daddr { fd00::/8 } return",
            "udp dport { 53 } meta mark set 0x53a",
            "ip daddr { 10.96.0.0/16 } meta mark set 0x53a",
        ];
        let found = rules(&ruleset(&chosen), "outbound_udp");
        assert!(expected.iter().all(|rule| found.iter().any(|one| one == rule)), "{found:#?}");
        assert!(!found.contains(&"meta mark set 0x53a".to_owned()), "{found:#?}");
    }

    #[test]
    fn every_setting_is_a_rule_in_its_place() {
        use Setting::{
            ExcludeInboundPorts, ExcludeInterfaces, ExcludeOutboundIpRanges, ExcludeOutboundPorts, IncludeInboundPorts,
            IncludeOutboundIpRanges, IncludeOutboundPorts, ProxyGid, ProxyUid, VirtualInterfaces,
        };
        let all = "meta l4proto tcp redirect to :15001";
        let in_all = "meta l4proto tcp redirect to :15006";
        // Setting, value, chain, rule, the rule after it.
        let cases = [
            (ExcludeOutboundPorts, "22,3306", "outbound", "tcp dport { 22, 3306 } return", "meta mark 0x539 return"),
            (ProxyUid, "1337", "outbound", "meta skuid { 1337 } return", "oifname \"lo\" return"),
            (ProxyGid, "1,2", "outbound", "meta skgid { 1, 2 } return", "oifname \"lo\" return"),
            (ExcludeInterfaces, "net1", "outbound", "oifname { \"net1\" } return", "meta mark 0x539 return"),
            (ExcludeOutboundIpRanges, "10.0.0.0/8", "outbound", "ip daddr { 10.0.0.0/8 } return", all),
            (ExcludeOutboundIpRanges, "fd00::/8", "outbound", "ip6 daddr { fd00::/8 } return", all),
            (
                ExcludeOutboundIpRanges,
                "10.0.0.0/8,10.1.0.0/16,10.0.0.0/8",
                "outbound",
                "ip daddr { 10.0.0.0/8 } return",
                all,
            ),
            (IncludeOutboundPorts, "80", "outbound", "tcp dport { 80 } redirect to :15001", all),
            (
                IncludeOutboundIpRanges,
                "10.0.0.0/8,fd00::/8",
                "outbound",
                "meta l4proto tcp ip daddr { 10.0.0.0/8 } redirect to :15001",
                "meta l4proto tcp ip6 daddr { fd00::/8 } redirect to :15001",
            ),
            (IncludeOutboundIpRanges, "", "outbound", "ip6 daddr ::1 return", ""),
            (
                IncludeOutboundIpRanges,
                "127.0.0.9/32",
                "outbound",
                "meta mark 0x539 return",
                "ip daddr 127.0.0.1 return",
            ),
            (ExcludeInboundPorts, "9090", "inbound", "tcp dport { 9090 } return", in_all),
            (IncludeInboundPorts, "8080", "inbound", "tcp dport { 8080 } redirect to :15006", ""),
            (IncludeInboundPorts, "", "inbound", "tcp dport { 15001, 15006, 15008, 15020, 15021 } return", ""),
            (
                VirtualInterfaces,
                "vm1",
                "inbound",
                "iifname { \"vm1\" } meta l4proto tcp redirect to :15001",
                "iifname { \"vm1\" } return",
            ),
        ];
        for (setting, value, chain, rule, next) in cases {
            let rules = rules(&ruleset(&options(&[(setting, value)])), chain);
            let at = rules.iter().position(|one| one == rule);
            let after = at.and_then(|at| rules.get(at + 1)).map_or("", String::as_str);
            assert_eq!((at.is_some(), after), (true, next), "{setting:?} {value}: {rules:#?}");
        }
    }
}
