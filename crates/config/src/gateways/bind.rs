//! Which VirtualServices a server runs: those that name its Gateway, for hosts that both have.

use std::sync::Arc;

use mesh::{HostPattern, ServerHost, VirtualHost};

use super::Context;

/// The routes of a server, by host: exact hosts first, then longer wildcards; for one host the older object first.
pub(super) fn routes(context: &Context<'_>, gateway: &str, hosts: &[ServerHost]) -> Vec<VirtualHost> {
    let mut found: Vec<VirtualHost> = Vec::new();
    let bound = context.bound.iter().filter(|bound| bound.routes.gateways.contains(gateway));
    for bound in bound.filter(|bound| bound.routes.visible_to.includes(&context.workload.namespace)) {
        for server_host in hosts {
            if server_host.namespace.as_ref().is_some_and(|namespace| *namespace != bound.namespace) {
                continue;
            }
            for host in bound.hosts.iter().filter_map(|host| intersection(&server_host.host, host)) {
                let known = found.iter().any(|it| it.host == host && Arc::ptr_eq(&it.routes, &bound.routes));
                if !known {
                    found.push(VirtualHost { host, routes: bound.routes.clone() });
                }
            }
        }
    }
    found.sort_by_key(|virtual_host| std::cmp::Reverse(virtual_host.host.specificity()));
    found
}

/// The hosts that two patterns have in common; there is none, or one of the two patterns.
fn intersection(one: &HostPattern, other: &HostPattern) -> Option<HostPattern> {
    let covers = |wide: &HostPattern, narrow: &HostPattern| wide == narrow || wide.matches(narrow.as_str());
    if covers(one, other) {
        Some(other.clone())
    } else if covers(other, one) {
        Some(one.clone())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrower_pattern_is_what_both_have() {
        let cases = [
            ("*", "a.example.com", Some("a.example.com")),
            ("*", "*", Some("*")),
            ("*.example.com", "*", Some("*.example.com")),
            ("*.com", "*.example.com", Some("*.example.com")),
            ("a.example.com", "*.example.com", Some("a.example.com")),
            ("*.example.com", "example.com", None),
            ("*.example.com", "*.example.org", None),
            ("a.example.com", "b.example.com", None),
        ];
        for (one, other, expected) in cases {
            let (one, other): (HostPattern, HostPattern) = (one.parse().unwrap(), other.parse().unwrap());
            for found in [intersection(&one, &other), intersection(&other, &one)] {
                assert_eq!(found.as_ref().map(HostPattern::as_str), expected, "{one} {other}");
            }
        }
    }
}
