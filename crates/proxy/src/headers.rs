//! What happens to headers on the way: what belongs to one hop only, what the mesh adds, what it never believes.

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, COOKIE, EXPECT,
    FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::Authority;
use http::{Request, Uri};
use identity::PeerIdentity;
use mesh::{AdmittedRequest, HeadRefusal, HeadRules, RequestHead, SpiffeId};

/// Tells the server's sidecar which port is meant: of the workload or of the service.
pub const PORT: HeaderName = HeaderName::from_static("x-isthmus-port");
/// Set on answers that a proxy made itself: the reason in kebab case.
pub const DENIAL: HeaderName = HeaderName::from_static("x-isthmus-denial");
/// The identity that the server's sidecar verified, for its application.
pub const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// One id for a request on all its hops.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Whether a request may be carried on (`mesh::admit_request`), and for whom it is. From here on its `host`, if it has one,
/// says the same as its target, its path is normalised, and what its `connection` names is gone.
pub fn admit<B>(request: &mut Request<B>, rules: HeadRules) -> Result<Authority, HeadRefusal> {
    let (method, target, headers) = (request.method(), request.uri(), request.headers());
    let head = RequestHead { method, target, version: request.version(), headers, rules };
    let AdmittedRequest { authority, path, nominated } = mesh::admit_request(&head)?;
    for name in nominated {
        request.headers_mut().remove(name);
    }
    if let Some(path) = path {
        let target = request.uri().query().map_or(path.clone(), |query| format!("{path}?{query}"));
        // What was admitted is the normalised path, so that the given one may not go on in its place.
        set_path_and_query(request, &target).ok_or(HeadRefusal::PathEscape)?;
    }
    if request.uri().authority().is_some()
        && let Some(host) = request.headers_mut().get_mut(HOST)
        && let Ok(named) = HeaderValue::from_str(authority.as_str())
    {
        *host = named;
    }
    Ok(authority)
}

/// Replaces path and query; `None`: they are none, and nothing has changed.
pub fn set_path_and_query<B>(request: &mut Request<B>, target: &str) -> Option<()> {
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = Some(target.parse().ok()?);
    *request.uri_mut() = Uri::from_parts(parts).ok()?;
    Some(())
}

/// Removes from trailers what has a meaning only in a head (RFC 9110 §6.5.1): servers that merge the two would believe it.
pub fn clean_trailers(trailers: &mut HeaderMap) {
    strip_hop(trailers);
    strip_claims(trailers);
    for name in [HOST, CONTENT_LENGTH, CONTENT_TYPE, CONTENT_ENCODING, CONTENT_RANGE, AUTHORIZATION, COOKIE, EXPECT] {
        trailers.remove(name);
    }
    for name in [TRAILER, SET_COOKIE, FORWARDED, HeaderName::from_static("x-forwarded-for"), FORWARDED_PROTO] {
        trailers.remove(name);
    }
}

/// Removes what concerns one hop only (RFC 9110 §7.6.1), and whatever `connection` names. `te: trailers` stays: gRPC
/// servers ask for it.
pub fn strip_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    // A client may not talk us out of headers that routing and framing rest on.
    for name in named.into_iter().filter(|name| *name != HOST && *name != TE) {
        headers.remove(name);
    }
    let trailers = headers.get(TE).is_some_and(|value| {
        value.to_str().is_ok_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case("trailers")))
    });
    for name in [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE, TE, HTTP2_SETTINGS] {
        headers.remove(name);
    }
    for name in [PROXY_AUTHENTICATE, PROXY_AUTHORIZATION] {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Removes what only the mesh itself may say; a workload that sends it is not believed.
pub fn strip_claims(headers: &mut HeaderMap) {
    headers.remove(XFCC);
    strip_internal(headers);
}

/// Removes what tells the first proxy how to treat a request (`mesh::STEERING_HEADERS`).
pub fn strip_steering(headers: &mut HeaderMap) {
    if headers.keys().any(|name| name.as_str().starts_with(mesh::PROXIES_HEADERS)) {
        for name in mesh::STEERING_HEADERS {
            headers.remove(name);
        }
    }
}

/// Removes what only proxies say (`mesh::PROXIES_HEADERS`), of requests of strangers.
pub fn strip_proxies_words(headers: &mut HeaderMap) {
    strip_prefix(headers, mesh::PROXIES_HEADERS);
}

/// Removes what only the proxies of the mesh say to each other.
pub fn strip_internal(headers: &mut HeaderMap) {
    strip_prefix(headers, "x-isthmus-");
}

fn strip_prefix(headers: &mut HeaderMap, prefix: &str) {
    let found: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with(prefix)).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

/// Makes sure of a request id and returns it.
pub fn request_id(headers: &mut HeaderMap) -> String {
    if let Some(id) = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(|id| id.len() <= 128) {
        return id.to_owned();
    }
    let bits: u128 = rand::random();
    let (high, low) = ((bits >> 64) as u64, bits as u64);
    // The version and variant bits of a random UUID (RFC 9562 §5.4).
    let id = format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        0x8000 | ((low >> 48) & 0x3fff),
        low & 0xffff_ffff_ffff,
    );
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    id
}

