//! The rules for single values, as `k8s.io/apimachinery/pkg/util/validation` has them. Each says what is wrong.

use std::net::IpAddr;

type Rule = Result<(), String>;

fn rule(holds: bool, message: impl Into<String>) -> Rule {
    if holds { Ok(()) } else { Err(message.into()) }
}

/// RFC 1123 label: 1 to 63 of `a-z0-9-`, a letter or digit at both ends.
pub(super) fn label(value: &str) -> Rule {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let holds =
        (1..=63).contains(&value.len()) && value.bytes().all(inner) && !value.starts_with('-') && !value.ends_with('-');
    rule(
        holds,
        format!(
            "{value:?} must be an RFC 1123 label: 1 to 63 lower-case letters, digits or '-', a letter or digit at both ends"
        ),
    )
}

/// RFC 1035 label: as RFC 1123, and a letter at the beginning. Names of Services.
pub(super) fn label_1035(value: &str) -> Rule {
    let holds = label(value).is_ok() && value.starts_with(|c: char| c.is_ascii_lowercase());
    rule(
        holds,
        format!(
            "{value:?} must be an RFC 1035 label: 1 to 63 lower-case letters, digits or '-', a letter first, a letter or digit last"
        ),
    )
}

/// RFC 1123 subdomain: labels joined by dots, at most 253 characters.
pub(super) fn subdomain(value: &str) -> Rule {
    let holds = value.len() <= 253 && value.split('.').all(|part| label(part).is_ok());
    rule(
        holds,
        format!(
            "{value:?} must be an RFC 1123 subdomain: labels of lower-case letters, digits and '-' joined by dots, at most 253 characters"
        ),
    )
}

/// A label key, an annotation key, an appProtocol: `[prefix/]name`.
pub(super) fn qualified_name(value: &str) -> Rule {
    let (prefix, name) = match value.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, value),
    };
    let holds = prefix.is_none_or(|prefix| subdomain(prefix).is_ok()) && !name.is_empty() && is_word(name);
    rule(
        holds,
        format!(
            "{value:?} must be [prefix/]name: at most 63 letters, digits, '-', '_' or '.', a letter or digit at both ends"
        ),
    )
}

/// The value of a label: empty or a word.
pub(super) fn label_value(value: &str) -> Rule {
    rule(
        value.is_empty() || is_word(value),
        format!("{value:?} must be at most 63 letters, digits, '-', '_' or '.', a letter or digit at both ends"),
    )
}

fn is_word(value: &str) -> bool {
    value.len() <= 63
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && value.starts_with(|c: char| c.is_ascii_alphanumeric())
        && value.ends_with(|c: char| c.is_ascii_alphanumeric())
}

/// A port number.
pub(super) fn port(value: i32) -> Rule {
    rule((1..=65535).contains(&value), format!("{value} must be a port, 1 to 65535"))
}

/// The name of a container's port (IANA service name).
pub(super) fn port_name(value: &str) -> Rule {
    let holds = (1..=15).contains(&value.len())
        && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && value.bytes().any(|b| b.is_ascii_lowercase())
        && !value.starts_with('-')
        && !value.ends_with('-')
        && !value.contains("--");
    rule(
        holds,
        format!("{value:?} must be a port name: 1 to 15 lower-case letters, digits or '-', at least one letter"),
    )
}

/// An IP address of either family.
pub(super) fn ip(value: &str) -> Result<IpAddr, String> {
    value.parse().map_err(|_| format!("{value:?} must be an IP address"))
}

/// One of some words.
pub(super) fn one_of(value: &str, allowed: &[&str]) -> Rule {
    rule(allowed.contains(&value), format!("{value:?} must be one of {}", allowed.join(", ")))
}

/// A transport protocol.
pub(super) fn protocol(value: &str) -> Rule {
    one_of(value, &["TCP", "UDP", "SCTP"])
}

/// The family of an address as Kubernetes writes it.
pub(super) fn family(address: &IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Case<'a> = (fn(&str) -> Rule, &'a [&'a str], &'a [&'a str]);

    #[test]
    fn names_follow_the_rules_of_kubernetes() {
        let long = "a".repeat(64);
        let table: [Case<'_>; 5] = [
            (label, &["a", "0-1", "a-b"], &["", "-a", "a-", "A", "a.b", &long]),
            (label_1035, &["a", "a1"], &["1a", "", "a_b"]),
            (subdomain, &["a", "a.b-c"], &["a..b", ".a", "A.b"]),
            (qualified_name, &["app", "isthmus.dev/export-to", "A_b.c"], &["", "/a", "a/", "A/b", "a/b/c", "-a"]),
            (port_name, &["http", "http-2"], &["", "80", "a--b", "sixteencharacters", "-a"]),
        ];
        for (rule, good, bad) in table {
            for value in good {
                assert_eq!(rule(value), Ok(()), "{value}");
            }
            for value in bad {
                assert!(rule(value).is_err(), "{value:?} passed");
            }
        }
    }
}
