//! Values of headers in Envoy's format: `%REQ(x-user)%`, `%START_TIME%` …
//!
//! Envoy, "Access logging: command operators", as far as Istio's users write them into `headers`. What is no operator is
//! text; an operator that is not known here stays as it is written, and [`unsupported`] names it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::HeaderMap;

use crate::policy::HeaderEdits;
use crate::request::HttpRequest;

/// What operators are about.
#[derive(Debug, Clone, Copy)]
pub struct FormatFacts<'a> {
    /// The request, as its client sent it.
    pub request: &'a HttpRequest<'a>,
    /// `HTTP/1.1` or `HTTP/2`.
    pub protocol: &'a str,
    /// The answer, once there is one.
    pub response: Option<(u16, &'a HeaderMap)>,
    /// When the request began, since the Unix epoch.
    pub started: Duration,
    /// Who dialled.
    pub source: Option<SocketAddr>,
    /// The client behind trusted hops, if another one.
    pub remote_ip: Option<IpAddr>,
    /// What was dialled.
    pub destination_ip: Option<IpAddr>,
    /// The name in the ClientHello.
    pub sni: Option<&'a str>,
    /// Who the client proved to be.
    pub peer: Option<&'a str>,
    /// The rule, as its object names it.
    pub route: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part<'a> {
    Text(&'a str),
    Operator(Operator<'a>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Operator<'a> {
    /// As it is written, signs included.
    written: &'a str,
    name: &'a str,
    argument: Option<&'a str>,
    /// Most characters of what takes its place.
    most: Option<usize>,
}

/// The operators of a value that Envoy knows, or may know, and that have no meaning here.
pub fn unsupported(text: &str) -> Vec<String> {
    let operators = parts(text).into_iter().filter_map(|part| match part {
        Part::Operator(operator) if !operator.is_supported() => Some(operator.written.to_owned()),
        _ => None,
    });
    operators.collect()
}

impl HeaderEdits {
    /// Whether values depend on the request or its answer.
    pub fn are_formats(&self) -> bool {
        self.set.values().chain(self.add.values()).any(|value| value.contains('%'))
    }

    /// The same with values in the place of operators. What becomes empty is left out, as Envoy does.
    pub fn rendered(&self, facts: &FormatFacts<'_>) -> Cow<'_, Self> {
        if !self.are_formats() {
            return Cow::Borrowed(self);
        }
        let render_all = |values: &BTreeMap<String, String>| {
            let rendered = values.iter().map(|(name, value)| (name.clone(), (value.is_empty(), render(value, facts))));
            rendered
                .filter(|(_, (was, value))| *was || !value.is_empty())
                .map(|(name, (_, value))| (name, value))
                .collect()
        };
        Cow::Owned(Self { set: render_all(&self.set), add: render_all(&self.add), remove: self.remove.clone() })
    }
}

/// The text with values in the place of operators; what is missing is empty.
pub fn render(text: &str, facts: &FormatFacts<'_>) -> String {
    let mut rendered = String::with_capacity(text.len());
    for part in parts(text) {
        match part {
            Part::Text(text) => rendered.push_str(text),
            Part::Operator(operator) => match operator.value(facts) {
                Some(value) => rendered.extend(value.chars().take(operator.most.unwrap_or(usize::MAX))),
                None => rendered.push_str(operator.written),
            },
        }
    }
    rendered
}

fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        let (before, from) = rest.split_at(at);
        parts.push(Part::Text(before));
        let (part, length) = match Operator::read(from) {
            Some(operator) => (Part::Operator(operator), operator.written.len()),
            // Envoy's way to write the sign itself.
            None if from.starts_with("%%") => (Part::Text("%"), 2),
            None => (Part::Text("%"), 1),
        };
        parts.push(part);
        rest = &from[length..];
    }
    parts.push(Part::Text(rest));
    parts
}

impl<'a> Operator<'a> {
    /// `%NAME%`, `%NAME(argument)%`, `%NAME(argument):length%` at the beginning of the text.
    fn read(text: &'a str) -> Option<Self> {
        let inside = text.strip_prefix('%')?;
        let length = inside.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))?;
        let (name, mut rest) = inside.split_at(length);
        if !name.starts_with(|c: char| c.is_ascii_uppercase()) {
            return None;
        }
        let mut argument = None;
        if let Some(open) = rest.strip_prefix('(') {
            let (inner, after) = open.split_once(')')?;
            (argument, rest) = (Some(inner), after);
        }
        let mut most = None;
        if let Some(limited) = rest.strip_prefix(':') {
            let (digits, _) = limited.split_once('%')?;
            most = Some(digits.parse().ok()?);
            rest = &limited[digits.len()..];
        }
        let after = rest.strip_prefix('%')?;
        Some(Self { written: &text[..text.len() - after.len()], name, argument, most })
    }

    fn is_supported(&self) -> bool {
        let nothing = HeaderMap::new();
        let request = HttpRequest { method: "", scheme: "", authority: "", path_and_query: "", headers: &nothing };
        let facts = FormatFacts {
            request: &request,
            protocol: "",
            response: None,
            started: Duration::ZERO,
            source: None,
            remote_ip: None,
            destination_ip: None,
            sni: None,
            peer: None,
            route: "",
        };
        self.value(&facts).is_some()
    }

    /// `None`: it is not known.
    fn value(&self, facts: &FormatFacts<'_>) -> Option<String> {
        let text = |value: Option<String>| Some(value.unwrap_or_default());
        let source_ip = facts.source.map(|source| source.ip().to_canonical());
        let client = facts.remote_ip.or(source_ip);
        match (self.name, self.argument) {
            ("REQ", Some(names)) => text(header(names, |name| of_request(facts.request, name))),
            ("RESP", Some(names)) => {
                let of_response = |name: &str| facts.response.and_then(|(_, headers)| field(headers, name));
                text(header(names, of_response))
            }
            ("PROTOCOL", None) => text(Some(facts.protocol.to_owned())),
            ("RESPONSE_CODE", None) => text(Some(facts.response.map_or(0, |(status, _)| status).to_string())),
            ("START_TIME", None) => text(Some(rfc3339(facts.started))),
            ("START_TIME", Some("%s")) => text(Some(facts.started.as_secs().to_string())),
            // A client that trusted hops tell of has no port.
            ("DOWNSTREAM_REMOTE_ADDRESS", None) => text(match (client, facts.source) {
                (Some(client), Some(source)) if source_ip == Some(client) => {
                    Some(SocketAddr::new(client, source.port()).to_string())
                }
                (client, _) => client.map(|client| SocketAddr::new(client, 0).to_string()),
            }),
            ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", None) => text(client.map(|ip| ip.to_string())),
            ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", None) => {
                text(facts.source.map(|source| SocketAddr::new(source.ip().to_canonical(), source.port()).to_string()))
            }
            ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", None) => text(source_ip.map(|ip| ip.to_string())),
            ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", None) => {
                text(facts.destination_ip.map(|ip| ip.to_canonical().to_string()))
            }
            ("REQUESTED_SERVER_NAME", None) => text(facts.sni.map(str::to_owned)),
            ("DOWNSTREAM_PEER_URI_SAN", None) => text(facts.peer.map(str::to_owned)),
            ("ROUTE_NAME", None) => text(Some(facts.route.to_owned())),
            _ => None,
        }
    }
}

