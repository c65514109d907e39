//! The rules for single values, as `k8s.io/apimachinery/pkg/util/validation` has them. Each says what is wrong and what to
//! write instead.

use std::net::IpAddr;

use crate::error::Mistake;
use crate::suggest;

pub(super) type Rule = Result<(), Mistake>;

fn rule(holds: bool, message: impl Into<String>, hint: impl Into<String>) -> Rule {
    if holds { Ok(()) } else { Err(Mistake::new(message, hint)) }
}

/// What to write instead of a name: itself with the slips that are made most mended, or an example.
fn name_hint(value: &str, holds: fn(&str) -> bool, example: &str) -> String {
    let mended = value.trim().to_ascii_lowercase().replace(['_', ' '], "-");
    if holds(&mended) { format!("write {mended}") } else { format!("write a name such as {example}") }
}

/// RFC 1123 label: 1 to 63 of `a-z0-9-`, a letter or digit at both ends.
pub(super) fn label(value: &str) -> Rule {
    rule(
        is_label(value),
        format!(
            "{value:?} must be an RFC 1123 label: 1 to 63 lower-case letters, digits or '-', a letter or digit at both ends"
        ),
        name_hint(value, is_label, "web-1"),
    )
}

fn is_label(value: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&value.len()) && value.bytes().all(inner) && !value.starts_with('-') && !value.ends_with('-')
}

/// RFC 1035 label: as RFC 1123, and a letter at the beginning. Names of Services.
pub(super) fn label_1035(value: &str) -> Rule {
    let holds = |value: &str| is_label(value) && value.starts_with(|c: char| c.is_ascii_lowercase());
    rule(
        holds(value),
        format!(
            "{value:?} must be an RFC 1035 label: 1 to 63 lower-case letters, digits or '-', a letter first, a letter or digit last"
        ),
        name_hint(value, holds, "web-1"),
    )
}

/// RFC 1123 subdomain: labels joined by dots, at most 253 characters.
pub(super) fn subdomain(value: &str) -> Rule {
    rule(
        is_subdomain(value),
        format!(
            "{value:?} must be an RFC 1123 subdomain: labels of lower-case letters, digits and '-' joined by dots, at most 253 characters"
        ),
        name_hint(value, is_subdomain, "web-1 or web.example.com"),
    )
}

fn is_subdomain(value: &str) -> bool {
    value.len() <= 253 && value.split('.').all(is_label)
}

/// A label key, an annotation key, an appProtocol: `[prefix/]name`.
pub(super) fn qualified_name(value: &str) -> Rule {
    let (prefix, name) = match value.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, value),
    };
    let holds = prefix.is_none_or(is_subdomain) && !name.is_empty() && is_word(name);
    rule(
        holds,
        format!(
            "{value:?} must be [prefix/]name: at most 63 letters, digits, '-', '_' or '.', a letter or digit at both ends"
        ),
        "write a name such as app or example.com/app",
    )
}

/// The value of a label: empty or a word.
pub(super) fn label_value(value: &str) -> Rule {
    rule(
        value.is_empty() || is_word(value),
        format!("{value:?} must be at most 63 letters, digits, '-', '_' or '.', a letter or digit at both ends"),
        "write a value such as v1 or team-a",
    )
}

fn is_word(value: &str) -> bool {
    value.len() <= 63
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && value.starts_with(|c: char| c.is_ascii_alphanumeric())
        && value.ends_with(|c: char| c.is_ascii_alphanumeric())
}

const PORT_HINT: &str = "write the number of the port, such as 8080";

/// A port number.
pub(super) fn port(value: impl Into<i64>) -> Rule {
    let value = value.into();
    rule((1..=65535).contains(&value), format!("{value} must be a port, 1 to 65535"), PORT_HINT)
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
        "write a name such as http, or the number of the port without quotes",
    )
}

/// An IP address of either family.
pub(super) fn ip(value: &str) -> Result<IpAddr, Mistake> {
    let hint = "write the address alone, such as 10.0.0.1 or fd00::1";
    value.parse().map_err(|_| Mistake::new(format!("{value:?} must be an IP address"), hint))
}

/// One of some words.
pub(super) fn one_of(value: &str, allowed: &[&str]) -> Rule {
    let hint = match suggest::nearest(value, allowed.iter().copied()) {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => "write one of them as it is spelled there".to_owned(),
    };
    rule(allowed.contains(&value), format!("{value:?} must be one of {}", allowed.join(", ")), hint)
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

    #[test]
    fn a_name_with_a_slip_is_written_right_in_the_hint() {
        let hint = |result: Rule| result.unwrap_err().hint;
        assert_eq!(hint(label("My_Service")), "write my-service");
        assert_eq!(hint(subdomain("Web.Example.com ")), "write web.example.com");
        assert_eq!(hint(label_1035("1a")), "write a name such as web-1");
        assert_eq!(hint(label("a.b")), "write a name such as web-1", "a dot may mean a host or a namespace");
        assert_eq!(hint(one_of("Tcp", &["TCP", "UDP"])), "did you mean TCP?");
        assert_eq!(hint(one_of("quic", &["TCP", "UDP"])), "write one of them as it is spelled there");
    }
}
