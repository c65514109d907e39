//! `when`.

use super::check_all;

#[test]
fn headers() {
    check_all(&[
        ("ALLOW when header:x-role=admin", "h:x-role=admin", "allow"),
        ("ALLOW when header:x-role=admin", "h:x-role=Admin", "deny"),
        ("ALLOW when header:x-role=admin", "", "deny"),
        ("ALLOW when header:x-role=admin,ops", "h:x-role=ops", "allow"),
        ("ALLOW when header:x-role=ad*", "h:x-role=admin", "allow"),
        ("ALLOW when header:x-role=*min", "h:x-role=admin", "allow"),
        ("ALLOW when header:x-role=*", "h:x-role=x", "allow"),
        ("ALLOW when header:x-role=*", "h:x-role=", "allow"),
        ("ALLOW when header:x-role=*", "", "deny"),
        ("ALLOW when header:x-role=a,b", "h:x-role=a h:x-role=b", "deny"),
        ("ALLOW when header:x-role=a*", "h:x-role=a h:x-role=b", "allow"),
        ("DENY when header:x-role!=admin", "", "deny"),
        ("DENY when header:x-role!=admin", "h:x-role=admin", "allow"),
        ("DENY when header:x-role!=*", "", "deny"),
        ("DENY when header:x-role!=*", "h:x-role=x", "allow"),
        ("DENY when header:user-agent=evil*", "h:user-agent=evil/1.0", "deny"),
        ("ALLOW when header:a=1 header:b=2", "h:a=1 h:b=2", "allow"),
        ("ALLOW when header:a=1 header:b=2", "h:a=1", "deny"),
        ("ALLOW when header::method=GET", "method=GET", "allow"),
        ("ALLOW when header:host=reviews", "host=reviews", "allow"),
    ]);
}

#[test]
fn claims_are_texts_or_lists_of_texts() {
    let token = r#"claims={"group":"admin","groups":["dev","ops"],"n":7,"ok":true,"a":{"b":["x"],"c":"y"}}"#;
    check_all(&[
        ("ALLOW when claim:group=admin", token, "allow"),
        ("ALLOW when claim:group=dev", token, "deny"),
        ("ALLOW when claim:groups=ops", token, "allow"),
        ("ALLOW when claim:groups=dev,qa", token, "allow"),
        ("ALLOW when claim:groups=qa", token, "deny"),
        ("ALLOW when claim:groups=o*", token, "allow"),
        ("ALLOW when claim:groups=*", token, "allow"),
        ("ALLOW when claim:none=*", token, "deny"),
        ("ALLOW when claim:a/b=x", token, "allow"),
        ("ALLOW when claim:a/c=y", token, "allow"),
        ("ALLOW when claim:a/d=y", token, "deny"),
        ("ALLOW when claim:a=y", token, "deny"),
        ("ALLOW when claim:group/x=admin", token, "deny"),
        ("ALLOW when claim:n=7", token, "deny"),
        ("ALLOW when claim:ok=true", token, "deny"),
        ("ALLOW when claim:group=admin", "", "deny"),
        ("DENY when claim:group!=admin", "", "deny"),
        ("DENY when claim:group!=admin", token, "allow"),
        ("DENY when claim:groups!=ops", token, "allow"),
        ("DENY when claim:groups!=qa", token, "deny"),
        ("ALLOW when claim:groups=dev claim:groups!=ops", token, "deny"),
    ]);
}

