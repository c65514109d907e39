//! Hosts of a server: `[namespace/]host`, with a wildcard as the whole first label.

use crate::error::Mistake;
use crate::validate::rules::{self, Rule};

/// Checks one.
pub(super) fn namespaced(text: &str) -> Rule {
    let host = match text.split_once('/') {
        None => text,
        Some((namespace, host)) => {
            if !matches!(namespace, "*" | ".") {
                rules::label(namespace).map_err(|_| {
                    let message = format!(
                        "{text:?}: {namespace:?} must be a namespace, \".\" for the Gateway's own or \"*\" for all"
                    );
                    Mistake::new(message, format!("write {host:?} for hosts of all namespaces"))
                })?;
            }
            host
        }
    };
    wildcard(host).map_err(|wrong| Mistake { message: format!("{text:?}: {}", wrong.message), ..wrong })
}

fn wildcard(host: &str) -> Rule {
    if host == "*" || host.parse::<std::net::IpAddr>().is_ok() {
        return Ok(());
    }
    let rest = host.strip_prefix("*.").unwrap_or(host);
    let rest = rest.strip_suffix('.').unwrap_or(rest);
    let label = |part: &str| {
        let part = part.to_ascii_lowercase();
        rules::label(&part.replace('_', "-")).is_ok()
    };
    if host.len() <= 253 && rest.split('.').all(label) {
        return Ok(());
    }
    Err(Mistake::new(
        "must be a host name, \"*\", or one whose first label is \"*\"",
        "write the host alone, such as api.example.com or \"*.example.com\", without scheme, port and path",
    ))
}
