//! Whether the head of a request means one thing to everybody who reads it.
//!
//! A parser makes a head of bytes; this decides whether the head may be carried on. What is let through is read alike by the
//! proxies on its way, by the policies that look at it and by the application behind them. What could be read in two ways is
//! refused rather than repaired, but for what the RFCs say it means: an absolute target wins over `host` (RFC 9112 §3.2.2), a
//! field that `connection` names is not passed on (RFC 9110 §7.6.1), and paths are normalised (RFC 3986 §6.2.2).

use http::header::{self, HeaderMap, HeaderName};
use http::uri::Authority;
use http::{Method, StatusCode, Uri, Version};

use crate::path::{PathNormalization, normalize_path};
use crate::route::PROXIES_HEADERS;

/// The most header fields of a request as clients send it (Envoy's default).
pub const HEADERS_MAX: usize = 100;
/// The same between proxies of the mesh, which add a few of their own.
pub const MESH_HEADERS_MAX: usize = 128;
/// The most bytes of a request's target.
pub const TARGET_MAX: usize = 32 * 1024;

/// The head of a request, as its parser found it.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// The target.
    pub target: &'a Uri,
    /// The version of the connection.
    pub version: Version,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// What the listener wants.
    pub rules: HeadRules,
}

/// What a listener wants of heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadRules {
    /// The most header fields; [`HEADERS_MAX`] or [`MESH_HEADERS_MAX`].
    pub most_headers: usize,
    /// What becomes of paths.
    pub paths: PathNormalization,
}

/// What to carry on instead of what was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmittedRequest {
    /// Whom the request is for.
    pub authority: Authority,
    /// The path in the form that routes, policies and the application see; `None`: it has that form.
    pub path: Option<String>,
    /// Fields that concern this hop only.
    pub nominated: Vec<HeaderName>,
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident => $status:ident, $word:literal;)*) => {
        /// Why a request is not carried on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum HeadRefusal { $($(#[$doc])* $name,)* }

        impl HeadRefusal {
            /// The status that the client gets.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// In kebab case, for logs and clients.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

refusals! {
    /// CONNECT, where nobody asked for a tunnel.
    Connect => METHOD_NOT_ALLOWED, "connect-not-allowed";
    /// TRACE, which would show the client what the mesh tells the application (RFC 9110 §9.3.8).
    Trace => METHOD_NOT_ALLOWED, "trace-not-allowed";
    /// The target is none of the forms that the method may have (RFC 9112 §3.2).
    TargetForm => BAD_REQUEST, "target-form";
    /// The target is of another scheme than `http` or `https`.
    TargetScheme => BAD_REQUEST, "target-scheme";
    /// The target is longer than [`TARGET_MAX`].
    TargetLength => URI_TOO_LONG, "target-length";
    /// The path has a control character, encoded or not.
    PathControl => BAD_REQUEST, "path-control-character";
    /// A `%` in the path is not followed by two hexadecimal digits (RFC 3986 §2.1).
    PathEscape => BAD_REQUEST, "path-escape";
    /// Nothing says whom the request is for.
    NoHost => BAD_REQUEST, "no-host";
    /// There are several `host` fields (RFC 9112 §3.2).
    DuplicateHost => BAD_REQUEST, "duplicate-host";
    /// The host is no host.
    InvalidHost => BAD_REQUEST, "invalid-host";
    /// The authority has a user (RFC 9110 §4.2.4).
    UserInfo => BAD_REQUEST, "user-info";
    /// `:authority` and `host` differ (RFC 9113 §8.3.1).
    HostMismatch => BAD_REQUEST, "host-mismatch";
    /// A transfer coding other than `chunked`, alone and once (RFC 9112 §6.1).
    TransferCoding => NOT_IMPLEMENTED, "transfer-coding";
    /// Both a length and a coding say where the body ends (RFC 9112 §6.3).
    TwoLengths => BAD_REQUEST, "length-and-coding";
    /// The length is no number, or several (RFC 9110 §8.6).
    ContentLength => BAD_REQUEST, "content-length";
    /// `connection` names a field that is not of one hop, such as `x-forwarded-for`.
    Nominated => BAD_REQUEST, "connection-names-end-to-end-field";
    /// An expectation other than `100-continue` (RFC 9110 §10.1.1).
    Expectation => EXPECTATION_FAILED, "expectation";
    /// More header fields than may be.
    TooManyHeaders => REQUEST_HEADER_FIELDS_TOO_LARGE, "too-many-headers";
}

impl std::fmt::Display for HeadRefusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for HeadRefusal {}

/// Whether a request may be carried on, for whom it is, and what of it is not passed on.
pub fn admit_request(head: &RequestHead<'_>) -> Result<AdmittedRequest, HeadRefusal> {
    match *head.method {
        Method::CONNECT => return Err(HeadRefusal::Connect),
        Method::TRACE => return Err(HeadRefusal::Trace),
        _ => {}
    }
    if head.headers.len() > head.rules.most_headers {
        return Err(HeadRefusal::TooManyHeaders);
    }
    check_target(head)?;
    let authority = authority(head)?;
    check_framing(head.headers)?;
    if head.headers.get_all(header::EXPECT).iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
    {
        return Err(HeadRefusal::Expectation);
    }
    Ok(AdmittedRequest { authority, path: settled_path(head)?, nominated: nominated(head.headers)? })
}

fn check_target(head: &RequestHead<'_>) -> Result<(), HeadRefusal> {
    let path = head.target.path();
    let length = head.target.path_and_query().map_or(0, |path| path.as_str().len());
    if length + head.target.authority().map_or(0, |authority| authority.as_str().len()) > TARGET_MAX {
        return Err(HeadRefusal::TargetLength);
    }
    if head.target.scheme_str().is_some_and(|scheme| scheme != "http" && scheme != "https") {
        return Err(HeadRefusal::TargetScheme);
    }
    if path == "*" && *head.method == Method::OPTIONS {
        return Ok(());
    }
    // `GET reviews:9080` is the form of CONNECT.
    if !path.starts_with('/') || (head.target.authority().is_some() && head.target.scheme().is_none()) {
        return Err(HeadRefusal::TargetForm);
    }
    check_path(path)
}

/// The path, if it is to be another one.
fn settled_path(head: &RequestHead<'_>) -> Result<Option<String>, HeadRefusal> {
    let path = head.target.path();
    let settled = normalize_path(path, head.rules.paths).ok_or(HeadRefusal::PathEscape)?;
    Ok((settled != path).then(|| settled.into_owned()))
}

fn check_path(path: &str) -> Result<(), HeadRefusal> {
    if path.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(HeadRefusal::PathControl);
    }
    let mut rest = path.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        let Some([high, low]) = rest.get(at + 1..at + 3) else { return Err(HeadRefusal::PathEscape) };
        match (char::from(*high).to_digit(16), char::from(*low).to_digit(16)) {
            (Some(0 | 1), Some(_)) | (Some(7), Some(15)) => return Err(HeadRefusal::PathControl),
            (Some(_), Some(_)) => rest = &rest[at + 3..],
            _ => return Err(HeadRefusal::PathEscape),
        }
    }
    Ok(())
}