#[test]
fn principals_audiences_and_presenters_of_tokens() {
    let token = r#"claims={"iss":"i","sub":"s","aud":["web","api"],"azp":"client-1"}"#;
    let single = r#"claims={"iss":"i","sub":"s","aud":"web"}"#;
    check_all(&[
        ("ALLOW when request.auth.principal=i/s", token, "allow"),
        ("ALLOW when request.auth.principal=i/t", token, "deny"),
        ("ALLOW when request.auth.principal=*", "", "deny"),
        ("DENY when request.auth.principal!=*", "", "deny"),
        ("ALLOW when request.auth.audiences=api", token, "allow"),
        ("ALLOW when request.auth.audiences=web", single, "allow"),
        ("ALLOW when request.auth.audiences=api", single, "deny"),
        ("ALLOW when request.auth.audiences=w*", single, "allow"),
        ("ALLOW when request.auth.audiences=api", "", "deny"),
        ("ALLOW when request.auth.presenter=client-1", token, "allow"),
        ("ALLOW when request.auth.presenter=client-1", single, "deny"),
        ("DENY when request.auth.presenter!=client-1", single, "deny"),
        ("DENY when request.auth.presenter!=client-1", token, "allow"),
    ]);
}

#[test]
fn the_connection() {
    check_all(&[
        ("ALLOW when source.ip=10.0.0.0/8", "ip=10.0.0.1", "allow"),
        ("ALLOW when source.ip=10.0.0.1", "ip=10.0.0.2", "deny"),
        ("ALLOW when source.ip!=10.0.0.1", "", "allow"),
        ("ALLOW when remote.ip=1.2.3.4", "ip=10.0.0.1 remote=1.2.3.4", "allow"),
        ("ALLOW when remote.ip=1.2.3.4", "ip=1.2.3.4 remote=10.0.0.1", "deny"),
        ("ALLOW when destination.ip=10.0.0.0/8", "dst=10.9.9.9", "allow"),
        ("ALLOW when destination.ip=10.0.0.0/8", "dst=11.9.9.9", "deny"),
        ("ALLOW when destination.ip=10.0.0.0/8", "", "deny"),
        ("ALLOW when destination.ip!=10.0.0.0/8", "dst=10.9.9.9", "deny"),
        ("ALLOW when destination.port=9080", "", "allow"),
        ("ALLOW when destination.port=80,81", "", "deny"),
        ("DENY when destination.port!=9080", "port=22", "deny"),
        ("ALLOW when connection.sni=www.example.com", "sni=www.example.com", "allow"),
        ("ALLOW when connection.sni=*.example.com", "sni=www.example.com", "allow"),
        ("ALLOW when connection.sni=*.example.com", "sni=www.example.org", "deny"),
        ("ALLOW when connection.sni=*.example.com", "", "deny"),
        ("DENY when connection.sni!=www.example.com", "", "deny"),
        ("ALLOW when source.namespace=default", "peer=default/web", "allow"),
        ("ALLOW when source.namespace=default", "peer=other/web", "deny"),
        ("ALLOW when source.namespace=default", "", "deny"),
        ("ALLOW when source.principal=east.demo/ns/default/sa/web", "peer=default/web", "allow"),
        ("ALLOW when source.principal=*/sa/db", "peer=default/web", "deny"),
        ("DENY when source.principal!=*", "", "deny"),
        ("ALLOW when source.serviceAccount=default/web", "peer=default/web", "allow"),
        ("ALLOW when source.serviceAccount=default/db", "peer=default/web", "deny"),
        ("ALLOW when source.trustDomain=east.demo", "peer=default/web", "allow"),
        ("ALLOW when source.trustDomain=east.demo", "peer=west.demo/default/web", "deny"),
    ]);
}

#[test]
fn sources_operations_and_conditions_must_all_match() {
    let policy = "ALLOW from namespaces=default to methods=GET paths=/info* when claim:iss=i";
    let token = r#"claims={"iss":"i"}"#;
    let with = |rest: &str| format!("{rest} {token}");
    check_all(&[
        (policy, &with("peer=default/web path=/info"), "allow"),
        (policy, &with("peer=other/web path=/info"), "deny"),
        (policy, &with("peer=default/web path=/data"), "deny"),
        (policy, &with("peer=default/web path=/info method=POST"), "deny"),
        (policy, "peer=default/web path=/info", "deny"),
    ]);
}
