use http::HeaderValue;

use super::*;

/// `<method> <target>[ h2]`, then header fields.
fn check(line: &str, fields: &[(&'static str, &str)]) -> String {
    let mut words = line.split(' ');
    let method: Method = words.next().unwrap().parse().unwrap();
    let target: Uri = words.next().unwrap().parse().unwrap();
    let version = if words.next() == Some("h2") { Version::HTTP_2 } else { Version::HTTP_11 };
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    let rules = HeadRules { most_headers: HEADERS_MAX, paths: PathNormalization::default() };
    match admit_request(&RequestHead { method: &method, target: &target, version, headers: &headers, rules }) {
        Ok(admitted) => {
            let named: Vec<&str> = admitted.nominated.iter().map(HeaderName::as_str).collect();
            let path = admitted.path.map(|path| format!(" as {path}")).unwrap_or_default();
            format!("{}{path} {}", admitted.authority, named.join(",")).trim_end().to_owned()
        }
        Err(refusal) => format!("{} {refusal}", refusal.status().as_u16()),
    }
}

const H: Field = ("host", "a");

/// A header field.
type Field = (&'static str, &'static str);

#[test]
fn targets_and_hosts_mean_one_thing() {
    let long = format!("GET /{}", "x".repeat(TARGET_MAX));
    let cases: &[(&str, &[Field], &str)] = &[
        ("GET /x?y=%", &[H], "a"),
        ("GET /x", &[("host", "Reviews:9080")], "Reviews:9080"),
        ("GET /x", &[("host", "[::1]:80")], "[::1]:80"),
        ("GET /x", &[("host", "10.0.0.1")], "10.0.0.1"),
        ("GET /x", &[("host", "under_score.example")], "under_score.example"),
        ("GET /x", &[], "400 no-host"),
        ("GET /x", &[("host", "")], "400 invalid-host"),
        ("GET /x", &[("host", "a"), ("host", "a")], "400 duplicate-host"),
        ("GET /x", &[("host", "a"), ("host", "b")], "400 duplicate-host"),
        ("GET /x", &[("host", "a b")], "400 invalid-host"),
        ("GET /x", &[("host", "a/b")], "400 invalid-host"),
        ("GET /x", &[("host", "a,b")], "400 invalid-host"),
        ("GET /x", &[("host", "a:")], "400 invalid-host"),
        ("GET /x", &[("host", "a:http")], "400 invalid-host"),
        ("GET /x", &[("host", "a:99999")], "400 invalid-host"),
        ("GET /x", &[("host", ":80")], "400 invalid-host"),
        ("GET /x", &[("host", "[::1")], "400 invalid-host"),
        ("GET /x", &[("host", "[nobody]")], "400 invalid-host"),
        ("GET /x", &[("host", "a%41")], "400 invalid-host"),
        ("GET /x", &[("host", "é")], "400 invalid-host"),
        ("GET /x", &[("host", "me@a")], "400 user-info"),
        ("GET /x", &[("host", "me:secret@a:80")], "400 user-info"),
        ("GET http://b/x", &[H], "b"),
        ("GET http://b/x", &[], "b"),
        ("GET https://b/x", &[H], "b"),
        ("GET http://me@b/x", &[H], "400 user-info"),
        ("GET http://b/x", &[("host", "me@b")], "400 user-info"),
        ("GET http://b/x", &[H, H], "400 duplicate-host"),
        ("GET ftp://b/x", &[H], "400 target-scheme"),
        ("GET b:80", &[H], "400 target-form"),
        ("GET *", &[H], "400 target-form"),
        ("OPTIONS *", &[H], "a"),
        ("OPTIONS /", &[H], "a"),
        ("CONNECT b:80", &[H], "405 connect-not-allowed"),
        ("TRACE /", &[H], "405 trace-not-allowed"),
        ("GET http://a/x h2", &[], "a"),
        ("GET http://a/x h2", &[H], "a"),
        ("GET http://a/x h2", &[("host", "A:80")], "a"),
        ("GET https://a/x h2", &[("host", "a:443")], "a"),
        ("GET http://a/x h2", &[("host", "a:443")], "400 host-mismatch"),
        ("GET http://a/x h2", &[("host", "b")], "400 host-mismatch"),
        ("GET http://a/x h2", &[H, H], "400 duplicate-host"),
        ("GET /x h2", &[H], "a"),
        ("GET /x h2", &[], "400 no-host"),
        ("GET /%41/%c3%a9", &[H], "a as /A/%c3%a9"),
        ("GET /public/../admin?x=/..", &[H], "a as /admin"),
        ("GET /%", &[H], "400 path-escape"),
        ("GET /%4", &[H], "400 path-escape"),
        ("GET /%zz", &[H], "400 path-escape"),
        ("GET /%+1", &[H], "400 path-escape"),
        ("GET /%%41", &[H], "400 path-escape"),
        ("GET /%00", &[H], "400 path-control-character"),
        ("GET /a%0d%0aset-cookie", &[H], "400 path-control-character"),
        ("GET /%7F", &[H], "400 path-control-character"),
        (&long, &[H], "414 target-length"),
    ];
    for (line, fields, expected) in cases {
        assert_eq!(&check(line, fields), expected, "{line} {fields:?}");
    }
}

#[test]
fn bodies_end_where_everybody_thinks_they_do() {
    let cases: &[(&[(&'static str, &str)], &str)] = &[
        (&[("content-length", "5")], "a"),
        (&[("content-length", "05")], "a"),
        (&[("transfer-encoding", "chunked")], "a"),
        (&[("transfer-encoding", "Chunked")], "a"),
        (&[("content-length", "5"), ("content-length", "5")], "400 content-length"),
        (&[("content-length", "5"), ("content-length", "6")], "400 content-length"),
        (&[("content-length", "5, 5")], "400 content-length"),
        (&[("content-length", "")], "400 content-length"),
        (&[("content-length", "+5")], "400 content-length"),
        (&[("content-length", "-5")], "400 content-length"),
        (&[("content-length", "0x5")], "400 content-length"),
        (&[("content-length", "99999999999999999999")], "400 content-length"),
        (&[("content-length", "5"), ("transfer-encoding", "chunked")], "400 length-and-coding"),
        (&[("transfer-encoding", "gzip, chunked")], "501 transfer-coding"),
        (&[("transfer-encoding", "chunked, chunked")], "501 transfer-coding"),
        (&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], "501 transfer-coding"),
        (&[("transfer-encoding", "identity")], "501 transfer-coding"),
        (&[("transfer-encoding", "xchunked")], "501 transfer-coding"),
        (&[("transfer-encoding", "")], "501 transfer-coding"),
        (&[("transfer-encoding", "chunked;q=1")], "501 transfer-coding"),
        (&[("expect", "100-Continue")], "a"),
        (&[("expect", "200-ok")], "417 expectation"),
        (&[("expect", "100-continue"), ("expect", "x")], "417 expectation"),
    ];
    for (fields, expected) in cases {
        let fields: Vec<_> = [H].iter().chain(*fields).copied().collect();
        assert_eq!(&check("POST /x", &fields), expected, "{fields:?}");
    }
}

#[test]
fn connection_names_fields_of_one_hop_and_no_others() {
    let x = ("x-hop", "1");
    let cases: &[(&[(&'static str, &str)], &str)] = &[
        (&[("connection", "close")], "a"),
        (&[("connection", "close, X-Hop"), x], "a x-hop"),
        (&[("connection", "x-hop")], "a"),
        (&[("connection", "close"), ("connection", " x-hop "), x], "a x-hop"),
        (&[("connection", "upgrade, te"), ("upgrade", "websocket"), ("te", "trailers")], "a"),
        (&[("connection", "Upgrade, HTTP2-Settings"), ("http2-settings", "")], "a http2-settings"),
        (&[("connection", "close, X-Forwarded-For")], "400 connection-names-end-to-end-field"),
        (&[("connection", "x-forwarded-client-cert")], "400 connection-names-end-to-end-field"),
        (&[("connection", "x-forwarded-proto")], "400 connection-names-end-to-end-field"),
        (&[("connection", "host")], "400 connection-names-end-to-end-field"),
        (&[("connection", "content-length")], "400 connection-names-end-to-end-field"),
        (&[("connection", "Authorization")], "400 connection-names-end-to-end-field"),
        (&[("connection", "cookie")], "400 connection-names-end-to-end-field"),
        (&[("connection", "x-isthmus-port")], "400 connection-names-end-to-end-field"),
        (&[("connection", "x-envoy-external-address")], "400 connection-names-end-to-end-field"),
        (&[("connection", "x-request-id")], "400 connection-names-end-to-end-field"),
        (&[("connection", "not a name, x-hop"), x], "a x-hop"),
    ];
    for (fields, expected) in cases {
        let fields: Vec<_> = [H].iter().chain(*fields).copied().collect();
        assert_eq!(&check("GET /x", &fields), expected, "{fields:?}");
    }
}

#[test]
fn there_are_so_many_headers_and_no_more() {
    for (count, expected) in [(HEADERS_MAX - 1, "a"), (HEADERS_MAX, "431 too-many-headers")] {
        let mut fields = vec![H];
        fields.extend(std::iter::repeat_n(("x-many", "1"), count));
        assert_eq!(check("GET /x", &fields), expected);
    }
}
