//! What the first proxy of a request says about its client, as Envoy does with `use_remote_address`.

use std::net::{IpAddr, SocketAddr};

use http::header::{HeaderMap, HeaderName, HeaderValue};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");
const INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");

/// Appends who dialled to `x-forwarded-for` and says the scheme; returns the client behind the trusted hops. Hops that are
/// trusted are believed about the scheme too. Nobody else is believed about what only the edge knows.
pub(super) fn stamp(headers: &mut HeaderMap, source: SocketAddr, scheme: &'static str, hops: u32) -> IpAddr {
    let dialled = source.ip().to_canonical();
    let said: Vec<_> = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect();
    let client = mesh::remote_ip(said.iter().copied(), dialled, hops);
    let chain = match said.is_empty() {
        true => dialled.to_string(),
        false => format!("{},{dialled}", said.join(",")),
    };
    if let Ok(chain) = HeaderValue::from_str(&chain) {
        headers.insert(FORWARDED_FOR, chain);
    }
    if hops == 0 || !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme));
    }
    headers.remove(EXTERNAL_ADDRESS);
    headers.remove(INTERNAL);
    if !is_internal(client)
        && let Ok(address) = HeaderValue::from_str(&client.to_string())
    {
        headers.insert(EXTERNAL_ADDRESS, address);
    }
    client
}

/// Addresses that are not of the internet: of private networks and of the machine itself.
fn is_internal(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `x-forwarded-for`, `x-forwarded-proto`, `x-envoy-external-address` and the client.
    fn check(given: &[(&'static str, &'static str)], source: &str, hops: u32) -> [String; 4] {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let mut headers: HeaderMap = given.iter().map(pair).collect();
        let client = stamp(&mut headers, source.parse().unwrap(), "https", hops);
        let get = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        [
            get(FORWARDED_FOR).unwrap_or_default(),
            get(FORWARDED_PROTO).unwrap_or_default(),
            get(EXTERNAL_ADDRESS).unwrap_or_default(),
            client.to_string(),
        ]
    }

    #[test]
    fn only_trusted_hops_are_believed() {
        let claims = [("x-forwarded-for", "1.1.1.1, 2.2.2.2"), ("x-forwarded-proto", "http")];
        let lies = [("x-envoy-external-address", "1.1.1.1"), ("x-envoy-internal", "true")];
        assert_eq!(check(&[], "9.9.9.9:1", 0), ["9.9.9.9", "https", "9.9.9.9", "9.9.9.9"]);
        assert_eq!(check(&claims, "9.9.9.9:1", 0), ["1.1.1.1, 2.2.2.2,9.9.9.9", "https", "9.9.9.9", "9.9.9.9"]);
        assert_eq!(check(&claims, "9.9.9.9:1", 1), ["1.1.1.1, 2.2.2.2,9.9.9.9", "http", "2.2.2.2", "2.2.2.2"]);
        assert_eq!(check(&claims, "9.9.9.9:1", 2), ["1.1.1.1, 2.2.2.2,9.9.9.9", "http", "1.1.1.1", "1.1.1.1"]);
        assert_eq!(check(&lies, "10.0.0.1:1", 0), ["10.0.0.1", "https", "", "10.0.0.1"]);
        assert_eq!(check(&[], "[::ffff:9.9.9.9]:1", 0), ["9.9.9.9", "https", "9.9.9.9", "9.9.9.9"]);
    }
}
