//! The client behind trusted proxies.

use std::net::{IpAddr, SocketAddr};

/// The address of the client: `peer` itself, unless `hops` proxies in front are trusted to have appended to
/// `x-forwarded-for`. Then it is the entry that the outermost of them wrote, the `hops`th from the right; fewer or unreadable
/// entries mean that somebody came past those proxies, so that nothing but the connection can be believed (as Envoy does with
/// `use_remote_address` and `xff_num_trusted_hops`).
pub fn remote_ip<'a>(forwarded_for: impl IntoIterator<Item = &'a str>, peer: IpAddr, hops: u32) -> IpAddr {
    let Some(skipped) = usize::try_from(hops).ok().and_then(|hops| hops.checked_sub(1)) else { return peer };
    let entries: Vec<&str> = forwarded_for.into_iter().flat_map(|value| value.split(',')).map(str::trim).collect();
    let entry = entries.iter().rev().nth(skipped).copied();
    entry.and_then(address).unwrap_or(peer)
}

/// Some proxies add ports.
fn address(entry: &str) -> Option<IpAddr> {
    let bare = entry.trim_start_matches('[').trim_end_matches(']');
    bare.parse().ok().or_else(|| entry.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_hops_are_believed() {
        let cases: [(&str, &[&str], u32, &str); 14] = [
            ("nobody is trusted", &["1.1.1.1"], 0, "9.9.9.9"),
            ("no header", &[], 1, "9.9.9.9"),
            ("one proxy", &["1.1.1.1"], 1, "1.1.1.1"),
            ("one proxy, and a client that lies", &["6.6.6.6, 1.1.1.1"], 1, "1.1.1.1"),
            ("two proxies", &["1.1.1.1, 2.2.2.2"], 2, "1.1.1.1"),
            ("two proxies, and a client that lies", &["6.6.6.6,1.1.1.1,2.2.2.2"], 2, "1.1.1.1"),
            ("past one of two proxies", &["2.2.2.2"], 2, "9.9.9.9"),
            ("several fields are one list", &["1.1.1.1", "2.2.2.2"], 2, "1.1.1.1"),
            ("no address", &["unknown"], 1, "9.9.9.9"),
            ("empty", &[""], 1, "9.9.9.9"),
            ("with a port", &["1.1.1.1:80"], 1, "1.1.1.1"),
            ("IPv6", &["2001:db8::1"], 1, "2001:db8::1"),
            ("IPv6 in brackets with a port", &["[2001:db8::1]:80"], 1, "2001:db8::1"),
            ("more hops than can be", &["1.1.1.1"], u32::MAX, "9.9.9.9"),
        ];
        for (name, header, hops, expected) in cases {
            let peer = "9.9.9.9".parse().unwrap();
            assert_eq!(remote_ip(header.iter().copied(), peer, hops).to_string(), expected, "{name}");
        }
    }
}
