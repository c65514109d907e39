//! What the echo server says about itself and about the request.

use std::collections::BTreeMap;

use http::HeaderMap;
use serde::{Deserialize, Serialize};

/// Who serves: told by the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whoami {
    /// The pod.
    pub pod: String,
    /// Its cluster.
    pub cluster: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Its `version` label.
    pub version: String,
}

impl Whoami {
    /// Reads `POD`, `CLUSTER`, `NAMESPACE`, `SERVICE_ACCOUNT` and `VERSION`.
    pub fn from_environment() -> Self {
        let read = |name| std::env::var(name).unwrap_or_default();
        Self {
            pod: read("POD"),
            cluster: read("CLUSTER"),
            namespace: read("NAMESPACE"),
            service_account: read("SERVICE_ACCOUNT"),
            version: read("VERSION"),
        }
    }
}

/// The JSON answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Who served.
    #[serde(flatten)]
    pub whoami: Whoami,
    /// `http/1.1`, `http/2`, `grpc` or `tcp`.
    pub protocol: String,
    /// Request method.
    pub method: String,
    /// Request path with its query.
    pub path: String,
    /// Request headers; repeated ones joined by `, `.
    pub headers: BTreeMap<String, String>,
    /// The SPIFFE id for which the sidecar vouched in `x-forwarded-client-cert`; empty = none.
    pub client_identity: String,
    /// Size of the request body in bytes.
    pub body_bytes: u64,
}

impl Answer {
    /// Describes a request.
    pub(super) fn new(whoami: &Whoami, head: &http::request::Parts, protocol: &str, body_bytes: u64) -> Self {
        Self {
            whoami: whoami.clone(),
            protocol: protocol.to_owned(),
            method: head.method.to_string(),
            path: head.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
            headers: headers(&head.headers),
            client_identity: client_identity(&head.headers).unwrap_or_default(),
            body_bytes,
        }
    }
}

/// The `URI=` of the last element, which is the own sidecar's, of `x-forwarded-client-cert`.
pub fn client_identity(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("x-forwarded-client-cert")?.to_str().ok()?;
    let element = value.rsplit(',').next()?;
    let uri = element.split(';').find_map(|pair| pair.trim().strip_prefix("URI="))?;
    Some(uri.trim_matches('"').to_owned())
}

pub(super) fn headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        let text = texts.entry(name.to_string()).or_default();
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(&value);
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_identity_is_the_uri_of_the_certificate() {
        let mut headers = HeaderMap::new();
        assert_eq!(client_identity(&headers), None);
        let value = "By=spiffe://west.demo/ns/default/sa/reviews;Hash=abc;URI=spiffe://east.demo/ns/default/sa/web";
        headers.insert("x-forwarded-client-cert", value.parse().expect("a header value"));
        assert_eq!(client_identity(&headers).as_deref(), Some("spiffe://east.demo/ns/default/sa/web"));
    }
}
