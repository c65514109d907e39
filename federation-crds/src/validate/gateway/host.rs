//! Hosts of a server: `[namespace/]host`, with a wildcard as the whole first label.

use crate::validate::rules;

/// Checks one.
pub(super) fn namespaced(text: &str) -> Result<(), String> {
    let host = match text.split_once('/') {
        None => text,
        Some((namespace, host)) => {
            if !matches!(namespace, "*" | ".") {
                rules::label(namespace).map_err(|_| {
                    format!("{text:?}: {namespace:?} must be a namespace, \".\" for the Gateway's own or \"*\" for all")
                })?;
            }
            host
        }
    };
    wildcard(host).map_err(|why| format!("{text:?}: {why}"))
}

fn wildcard(host: &str) -> Result<(), String> {
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
    Err("must be a host name, \"*\", or one whose first label is \"*\"".to_owned())
}
