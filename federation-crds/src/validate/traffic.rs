//! Rules that Istio's traffic kinds share (`pkg/config/validation` of Istio).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::rules::{self, Rule};
use crate::error::{FieldErrors, Mistake};
use crate::istio::parse_duration;
use crate::istio::virtual_service::{Destination, PortSelector};

/// Longer expressions are refused, as Istio does.
const REGEX_MAX: usize = 1024;

/// A duration as Go writes it.
pub(super) fn read_duration(text: &str) -> Result<Duration, Mistake> {
    parse_duration(text).map_err(|message| {
        let unit = |unit: &str| text.strip_suffix(unit).and_then(|number| number.parse::<u32>().ok());
        let hint = match (unit(""), unit("d"), text.strip_prefix('-')) {
            (Some(seconds), _, _) => format!("write {seconds}s for seconds"),
            (_, Some(days), _) => format!("write {}h: hours are the largest unit", 24 * u64::from(days)),
            (_, _, Some(_)) => "write it without the minus, or leave the field out".to_owned(),
            _ => "write numbers and units (h, m, s, ms) without spaces, such as 1m30s".to_owned(),
        };
        Mistake::new(message, hint)
    })
}

/// A duration of at least a millisecond, in whole milliseconds.
pub(super) fn duration(path: impl Into<String>, text: &Option<String>, errors: &mut FieldErrors) -> Option<Duration> {
    let path = path.into();
    match read_duration(text.as_ref()?) {
        Ok(duration) if duration < Duration::from_millis(1) => {
            errors.add(path, "must be at least 1ms", "write 1ms or more, or leave the field out")
        }
        Ok(duration) if duration.subsec_nanos() % 1_000_000 != 0 => {
            errors.add(path, "must be whole milliseconds", format!("write {}ms", duration.as_millis()));
        }
        Ok(duration) => return Some(duration),
        Err(mistake) => errors.note(path, mistake),
    }
    None
}

/// A count that is not negative and fits its 32 bits.
pub(super) fn count(path: impl Into<String>, value: i64, errors: &mut FieldErrors) {
    if u32::try_from(value).is_err() {
        errors.add(
            path,
            format!("{value} must not be negative, and at most {}", u32::MAX),
            "write a whole number from 0 on",
        );
    }
}

/// 0 to 100.
pub(super) fn percent(path: impl Into<String>, value: f64, errors: &mut FieldErrors) {
    if !(0.0..=100.0).contains(&value) {
        errors.add(path, format!("{value} must be a percentage, 0 to 100"), "write a number such as 50 or 0.5");
    }
}

/// A port.
pub(super) fn port(path: impl Into<String>, value: i64, errors: &mut FieldErrors) {
    errors.check(path, rules::port(value));
}

/// A DNS name of letters, digits and '-', of which the last label is no number.
pub(super) fn fqdn(value: &str) -> Rule {
    let wrong = |why: &str| {
        let hint = match value.contains([':', '/']) {
            true => "write the host alone, such as api.example.com, without scheme, port and path",
            false => "write a name such as reviews, reviews.shop.svc.cluster.local or api.example.com",
        };
        Err(Mistake::new(format!("{value:?} is no host name: {why}"), hint))
    };
    let name = value.strip_suffix('.').unwrap_or(value).to_ascii_lowercase();
    if name.is_empty() || name.len() > 253 {
        return wrong("it must have 1 to 253 characters");
    }
    if !name.split('.').all(|part| rules::label(part).is_ok()) {
        return wrong("labels of letters, digits and '-' joined by dots");
    }
    match name.rsplit('.').next() {
        Some(last) if last.bytes().all(|byte| byte.is_ascii_digit()) => wrong("its last label is a number"),
        _ => Ok(()),
    }
}

/// A DNS name or a wildcard, which is the whole first label.
pub(super) fn wildcard_domain(value: &str) -> Rule {
    match value.strip_prefix('*') {
        Some("") => Ok(()),
        Some(rest) => match rest.strip_prefix('.') {
            Some(rest) => fqdn(rest),
            None => Err(Mistake::new(
                format!("{value:?} is no host: a wildcard is the whole first label, such as *.example.com"),
                format!("write *.{rest} for the hosts below {rest}"),
            )),
        },
        None => fqdn(value),
    }
}

pub(super) const SUBNET_HINT: &str =
    "write an address in full, or a range as its address and up to 32 (IPv6: 128) bits: 10.0.0.1, 10.0.0.0/8, fd00::/8";

/// An address, or a range of them.
pub(super) fn subnet(value: &str) -> Rule {
    let message = || format!("{value:?} must be an IP address or a CIDR range, such as 10.0.0.0/8");
    let wrong = || Mistake::new(message(), SUBNET_HINT);
    let (address, length) = value.split_once('/').map_or((value, None), |(address, length)| (address, Some(length)));
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    match length {
        None => Ok(()),
        Some(length) => length.parse::<u8>().ok().filter(|length| *length <= most).map(|_| ()).ok_or_else(wrong),
    }
}

