//! Options as an nftables ruleset, in the order of istio-iptables' chains.
//!
//! Only TCP is captured. Other protocols would get chains of their own in the same table (TPROXY for UDP needs a mangle
//! hook), so that nothing here changes for them.

use std::collections::BTreeSet;
use std::fmt::{Display, Write as _};

use ipnet::IpNet;

use super::options::{Captured, Options};

/// The table that holds everything; nobody else's rules are touched.
pub const TABLE: &str = "inet isthmus";

/// The transaction that puts the ruleset in the place of the one before, if there is one.
pub fn ruleset(options: &Options) -> String {
    let mut text = removal();
    let outbound = chain("outbound", "output", &outbound(options));
    let inbound = chain("inbound", "prerouting", &inbound(options));
    // Writing into a String cannot fail.
    let _ = write!(text, "table {TABLE} {{\n{outbound}\n{inbound}}}\n");
    text
}

/// The transaction that leaves nothing, whether there was something or not.
pub fn removal() -> String {
    format!("table {TABLE}\ndelete table {TABLE}\n")
}

/// Where destination addresses are rewritten (`NF_IP_PRI_NAT_DST`; by number, for older nft knows no name at `output`).
const PRIORITY: i32 = -100;

fn chain(name: &str, hook: &str, rules: &[String]) -> String {
    let mut text = format!("\tchain {name} {{\n\t\ttype nat hook {hook} priority {PRIORITY}; policy accept;\n");
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
