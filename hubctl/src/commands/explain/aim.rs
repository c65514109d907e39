//! What `--to` means: a URL as a client has it, or a host and a port.

use anyhow::Result;
use fleet::forward::parse_target;
use fleet::{Fleet, Hint};

/// Whom a request is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Aim {
    pub(super) host: String,
    pub(super) port: u16,
    /// Path with its query, if a URL says it.
    pub(super) path: Option<String>,
    /// Datagrams, by `udp://`.
    pub(super) udp: bool,
}

impl Aim {
    /// A URL's host is taken as it is, and so is every host at a gateway. Else `<service>.<namespace>` is the service of
    /// the mesh, if the fleet has the namespace.
    pub(super) fn parse(fleet: &Fleet, edge: bool, text: &str) -> Result<Self> {
        let namespaces = fleet.plan().clusters.iter().flat_map(|cluster| &cluster.pods);
        let known = |name: &str| namespaces.clone().any(|pod| pod.namespace.as_str() == name);
        parse(text, |namespace| !edge && known(namespace))
    }
}

fn parse(text: &str, is_namespace: impl Fn(&str) -> bool) -> Result<Aim> {
    let Some((scheme, rest)) = text.split_once("://") else {
        let literal = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let service = |host: &str| host.split_once('.').is_some_and(|(_, namespace)| is_namespace(namespace));
        return match literal.filter(|(host, _)| !host.is_empty() && !service(host)) {
            Some((host, port)) => Ok(Aim { host: host.to_owned(), port, path: None, udp: false }),
            None => parse_target(text).map(|(host, port)| Aim { host, port, path: None, udp: false }),
        };
    };
    if scheme == "udp" {
        return match rest.contains(['/', '?']) {
            true => {
                Err(Hint::error(format!("{text:?} is no target"), "datagrams have no path: write udp://<host>:<port>"))
            }
            false => parse(rest, is_namespace).map(|aim| Aim { udp: true, ..aim }),
        };
    }
    let default = match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    };
    let (authority, path) = match rest.find(['/', '?']) {
        Some(at) => (&rest[..at], Some(rest[at..].to_owned())),
        None => (rest, None),
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()),
        None => (authority, default),
    };
    // A client cannot say what it asks for inside TLS that it does not end here.
    let path = path.filter(|path| path != "/");
    match port.filter(|_| !host.is_empty()) {
        Some(port) => Ok(Aim { host: host.to_owned(), port, path, udp: false }),
        None => Err(Hint::error(format!("{text:?} is no target"), "write <host>:<port>, or a URL with a port")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_what_a_client_would_call() {
        let cases = [
            ("reviews:9080", "reviews", 9080, None),
            ("reviews.default:9080", "reviews.default.svc.clusterset.local", 9080, None),
            ("example.com:443", "example.com", 443, None),
            ("http://reviews.default:9080/a?b=c", "reviews.default", 9080, Some("/a?b=c")),
            ("https://shop.example.com", "shop.example.com", 443, None),
            ("udp://names.default:53", "names.default.svc.clusterset.local", 53, None),
            ("udp://10.96.0.10:53", "10.96.0.10", 53, None),
            ("http://shop.example.com/", "shop.example.com", 80, None),
        ];
        for (text, host, port, path) in cases {
            let udp = text.starts_with("udp:");
            let expected = Aim { host: host.to_owned(), port, path: path.map(str::to_owned), udp };
            assert_eq!(parse(text, |name| name == "default").expect(text), expected, "{text}");
        }
        for text in ["reviews", ":80", "tcp://db", "http://", "http://x:y/", "udp://names", "udp://a:53/b"] {
            assert!(parse(text, |_| false).is_err(), "{text}");
        }
    }
}
