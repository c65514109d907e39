//! Connections whose bytes are opaque.

use super::check_all;

#[test]
fn an_allow_rule_that_looks_at_http_allows_no_connection() {
    check_all(&[
        ("ALLOW any", "tcp", "allow"),
        ("ALLOW to ports=9080", "tcp", "allow"),
        ("ALLOW to ports=80", "tcp", "deny"),
        ("ALLOW to methods=GET", "tcp", "deny"),
        ("ALLOW to methods!=GET", "tcp", "deny"),
        ("ALLOW to paths=/a", "tcp", "deny"),
        ("ALLOW to hosts=a", "tcp", "deny"),
        ("ALLOW to methods=GET ports=9080", "tcp", "deny"),
        ("ALLOW to methods=GET to ports=9080", "tcp", "deny"),
        ("ALLOW to methods=GET; to ports=9080", "tcp", "allow"),
        ("ALLOW from requestPrincipals=*", "tcp", "deny"),
        ("ALLOW from requestPrincipals=* from namespaces=default", "tcp peer=default/web", "deny"),
        ("ALLOW from namespaces=default", "tcp peer=default/web", "allow"),
        ("ALLOW from namespaces=default", "tcp", "deny"),
        ("ALLOW when header:a=1", "tcp", "deny"),
        ("ALLOW when header:a!=1", "tcp", "deny"),
        ("ALLOW when claim:a=1", "tcp", "deny"),
        ("ALLOW when request.auth.audiences!=x", "tcp", "deny"),
        ("ALLOW when request.auth.presenter=x", "tcp", "deny"),
        ("ALLOW when request.auth.principal=x", "tcp", "deny"),
        ("ALLOW when connection.sni=a", "tcp sni=a", "allow"),
        ("ALLOW when source.ip=10.0.0.1", "tcp ip=10.0.0.1", "allow"),
        ("ALLOW when destination.port=9080", "tcp", "allow"),
    ]);
}

#[test]
fn other_rules_leave_out_what_looks_at_http() {
    check_all(&[
        ("DENY to methods=GET", "tcp", "deny"),
        ("DENY to methods=GET ports=9080", "tcp", "deny"),
        ("DENY to methods=GET ports=80", "tcp", "allow"),
        ("DENY to methods!=GET", "tcp", "deny"),
        ("DENY to paths=/admin*", "tcp", "deny"),
        ("DENY from requestPrincipals=x", "tcp", "deny"),
        ("DENY from requestPrincipals=x namespaces=default", "tcp peer=other/web", "allow"),
        ("DENY from requestPrincipals=x namespaces=default", "tcp peer=default/web", "deny"),
        ("DENY when header:a=1", "tcp", "deny"),
        ("DENY when claim:a=1 source.ip=10.0.0.1", "tcp ip=10.0.0.2", "allow"),
        ("DENY when claim:a=1 source.ip=10.0.0.1", "tcp ip=10.0.0.1", "deny"),
        ("DENY from namespaces=default", "tcp peer=default/web", "deny"),
        ("DENY from namespaces=default", "tcp peer=other/web", "allow"),
        ("AUDIT to methods=GET", "tcp", "allow audit"),
        ("CUSTOM:opa to methods=GET", "tcp", "allow ask opa"),
        ("CUSTOM:http-opa any", "tcp", "allow"),
        ("CUSTOM:http-opa any", "", "allow ask http-opa"),
        ("DENY to methods=GET\nALLOW any", "tcp", "deny"),
    ]);
}