/// `first?second`: the second is looked for when the first is missing.
fn header(names: &str, find: impl Fn(&str) -> Option<String>) -> Option<String> {
    names.split('?').find_map(|name| find(&name.to_ascii_lowercase()))
}

fn of_request(request: &HttpRequest<'_>, name: &str) -> Option<String> {
    match name {
        ":method" => Some(request.method.to_owned()),
        ":scheme" => Some(request.scheme.to_owned()),
        ":path" => Some(request.path_and_query.to_owned()),
        ":authority" | "host" => Some(request.authority.to_owned()),
        name => field(request.headers, name),
    }
}

/// The first field of a name, as Envoy takes it.
fn field(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(String::from_utf8_lossy(headers.get(name)?.as_bytes()).into_owned())
}

/// `2026-11-23T00:51:05.123Z`, of a time since the Unix epoch; proleptic Gregorian (Howard Hinnant, "chrono-compatible
/// low-level date algorithms").
pub fn rfc3339(since: Duration) -> String {
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let mut headers = HeaderMap::new();
        headers.insert("x-user", "jason".parse().unwrap());
        let mut answer = HeaderMap::new();
        answer.insert("x-served", "v1".parse().unwrap());
        let request = HttpRequest {
            method: "GET",
            scheme: "https",
            authority: "a.example:80",
            path_and_query: "/p?q",
            headers: &headers,
        };
        let facts = FormatFacts {
            request: &request,
            protocol: "HTTP/2",
            response: Some((418, &answer)),
            started: Duration::from_millis(1_795_395_065_123),
            source: Some("[::ffff:10.0.0.9]:4711".parse().unwrap()),
            remote_ip: Some("192.0.2.7".parse().unwrap()),
            destination_ip: Some("10.0.0.1".parse().unwrap()),
            sni: Some("a.example"),
            peer: Some("spiffe://east.demo/ns/default/sa/web"),
            route: "first",
        };
        assert_eq!(render(text, &facts), expected, "{text}");
        assert_eq!(unsupported(text), Vec::<String>::new(), "{text}");
    }

    #[test]
    fn operators_have_envoys_meaning() {
        check("plain", "plain");
        check("%REQ(X-User)%", "jason");
        check("<%REQ(x-user):3%>", "<jas>");
        check("%REQ(x-none)%", "");
        check("%REQ(x-none?x-user)%", "jason");
        check("%REQ(:PATH)% %REQ(:method)% %REQ(:authority)% %REQ(:scheme)%", "/p?q GET a.example:80 https");
        check("%RESP(x-served)%/%RESP(x-none)%", "v1/");
        check("%PROTOCOL% %RESPONSE_CODE%", "HTTP/2 418");
        check("%START_TIME% %START_TIME(%s)%", "2026-11-23T00:51:05.123Z 1795395065");
        check("%DOWNSTREAM_REMOTE_ADDRESS%", "192.0.2.7:0");
        check("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "192.0.2.7");
        check("%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%", "10.0.0.9:4711");
        check("%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%", "10.0.0.9");
        check("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", "10.0.0.1");
        check("%REQUESTED_SERVER_NAME% %DOWNSTREAM_PEER_URI_SAN%", "a.example spiffe://east.demo/ns/default/sa/web");
        check("%ROUTE_NAME%", "first");
    }

    #[test]
    fn what_is_no_operator_is_text() {
        check("100%%", "100%");
        check("50% or 60%", "50% or 60%");
        check("%", "%");
        check("%%REQ(x-user)%%", "%REQ(x-user)%");
        check("%lower%", "%lower%");
        check("%REQ(x-user", "%REQ(x-user");
        check("%20%é", "%20%é");
    }

    #[test]
    fn operators_that_are_not_known_are_named_and_stay() {
        let text = "a %DYNAMIC_METADATA(x:y)% %REQ(a)% %START_TIME(%Y)% %UPSTREAM_HOST%";
        assert_eq!(unsupported(text), ["%DYNAMIC_METADATA(x:y)%", "%START_TIME(%Y)%", "%UPSTREAM_HOST%"]);
    }

    #[test]
    fn times_are_rfc_3339() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_795_395_065, "2026-11-23T00:51:05.000Z"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(rfc3339(Duration::from_secs(seconds)), expected);
        }
    }
}