/// Says how the client came, unless a proxy before us did.
pub fn forwarded_proto(headers: &mut HeaderMap) {
    forwarded_scheme(headers, "http");
}

/// Says that the client came by this scheme, unless a proxy before us did.
pub fn forwarded_scheme(headers: &mut HeaderMap, scheme: &'static str) {
    headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static(scheme));
}

/// The authority that a request is for: of its URI, else its `host`.
pub fn authority<B>(request: &Request<B>) -> Option<Authority> {
    let host = || request.headers().get(HOST)?.to_str().ok()?.parse().ok();
    request.uri().authority().cloned().or_else(host)
}

/// Rewrites the URI to `http://<authority><path>`, which is what an HTTP/2 client wants, and drops `host`.
pub fn to_http2<B>(request: &mut Request<B>, authority: &Authority) {
    *request.uri_mut() = absolute(authority, request.uri());
    *request.version_mut() = http::Version::HTTP_2;
    request.headers_mut().remove(HOST);
}

/// Rewrites the URI to its path and sets `host`, which is what an HTTP/1.1 server wants.
pub fn to_http1<B>(request: &mut Request<B>, authority: &Authority) {
    let path = request.uri().path_and_query().cloned();
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = path.or_else(|| "/".parse().ok());
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    *request.version_mut() = http::Version::HTTP_11;
    join_cookies(request.headers_mut());
    if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
        request.headers_mut().insert(HOST, host);
    }
}

/// `http://<authority><path of uri>`.
pub fn absolute(authority: &Authority, uri: &Uri) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(http::uri::Scheme::HTTP);
    parts.authority = Some(authority.clone());
    parts.path_and_query = uri.path_and_query().cloned().or_else(|| "/".parse().ok());
    Uri::from_parts(parts).unwrap_or_default()
}

/// HTTP/2 may split cookies over several headers; HTTP/1.1 wants one (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(http::header::COOKIE).iter().count() < 2 {
        return;
    }
    let parts: Vec<&[u8]> = headers.get_all(http::header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
        headers.insert(http::header::COOKIE, joined);
    }
}

/// Replaces `x-forwarded-client-cert` by what the TLS connection proved, in Envoy's format.
pub fn rewrite_xfcc(headers: &mut HeaderMap, own: Option<&SpiffeId>, peer: &PeerIdentity) {
    headers.remove(XFCC);
    let by = own.map(|own| format!("By={own};")).unwrap_or_default();
    let value = format!("{by}Hash={};Subject=\"\";URI={}", hex(&peer.fingerprint), peer.id);
    if let Ok(value) = HeaderValue::from_str(&value) {
        headers.insert(XFCC, value);
    }
}