/// A regular expression in RE2 syntax.
pub(super) fn regex(path: impl Into<String>, value: &str, errors: &mut FieldErrors) {
    const HINT: &str = "the syntax is RE2's: https://github.com/google/re2/wiki/Syntax";
    if value.is_empty() {
        return errors.add(path, "must not be an empty expression", "write .* for any text");
    }
    if value.len() > REGEX_MAX {
        return errors.add(
            path,
            format!("is longer than {REGEX_MAX} characters"),
            "match a prefix, or divide it between several matches",
        );
    }
    // The limit is that of the proxies, so that what is valid here compiles there.
    if let Err(error) = regex::RegexBuilder::new(&format!("^(?:{value})$")).size_limit(1 << 20).build() {
        let why = error.to_string();
        let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
        errors.add(path, format!("{value:?} is no regular expression: {why}"), HINT);
    }
}

/// Labels of a selector.
pub(super) fn labels(path: &str, labels: &BTreeMap<String, String>, errors: &mut FieldErrors) {
    if let Some((key, _)) = labels.iter().find(|(key, value)| key.contains('*') || value.contains('*')) {
        return errors.add(
            format!("{path}[{key:?}]"),
            "wildcards are not supported in labels",
            "write the label's value in full",
        );
    }
    super::metadata::check_labels(labels, path, errors);
}

/// What else decides how `exportTo` may be written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Exporter {
    /// A ServiceEntry, which may be for nobody (`~`).
    ServiceEntry,
    /// A DestinationRule for selected workloads, which is for its own namespace.
    Selective,
    /// Anything else.
    Other,
}

/// `exportTo`: `*`, `.`, or namespaces.
pub(super) fn export_to(namespace: &str, values: &[String], exporter: Exporter, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (index, value) in values.iter().enumerate() {
        let path = format!("spec.exportTo[{index}]");
        let own = if value == "." { namespace } else { value };
        if !seen.insert(own) {
            errors.add(&path, format!("{value:?} is named twice"), "remove one of the two");
        }
        match value.as_str() {
            "." | "*" => {}
            "~" if exporter == Exporter::ServiceEntry => {}
            "~" => errors.add(&path, "~ is for ServiceEntries only", "write . for the own namespace only"),
            other => errors.check(&path, rules::label(other)),
        }
    }
    if values.len() > 1
        && let Some(index) = values.iter().position(|value| value == "*" || value == "~")
    {
        let hint = "* is everybody and ~ nobody; either stands alone";
        let path = format!("spec.exportTo[{index}]");
        errors.add(path, format!("{:?} excludes other values", values[index]), hint);
    }
    if exporter == Exporter::Selective && !values.is_empty() && seen != BTreeSet::from([namespace]) {
        let message = "a rule with a workloadSelector is for its own namespace";
        errors.add("spec.exportTo", message, "write exportTo: [\".\"], or leave it out");
    }
}

/// A destination's host, subset and port.
pub(super) fn destination(path: &str, destination: &Destination, errors: &mut FieldErrors) {
    if destination.host == "*" {
        errors.add(
            format!("{path}.host"),
            "\"*\" is no destination",
            "name one host; services of other names are reached without a rule of their own",
        );
    } else {
        errors.check(format!("{path}.host"), wildcard_domain(&destination.host));
    }
    if !destination.subset.is_empty() {
        errors.check(format!("{path}.subset"), rules::label(&destination.subset));
    }
    if let Some(PortSelector { number }) = &destination.port {
        port(format!("{path}.port.number"), *number, errors);
    }
}

/// Names of gateways: `mesh`, `<name>`, `<namespace>/<name>`.
pub(super) fn gateways(path: &str, names: &[String], errors: &mut FieldErrors) {
    for (index, name) in names.iter().enumerate() {
        let path = format!("{path}[{index}]");
        match name.split_once('/') {
            None => errors.check(path, fqdn(name)),
            Some((".", gateway)) => errors.check(path, rules::label(gateway)),
            Some((namespace, gateway)) => {
                errors.check(&path, rules::label(namespace));
                errors.check(&path, rules::label(gateway));
            }
        }
    }
}

/// A protocol as Istio spells it; absent means that it is detected.
pub(super) fn protocol(path: impl Into<String>, value: &str, errors: &mut FieldErrors) {
    const KNOWN: [&str; 14] = [
        "TCP",
        "UDP",
        "GRPC",
        "GRPC-WEB",
        "GRPC-WEB-NO-TLS",
        "HTTP",
        "HTTP_PROXY",
        "HTTP2",
        "HTTPS",
        "TLS",
        "MONGO",
        "REDIS",
        "MYSQL",
        "HBONE",
    ];
    if !value.is_empty() && !KNOWN.contains(&value.to_ascii_uppercase().as_str()) {
        errors.add(path, format!("{value:?} is no protocol"), format!("one of {}", KNOWN.join(", ")));
    }
}

/// Whether a header name refers to the authority.
pub(super) fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host")
}

/// A header name (RFC 9110, 5.1).
pub(super) fn header_name(name: &str) -> Rule {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    match !name.is_empty() && name.bytes().all(token) {
        true => Ok(()),
        false => Err(Mistake::new(
            format!("{name:?} is no header name"),
            "write the name alone, such as x-request-id, without colon and spaces",
        )),
    }
}