fn authority(head: &RequestHead<'_>) -> Result<Authority, HeadRefusal> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(HeadRefusal::DuplicateHost);
    }
    let host = host.map(|host| {
        let text = host.to_str().map_err(|_| HeadRefusal::InvalidHost)?;
        text.parse::<Authority>().map_err(|_| HeadRefusal::InvalidHost)
    });
    let Some(target) = head.target.authority() else {
        return checked_authority(host.ok_or(HeadRefusal::NoHost)??);
    };
    let target = checked_authority(target.clone())?;
    if let Some(host) = host {
        let (host, default) = (checked_authority(host?)?, default_port(head.target));
        if head.version >= Version::HTTP_2 && !same(&host, &target, default) {
            return Err(HeadRefusal::HostMismatch);
        }
    }
    Ok(target)
}

fn default_port(target: &Uri) -> u16 {
    if target.scheme_str() == Some("https") { 443 } else { 80 }
}

fn same(one: &Authority, other: &Authority, default: u16) -> bool {
    let port = |authority: &Authority| authority.port_u16().unwrap_or(default);
    one.host().eq_ignore_ascii_case(other.host()) && port(one) == port(other)
}

/// An authority that is a host and, if it likes, a port: what `host`, `:authority` and CONNECT may say.
pub fn checked_authority(authority: Authority) -> Result<Authority, HeadRefusal> {
    if authority.as_str().contains('@') {
        return Err(HeadRefusal::UserInfo);
    }
    let host = authority.host();
    let named = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let valid = match literal {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(named),
    };
    let port = &authority.as_str()[host.len()..];
    let port = port.is_empty() || (port.starts_with(':') && authority.port_u16().is_some());
    if valid && port { Ok(authority) } else { Err(HeadRefusal::InvalidHost) }
}

/// Where the body ends, said once.
fn check_framing(headers: &HeaderMap) -> Result<(), HeadRefusal> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let coding = codings.next();
    if codings.next().is_some() || coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err(HeadRefusal::TransferCoding);
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(()) };
    if coding.is_some() {
        return Err(HeadRefusal::TwoLengths);
    }
    // Not even a sign: `parse` alone would take one.
    let digits = !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit);
    let number = length.to_str().is_ok_and(|text| text.parse::<u64>().is_ok());
    if lengths.next().is_none() && digits && number { Ok(()) } else { Err(HeadRefusal::ContentLength) }
}

/// Fields on which more than one hop rests; who makes a proxy drop them hides what the proxies before it found out (Envoy
/// refuses some of them, too).
const END_TO_END: [HeaderName; 8] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::AUTHORIZATION,
    header::COOKIE,
    header::FORWARDED,
    header::CONTENT_TYPE,
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-real-ip"),
];

/// Whether a field is of all hops: of the above, or what proxies say of clients.
fn is_end_to_end(name: &HeaderName) -> bool {
    let text = name.as_str();
    END_TO_END.contains(name)
        || ["x-forwarded-", PROXIES_HEADERS, "x-isthmus-"].iter().any(|prefix| text.starts_with(prefix))
}

/// What `connection` names besides what every proxy drops anyway.
fn nominated(headers: &HeaderMap) -> Result<Vec<HeaderName>, HeadRefusal> {
    let mut found = Vec::new();
    for value in headers.get_all(header::CONNECTION) {
        for option in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            let Ok(name) = HeaderName::from_bytes(option) else { continue };
            if is_end_to_end(&name) {
                return Err(HeadRefusal::Nominated);
            }
            // `te: trailers` is asked for anew on each hop.
            if headers.contains_key(&name) && ![header::CONNECTION, header::UPGRADE, header::TE].contains(&name) {
                found.push(name);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