/// Adds what the TLS connection proved behind what the peer's proxy says of its own client (Istio's `APPEND_FORWARD`).
pub fn append_xfcc(headers: &mut HeaderMap, own: Option<&SpiffeId>, peer: &PeerIdentity) {
    let before: Vec<HeaderValue> = headers.get_all(XFCC).iter().cloned().collect();
    rewrite_xfcc(headers, own, peer);
    let elements: Vec<&[u8]> = before.iter().chain(headers.get(XFCC)).map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&elements.join(&b","[..])) {
        headers.insert(XFCC, joined);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        use std::fmt::Write;
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn hop_headers_and_what_connection_names_do_not_pass() {
        let mut given = headers(&[
            ("connection", "close, x-secret, host"),
            ("x-secret", "1"),
            ("te", "trailers, deflate"),
            ("host", "reviews"),
            ("transfer-encoding", "chunked"),
            ("proxy-authorization", "basic x"),
            ("x-kept", "1"),
        ]);
        strip_hop(&mut given);
        assert_eq!(given, headers(&[("host", "reviews"), ("x-kept", "1"), ("te", "trailers")]));
    }

    #[test]
    fn trailers_say_nothing_that_belongs_in_a_head() {
        let mut given = headers(&[
            ("grpc-status", "0"),
            ("x-checksum", "1"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("host", "b"),
            ("authorization", "x"),
            ("x-forwarded-client-cert", "By=me"),
            ("x-isthmus-denial", "policy"),
            ("set-cookie", "a=1"),
        ]);
        clean_trailers(&mut given);
        assert_eq!(given, headers(&[("grpc-status", "0"), ("x-checksum", "1")]));
    }

    #[test]
    fn the_target_wins_and_what_connection_names_is_gone() {
        let request = Request::get("http://b/x").header("host", "a").header("connection", "x-hop").header("x-hop", "1");
        let mut request = request.body(()).unwrap();
        let rules = HeadRules { most_headers: mesh::HEADERS_MAX, paths: mesh::PathNormalization::Base };
        assert_eq!(admit(&mut request, rules).unwrap(), "b");
        assert_eq!(request.headers()["host"], "b");
        assert!(!request.headers().contains_key("x-hop"));
    }

    #[test]
    fn the_path_goes_on_as_rules_will_see_it() {
        for (given, expected) in [
            ("http://b/public/../admin?x=/../%2e", "http://b/admin?x=/../%2e"),
            ("/a/%2e%2E/b", "/b"),
            ("/..", "/"),
            ("/a/../..//b?", "//b?"),
            ("*", "*"),
        ] {
            let mut request = Request::options(given).header("host", "b").body(()).unwrap();
            let rules = HeadRules { most_headers: mesh::HEADERS_MAX, paths: mesh::PathNormalization::Base };
            admit(&mut request, rules).unwrap();
            assert_eq!(request.uri(), expected, "{given}");
        }
    }

    #[test]
    fn claims_of_a_workload_are_not_believed() {
        let mut given = headers(&[("x-isthmus-port", "1"), ("x-forwarded-client-cert", "By=me"), ("accept", "*/*")]);
        strip_claims(&mut given);
        assert_eq!(given, headers(&[("accept", "*/*")]));
    }

    #[test]
    fn strangers_say_nothing_in_the_name_of_proxies() {
        let mut given = headers(&[
            ("x-envoy-original-path", "/admin"),
            ("x-envoy-expected-rq-timeout-ms", "1"),
            ("x-envoy-peer-metadata-id", "sidecar~10.0.0.1"),
            ("x-envoyage", "1"),
        ]);
        strip_proxies_words(&mut given);
        assert_eq!(given, headers(&[("x-envoyage", "1")]));
    }

    #[test]
    fn a_request_id_is_kept_or_made() {
        let mut given = headers(&[("x-request-id", "mine")]);
        assert_eq!(request_id(&mut given), "mine");
        let mut given = HeaderMap::new();
        let id = request_id(&mut given);
        assert_eq!((id.len(), given[REQUEST_ID].to_str().unwrap()), (36, id.as_str()));
    }

    #[test]
    fn uris_follow_the_version() {
        let mut request = Request::get("http://reviews:9080/x?y=1").header("cookie", "a=1").body(()).unwrap();
        request.headers_mut().append("cookie", HeaderValue::from_static("b=2"));
        let authority = authority(&request).unwrap();
        to_http1(&mut request, &authority);
        assert_eq!(
            (request.uri().to_string(), &request.headers()["host"]),
            ("/x?y=1".into(), &HeaderValue::from_static("reviews:9080"))
        );
        assert_eq!(request.headers()["cookie"], "a=1; b=2");
        to_http2(&mut request, &authority);
        assert_eq!(request.uri(), "http://reviews:9080/x?y=1");
        assert!(!request.headers().contains_key("host"));
    }
}
