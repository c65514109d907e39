//! The facts of one request or connection, as decisions see them.

use std::net::IpAddr;

use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// An HTTP request without its body.
#[derive(Debug, Clone, Copy)]
pub struct HttpRequest<'a> {
    /// The method.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The authority as the client wrote it.
    pub authority: &'a str,
    /// The path with its query; begins with `/`, or is `*`.
    pub path_and_query: &'a str,
    /// The headers.
    pub headers: &'a HeaderMap,
}

impl<'a> HttpRequest<'a> {
    /// The path without its query.
    pub fn path(&self) -> &'a str {
        self.path_and_query.split_once('?').map_or(self.path_and_query, |(path, _)| path)
    }

    /// The query, if there is one.
    pub fn query(&self) -> Option<&'a str> {
        self.path_and_query.split_once('?').map(|(_, query)| query)
    }

    /// A header as text: several fields are joined by `,` (RFC 9110 §5.3); bytes that are no UTF-8 are replaced.
    pub fn header(&self, name: &str) -> Option<String> {
        let mut values = self.headers.get_all(name).iter();
        let mut text = String::from_utf8_lossy(values.next()?.as_bytes()).into_owned();
        for value in values {
            text.push(',');
            text.push_str(&String::from_utf8_lossy(value.as_bytes()));
        }
        Some(text)
    }

    /// The authority without its port, lower case.
    pub fn host(&self) -> String {
        let host = match self.authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.ends_with(':') => host,
            _ => self.authority,
        };
        host.trim_end_matches('.').to_ascii_lowercase()
    }
}

/// The facts of the connection that a request or flow arrived on.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConnectionFacts<'a> {
    /// Who dialled.
    pub source_ip: Option<IpAddr>,
    /// The client behind trusted hops; the same as [`Self::source_ip`] without any.
    pub remote_ip: Option<IpAddr>,
    /// What was dialled.
    pub destination_ip: Option<IpAddr>,
    /// The name in the ClientHello.
    pub sni: Option<&'a str>,
    /// A flow of UDP datagrams.
    pub udp: bool,
}

/// What a verified token says.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Claims {
    /// All claims; those that are lists separated by spaces are lists here.
    pub all: Map<String, Value>,
}

impl Claims {
    /// `<iss>/<sub>`, the request principal; `None` when either is missing.
    pub fn principal(&self) -> Option<String> {
        let text = |name: &str| self.all.get(name).and_then(Value::as_str);
        Some(format!("{}/{}", text("iss")?, text("sub")?))
    }

    /// A claim as texts: a list gives its elements, a text or number itself; nested by path.
    pub fn texts(&self, path: &[impl AsRef<str>]) -> Vec<String> {
        let Some((first, rest)) = path.split_first() else { return Vec::new() };
        let found = rest.iter().try_fold(self.all.get(first.as_ref()), |value, name| match value {
            Some(Value::Object(members)) => Some(members.get(name.as_ref())),
            _ => None,
        });
        match found.flatten() {
            Some(Value::Array(items)) => items.iter().filter_map(text).collect(),
            Some(value) => text(value).into_iter().collect(),
            None => Vec::new(),
        }
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}
