//! What a rule changes of requests and answers.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::table;
use crate::policy::{CorsPolicy, HeaderEdits, Pattern, StringMatch};
use crate::request::HttpRequest;
use crate::route::{CorsDecision, apply_headers, cors};

#[track_caller]
fn rewrites(condition: &str, options: &str, cases: &[(&str, &str)]) {
    let config = format!("service reviews v1\nvs reviews\n  {condition} -> reviews ; {options}");
    for (path, expected) in cases {
        let (request, expected) = (format!("GET reviews{path}"), format!("reviews:80 v1-1; {expected}"));
        table(&config, &[(options, &request, &expected)]);
    }
}

#[test]
fn a_prefix_is_replaced_as_it_is() {
    rewrites(
        "path^=/api",
        "rewrite=/v1",
        &[("/api", "path /v1"), ("/api/x?y=1", "path /v1/x?y=1"), ("/apis", "path /v1s")],
    );
    rewrites("path^=/api/", "rewrite=/", &[("/api/", "path /"), ("/api/x", "path /x")]);
    // Envoy neither adds nor takes away slashes.
    rewrites("path^=/api", "rewrite=/", &[("/api", "path /"), ("/api/x", "path //x")]);
    rewrites("path^=/api/", "rewrite=/v1", &[("/api/x", "path /v1x")]);
    rewrites("PATH^=/Api", "rewrite=/v1", &[("/aPI/x", "path /v1/x")]);
    rewrites("path^=/", "rewrite=/v1/", &[("/x", "path /v1/x")]);
    // Without a condition on the path the prefix is `/`.
    rewrites("", "rewrite=/", &[("/x?y", "path /x?y")]);
    rewrites("method=GET", "rewrite=/v1/", &[("/x", "path /v1/x")]);
}

#[test]
fn a_whole_path_is_replaced_where_the_whole_was_matched() {
    rewrites("path=/api", "rewrite=/v1", &[("/api?x", "path /v1?x"), ("/api", "path /v1")]);
    rewrites("path~=/api/.*", "rewrite=/v1", &[("/api/a/b?x=1", "path /v1?x=1")]);
}

#[test]
fn expressions_are_substituted_everywhere_in_the_path() {
    rewrites("", r"regex=/(\w+)/(\w+)=>/\2/\1", &[("/a/b", "path /b/a"), ("/a/b/c/d?e", "path /b/a/d/c?e")]);
    rewrites("", r"regex=^/old=>/new", &[("/old/old?x=/old", "path /new/old?x=/old"), ("/x", "path /x")]);
    rewrites("", r"regex=b=>\\\0\9", &[("/abc", r"path /a\bc")]);
    rewrites("", r"regex=b=>", &[("/abc", "path /ac")]);
}

#[test]
fn the_authority_is_rewritten_or_set() {
    rewrites("", "authority=b.example", &[("/", "host b.example")]);
    rewrites("", "host=c.example", &[("/", "host c.example")]);
    rewrites("", "authority=b.example host=c.example", &[("/", "host b.example")]);
    rewrites("path^=/a", "rewrite=/b authority=b.example", &[("/a", "path /b; host b.example")]);
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pair =
        |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    let mut map = HeaderMap::new();
    for (name, value) in pairs.iter().map(pair) {
        map.append(name, value);
    }
    map
}

#[test]
fn headers_are_removed_set_and_added() {
    let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    let edits = HeaderEdits {
        set: map(&[("a", "1"), ("host", "x"), (":authority", "x"), ("bad name", "x"), ("e", "line\nbreak")]),
        add: map(&[("b", "3"), ("f", "4")]),
        remove: vec!["c".into(), "host".into(), ":path".into(), String::new()],
    };
    let mut given = headers(&[("a", "0"), ("a", "00"), ("b", "2"), ("c", "5"), ("d", "6"), ("host", "h")]);
    apply_headers(&edits, &mut given);
    let expected = headers(&[("a", "1"), ("b", "2"), ("b", "3"), ("d", "6"), ("f", "4"), ("host", "h")]);
    assert_eq!(given, expected);
}

fn policy() -> CorsPolicy {
    CorsPolicy {
        allow_origins: vec![
            StringMatch::Exact("https://a.example".into()),
            StringMatch::Prefix("https://b.".into()),
            StringMatch::Regex(Pattern::new("https://[cd]\\.example").unwrap()),
        ],
        allow_methods: vec!["GET".into(), "PUT".into()],
        allow_headers: vec!["x-a".into()],
        expose_headers: vec!["x-b".into(), "x-c".into()],
        max_age: Some(std::time::Duration::from_secs(600)),
        allow_credentials: Some(true),
        answer_unmatched_preflights: false,
    }
}

fn decide(policy: &CorsPolicy, method: &str, pairs: &[(&'static str, &'static str)]) -> CorsDecision {
    let headers = headers(pairs);
    cors(policy, &HttpRequest { method, scheme: "http", authority: "reviews", path_and_query: "/", headers: &headers })
}

const ASKS: (&str, &str) = ("access-control-request-method", "PUT");

#[test]
fn preflights_of_allowed_origins_are_answered() {
    let expected = headers(&[
        ("access-control-allow-origin", "https://b.example"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "GET,PUT"),
        ("access-control-allow-headers", "x-a"),
        ("access-control-max-age", "600"),
    ]);
    let answer = decide(&policy(), "OPTIONS", &[("origin", "https://b.example"), ASKS]);
    assert_eq!(answer, CorsDecision::Preflight(expected));
}

#[test]
fn answers_to_allowed_origins_say_so() {
    let expected = |origin| {
        CorsDecision::Headers(headers(&[
            ("access-control-allow-origin", origin),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "x-b,x-c"),
        ]))
    };
    for origin in ["https://a.example", "https://b.x", "https://d.example"] {
        assert_eq!(decide(&policy(), "GET", &[("origin", origin)]), expected(origin));
        // OPTIONS that asks for nothing is a request like any other.
        assert_eq!(decide(&policy(), "OPTIONS", &[("origin", origin)]), expected(origin));
    }
    let plain = CorsPolicy { allow_credentials: Some(false), expose_headers: Vec::new(), ..policy() };
    let answer = decide(&plain, "GET", &[("origin", "https://a.example")]);
    let expected = headers(&[("access-control-allow-origin", "https://a.example")]);
    assert_eq!(answer, CorsDecision::Headers(expected));
}

#[test]
fn other_origins_get_nothing() {
    let answering = CorsPolicy { answer_unmatched_preflights: true, ..policy() };
    let other = ("origin", "https://e.example");
    assert_eq!(decide(&policy(), "GET", &[]), CorsDecision::Nothing);
    assert_eq!(decide(&policy(), "GET", &[("origin", "")]), CorsDecision::Nothing);
    assert_eq!(decide(&policy(), "GET", &[other]), CorsDecision::Nothing);
    assert_eq!(decide(&policy(), "OPTIONS", &[other, ASKS]), CorsDecision::Nothing);
    assert_eq!(decide(&answering, "OPTIONS", &[other, ASKS]), CorsDecision::Preflight(HeaderMap::new()));
    assert_eq!(decide(&answering, "GET", &[other]), CorsDecision::Nothing);
    let any = CorsPolicy { allow_origins: vec![StringMatch::Exact("*".into())], ..CorsPolicy::default() };
    let expected = headers(&[("access-control-allow-origin", "https://e.example")]);
    assert_eq!(decide(&any, "GET", &[other]), CorsDecision::Headers(expected));
}
