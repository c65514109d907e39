//! `to`.

use super::check_all;

#[test]
fn hosts_ignore_case_and_are_compared_with_and_without_the_port() {
    check_all(&[
        ("ALLOW to hosts=reviews", "host=reviews", "allow"),
        ("ALLOW to hosts=reviews", "host=reviews:9080", "allow"),
        ("ALLOW to hosts=reviews:9080", "host=reviews:9080", "allow"),
        ("ALLOW to hosts=reviews:9080", "host=reviews:9081", "deny"),
        ("ALLOW to hosts=reviews:9080", "host=reviews", "deny"),
        ("ALLOW to hosts=Reviews.Example", "host=rEVIEWS.eXAMPLE", "allow"),
        ("ALLOW to hosts=*.example.com", "host=a.example.com", "allow"),
        ("ALLOW to hosts=*.example.com", "host=a.example.com:443", "allow"),
        ("ALLOW to hosts=*.example.com", "host=example.com", "deny"),
        ("ALLOW to hosts=api.*", "host=API.example.com", "allow"),
        ("ALLOW to hosts=example.com:*", "host=example.com:8080", "allow"),
        ("ALLOW to hosts=*", "host=x", "allow"),
        ("ALLOW to hosts=a,b", "host=b", "allow"),
        ("DENY to hosts=admin.example.com", "host=ADMIN.example.com:80", "deny"),
        ("DENY to hosts=admin.example.com", "host=www.example.com", "allow"),
        ("DENY to hosts!=www.example.com", "host=www.example.com:80", "allow"),
        ("DENY to hosts!=www.example.com", "host=evil.example.com", "deny"),
        ("ALLOW to hosts=[::1]", "host=[::1]:80", "allow"),
        ("ALLOW to hosts=example.com", "host=example.com.", "allow"),
    ]);
}

#[test]
fn methods_and_ports() {
    check_all(&[
        ("ALLOW to methods=GET", "method=GET", "allow"),
        ("ALLOW to methods=GET", "method=get", "deny"),
        ("ALLOW to methods=GET,HEAD", "method=HEAD", "allow"),
        ("ALLOW to methods=GET", "method=POST", "deny"),
        ("ALLOW to methods=*", "method=PATCH", "allow"),
        ("ALLOW to methods=P*", "method=PATCH", "allow"),
        ("ALLOW to methods!=DELETE", "method=DELETE", "deny"),
        ("ALLOW to methods!=DELETE", "method=GET", "allow"),
        ("DENY to methods!=GET", "method=POST", "deny"),
        ("ALLOW to ports=9080", "port=9080", "allow"),
        ("ALLOW to ports=9080", "port=9081", "deny"),
        ("ALLOW to ports=80,9080", "port=80", "allow"),
        ("ALLOW to ports!=9080", "port=9080", "deny"),
        ("DENY to ports!=9080", "port=9081", "deny"),
        ("ALLOW to methods=GET ports=9080", "port=9080", "allow"),
        ("ALLOW to methods=PUT ports=9080", "port=9080", "deny"),
        ("ALLOW to methods=PUT to ports=9080", "port=9080", "allow"),
        ("ALLOW to", "", "allow"),
    ]);
}

#[test]
fn paths_are_compared_normalised_and_without_their_query() {
    check_all(&[
        ("ALLOW to paths=/api", "path=/api", "allow"),
        ("ALLOW to paths=/api", "path=/api?x=1", "allow"),
        ("ALLOW to paths=/api", "path=/api/", "deny"),
        ("ALLOW to paths=/api", "path=/API", "deny"),
        ("ALLOW to paths=/api/*", "path=/api/x", "allow"),
        ("ALLOW to paths=/api/*", "path=/api", "deny"),
        ("ALLOW to paths=/api/*", "path=/api/", "allow"),
        ("ALLOW to paths=/api/*", "path=/api/../admin", "deny"),
        ("ALLOW to paths=/api/*", "path=/api/%2e%2e/admin", "deny"),
        ("ALLOW to paths=/api/*", r"path=/api/..\admin", "deny"),
        ("ALLOW to paths=*.txt", "path=/a/b.txt", "allow"),
        ("ALLOW to paths=*.txt", "path=/a/b?x=.txt", "deny"),
        ("ALLOW to paths=*", "path=/", "allow"),
        ("DENY to paths=/admin*", "path=/admin", "deny"),
        ("DENY to paths=/admin*", "path=/x/../admin", "deny"),
        ("DENY to paths=/admin*", "path=/./admin", "deny"),
        ("DENY to paths=/admin*", "path=/%61dmin", "deny"),
        ("DENY to paths=/admin*", "path=/a%64min/x", "deny"),
        ("DENY to paths=/admin*", r"path=\admin", "deny"),
        ("DENY to paths=/admin*", "path=//admin", "allow"),
        ("DENY to paths=/admin*", "path=/x%2F..%2Fadmin", "allow"),
        ("DENY to paths!=/api/*", "path=/api/x", "allow"),
        ("DENY to paths!=/api/*", "path=/api/../x", "deny"),
        ("DENY to paths!=/healthz", "path=/healthz", "allow"),
        ("ALLOW to paths=/a,/b", "path=/b", "allow"),
        ("ALLOW to paths=/api/* paths!=/api/secret", "path=/api/secret", "deny"),
        ("ALLOW to paths=/api/* paths!=/api/secret", "path=/api/open", "allow"),
    ]);
}

#[test]
fn path_templates() {
    check_all(&[
        ("ALLOW to paths=/users/{*}/orders", "path=/users/7/orders", "allow"),
        ("ALLOW to paths=/users/{*}/orders", "path=/users/7/orders?x=1", "allow"),
        ("ALLOW to paths=/users/{*}/orders", "path=/users/7/8/orders", "deny"),
        ("ALLOW to paths=/users/{*}/orders", "path=/users//orders", "deny"),
        ("ALLOW to paths=/users/{*}", "path=/users/7", "allow"),
        ("ALLOW to paths=/users/{*}", "path=/users/7/../../admin", "deny"),
        ("ALLOW to paths=/static/{**}", "path=/static/a/b/c.css", "allow"),
        ("ALLOW to paths=/static/{**}", "path=/statics", "deny"),
        ("ALLOW to paths=/{*}/x/{**}", "path=/a/x/y/z", "allow"),
        ("ALLOW to paths=/{*}/x/{**}", "path=/a/y/x/z", "deny"),
        ("DENY to paths=/{**}/secret", "path=/a/b/secret", "deny"),
        ("DENY to paths=/{**}/secret", "path=/a/b/public", "allow"),
        ("DENY to paths!=/ok/{*}", "path=/ok/1", "allow"),
        ("DENY to paths!=/ok/{*}", "path=/ok/1/2", "deny"),
        ("ALLOW to paths=/a/{*},/b", "path=/b", "allow"),
    ]);
}
