//! Which HTTP rule counts, and what it does.

use super::table;

/// One rule with these conditions, for requests to `reviews`; others find no rule.
#[track_caller]
fn conditions(conditions: &str, met: &[&str], unmet: &[&str]) {
    let config = format!("service reviews v1\nvs reviews\n  {conditions} -> direct");
    let cases: Vec<_> = met.iter().map(|request| (conditions, *request, "direct")).collect();
    table(&config, &cases);
    let cases: Vec<_> = unmet.iter().map(|request| (conditions, *request, "refuse no-route")).collect();
    table(&config, &cases);
}

#[test]
fn a_path_is_compared_without_its_query() {
    conditions(
        "path=/api",
        &["GET reviews/api", "GET reviews/api?x=1", "GET reviews/api#f"],
        &["GET reviews/api/", "GET reviews/API", "GET reviews/"],
    );
    conditions(
        "path^=/api",
        &["GET reviews/api", "GET reviews/apis", "GET reviews/api/x?y"],
        &["GET reviews/", "GET reviews/x/api", "GET reviews/Api"],
    );
    conditions(
        "path~=/v[0-9]+/.*",
        &["GET reviews/v1/x", "GET reviews/v10/x?y=/z"],
        &["GET reviews/v/x", "GET reviews/x/v1/y", "GET reviews/v1?a=/v1/"],
    );
    conditions("path^=/", &["GET reviews/anything"], &[]);
}

#[test]
fn the_case_of_a_path_can_be_ignored() {
    conditions("PATH=/Api", &["GET reviews/api", "GET reviews/API"], &["GET reviews/apis"]);
    conditions("PATH^=/api", &["GET reviews/Api/x"], &["GET reviews/ap"]);
}

#[test]
fn methods_schemes_and_authorities_are_compared_as_they_are_written() {
    conditions("method=GET", &["GET reviews/"], &["POST reviews/", "get reviews/"]);
    conditions("method~=GET|HEAD", &["GET reviews/", "HEAD reviews/"], &["PUT reviews/"]);
    conditions("scheme=http", &["GET http://reviews/"], &[]);
    conditions("authority=reviews:80", &["GET reviews:80/"], &["GET reviews/", "GET reviews.default/"]);
    conditions("authority^=reviews.", &["GET reviews.default/", "GET reviews.default.svc/"], &["GET reviews/"]);
}

#[test]
fn headers_are_wanted_or_unwanted() {
    conditions(
        "header:user=jason",
        &["GET reviews/ user=jason"],
        &["GET reviews/", "GET reviews/ user=Jason", "GET reviews/ user=jason user=other"],
    );
    conditions("header:user^=ja", &["GET reviews/ user=jason", "GET reviews/ user=ja"], &["GET reviews/ user=j"]);
    conditions("header:user~=.*on", &["GET reviews/ user=jason"], &["GET reviews/ user=jasons"]);
    conditions("header:user", &["GET reviews/ user=", "GET reviews/ user=x"], &["GET reviews/ other=x"]);
    conditions("header:user=a,b", &["GET reviews/ user=a user=b"], &["GET reviews/ user=a"]);
    conditions("header:a=1 header:b=2", &["GET reviews/ a=1 b=2"], &["GET reviews/ a=1", "GET reviews/ b=2"]);
    conditions("without:user=jason", &["GET reviews/", "GET reviews/ user=x"], &["GET reviews/ user=jason"]);
    conditions("without:user", &["GET reviews/"], &["GET reviews/ user=", "GET reviews/ user=x"]);
    conditions("without:user=", &["GET reviews/ user=x"], &["GET reviews/", "GET reviews/ user="]);
    conditions("without:user~=.*", &[], &["GET reviews/", "GET reviews/ user=x"]);
    conditions("header::method=PUT", &["PUT reviews/"], &["GET reviews/"]);
    conditions("header:uri=/never", &["GET reviews/"], &[]);
}

#[test]
fn the_first_query_parameter_of_a_name_is_compared_as_it_is_written() {
    conditions(
        "query:v=2",
        &["GET reviews/?v=2", "GET reviews/?a=1&v=2", "GET reviews/?v=2&v=3"],
        &["GET reviews/", "GET reviews/?v=3&v=2", "GET reviews/?w=2", "GET reviews/v=2"],
    );
    conditions("query:v^=a", &["GET reviews/?v=ab"], &["GET reviews/?v=b"]);
    conditions("query:v~=[0-9]", &["GET reviews/?v=7"], &["GET reviews/?v=77"]);
    conditions("query:v", &["GET reviews/?v", "GET reviews/?v=1"], &["GET reviews/?x=v"]);
    conditions("query:v=", &["GET reviews/?v", "GET reviews/?v="], &["GET reviews/?v=1"]);
    conditions("query:v=a%20b", &["GET reviews/?v=a%20b"], &["GET reviews/?v=a+b"]);
}

#[test]
fn all_conditions_of_a_match_hold_and_any_match_does() {
    conditions(
        "method=GET path^=/a | method=PUT path^=/b",
        &["GET reviews/a", "PUT reviews/b"],
        &["PUT reviews/a", "GET reviews/b"],
    );
}

#[test]
fn the_first_rule_that_matches_counts() {
    let config = "
        service reviews v1 v2 v3
        dr reviews v1 v2 v3
        vs reviews
          path^=/api header:user=jason -> reviews v2
          path^=/api -> reviews v3
          -> reviews v1
          path=/never -> direct";
    table(
        config,
        &[
            ("the tester", "GET reviews/api user=jason", "reviews/v2:80 v2-1"),
            ("others", "GET reviews/api", "reviews/v3:80 v3-1"),
            ("elsewhere", "GET reviews/ user=jason", "reviews/v1:80 v1-1"),
            ("what cannot be reached", "GET reviews/never", "reviews/v1:80 v1-1"),
            ("the long name", "GET reviews.default.svc.cluster.local/api", "reviews/v3:80 v3-1"),
            ("a connection has no HTTP rules", "tcp reviews:80", "reviews:80 v1-1 v2-1 v3-1"),
        ],
    );
}

#[test]
fn without_a_rule_that_matches_there_is_no_route() {
    let config = "service reviews v1\nvs reviews\n  path=/only -> reviews";
    table(
        config,
        &[
            ("it matches", "GET reviews/only", "reviews:80 v1-1"),
            ("it does not", "GET reviews/other", "refuse no-route"),
        ],
    );
    table("service reviews v1", &[("there are no rules", "GET reviews/x", "reviews:80 v1-1")]);
}

#[test]
fn rules_for_others_leave_the_service_as_it_is() {
    let config = |condition: &str| format!("service reviews v1 ports=80,81\nvs reviews\n  {condition} -> direct");
    for condition in ["port=81", "label:app=web", "ns=shop", "gateway=ingress"] {
        table(&config(condition), &[(condition, "GET reviews/", "reviews:80 v1-1")]);
    }
    table(&config("port=81"), &[("the port", "GET reviews:81/", "direct")]);
    table(&config("gateway=mesh"), &[("the mesh", "GET reviews/", "direct")]);
    table(&config("gateway=mesh label:app=other"), &[("gateways hide labels", "GET reviews/", "direct")]);
    let partly = "service reviews v1\nvs reviews\n  port=81 -> direct\n  path=/x -> direct";
    table(partly, &[("one concerns the client", "GET reviews/", "refuse no-route")]);
}

#[test]
fn the_source_is_the_workload() {
    let config = |condition: &str| {
        format!("client shop app=web v=1\nservice reviews.shop v1\nvs reviews.shop\n  {condition} -> direct")
    };
    for condition in ["label:app=web", "label:app=web label:v=1", "ns=shop", "ns=shop label:v=1"] {
        table(&config(condition), &[(condition, "GET reviews/", "direct")]);
    }
    for condition in ["label:app=other", "label:app=web label:v=2", "ns=default", "ns=shop label:x=1"] {
        table(&config(condition), &[(condition, "GET reviews/", "reviews:80 v1-1")]);
    }
}

#[test]
fn the_first_object_that_the_client_sees_counts_alone() {
    let config = "
        client shop
        service reviews v1
        vs reviews name=hidden to=other
          -> direct
        vs reviews name=gateways gateways=ingress
          -> direct
        vs reviews name=seen to=shop,other
          path=/a -> redirect uri=/b
        vs reviews name=late
          -> direct";
    table(
        config,
        &[
            ("the third object", "GET reviews.default/a", "301 http://reviews.default/b"),
            ("it counts alone", "GET reviews.default/x", "refuse no-route"),
        ],
    );
}

#[test]
fn an_object_without_http_rules_is_no_concern_of_requests() {
    let config = "
        service reviews v1
        vs reviews
          tcp -> reviews
        vs reviews
          -> direct";
    table(config, &[("the second object", "GET reviews/", "direct")]);
}

#[test]
fn clusterset_names_have_rules_of_their_own_or_those_of_the_service() {
    let shared = "
        service reviews v1 export
        import west reviews v1*3 v2*2
        dr reviews v1 v2
        vs reviews
          path=/v2 -> reviews v2
          -> reviews v1";
    table(
        shared,
        &[
            ("the short name stays", "GET reviews/", "reviews/v1:80 v1-1"),
            ("also for a subset that is elsewhere", "GET reviews/v2", "refuse no-endpoint"),
            (
                "the clusterset name does not",
                "GET reviews.default.svc.clusterset.local/",
                "reviews/v1:80 v1-1 > west/v1*3",
            ),
            ("a remote subset", "GET reviews.default.svc.clusterset.local/v2", "reviews/v2:80 west/v2*2"),
        ],
    );
    let own = format!("{shared}\nvs reviews!clusterset\n  -> direct");
    table(
        &own,
        &[
            ("its own rules", "GET reviews.default.svc.clusterset.local/", "direct"),
            ("the service's", "GET reviews/", "reviews/v1:80 v1-1"),
        ],
    );
}

#[test]
fn weights_of_nothing_are_not_drawn() {
    let config = |to: &str| format!("service reviews v1 v2\ndr reviews v1 v2\nvs reviews\n  -> {to}");
    for entropy in 0..50 {
        let request = format!("GET reviews/ #{entropy}");
        table(&config("reviews v1 0, reviews v2 1"), &[("all to v2", &request, "reviews/v2:80 v2-1")]);
        table(&config("reviews v1 100, reviews v2 0"), &[("all to v1", &request, "reviews/v1:80 v1-1")]);
        table(&config("reviews v1 0"), &[("a single one", &request, "reviews/v1:80 v1-1")]);
        table(&config("reviews v2 0, reviews v1 0"), &[("none at all", &request, "reviews/v2:80 v2-1")]);
    }
}

#[test]
fn a_rule_sets_limits_faults_and_copies() {
    let config = |options: &str| format!("service reviews v1\nservice shadow v1\nvs reviews\n  -> reviews ; {options}");
    let cases = [
        ("timeout=2", "reviews:80 v1-1; timeout 2"),
        ("retry=5", "reviews:80 v1-1; retry 5"),
        ("delay=100%", "reviews:80 v1-1; delay 5"),
        ("delay=0%", "reviews:80 v1-1"),
        ("abort=100%", "reviews:80 v1-1; abort Http(500)"),
        ("delay=100% abort=100%", "reviews:80 v1-1; delay 5; abort Http(500)"),
        ("mirror=shadow", "reviews:80 v1-1; mirror shadow.default.svc.cluster.local"),
        ("mirror=shadow*0", "reviews:80 v1-1"),
        ("mirror=shadow abort=100%", "reviews:80 v1-1; abort Http(500)"),
        ("mirror=absent", "reviews:80 v1-1; mirror absent.default.svc.cluster.local; wants absent.default"),
    ];
    for (options, expected) in cases {
        table(&config(options), &[(options, "GET reviews/", expected)]);
    }
}

#[test]
fn destinations_have_ports_subsets_and_services_of_their_own() {
    let config = |to: &str| {
        format!(
            "service reviews v1 ports=80,81\nservice one v1 ports=9080\nservice two v1 ports=80,90\ndr reviews v1\n\
             service only v1 ports=7,8\nvs reviews\n  -> {to}"
        )
    };
    let cases = [
        ("reviews:81", "reviews:81 v1-1"),
        ("reviews:82", "refuse unknown-port"),
        ("reviews v9", "refuse no-endpoint"),
        ("one", "one:9080 v1-1"),
        ("two", "two:80 v1-1"),
        ("two v1", "refuse no-endpoint"),
        ("two:90", "two:90 v1-1"),
        ("only", "refuse unknown-port"),
        ("absent", "refuse no-endpoint; wants absent.default"),
        ("absent.default.svc.clusterset.local", "refuse no-endpoint; wants absent.default"),
        ("www.example.org", "refuse no-endpoint"),
        ("10.9.9.9", "refuse no-endpoint"),
        ("a.b.clusterset.local", "refuse no-endpoint"),
    ];
    for (to, expected) in cases {
        table(&config(to), &[(to, "GET reviews/", expected)]);
    }
}

#[test]
fn redirects_lead_where_envoy_says() {
    let config =
        |to: &str| format!("service reviews v1\nvs reviews\n  path^=/old -> redirect {to}\n  -> redirect {to}");
    let cases = [
        ("uri=/new", "GET http://reviews/old/x?y=1", "301 http://reviews/new?y=1"),
        ("uri=/new?z=2", "GET http://reviews/old?y=1", "301 http://reviews/new?z=2"),
        ("uri=new", "GET http://reviews/old", "301 http://reviews/new"),
        ("prefix=/new", "GET http://reviews/old/x?y=1", "301 http://reviews/new/x?y=1"),
        ("prefix=/new/", "GET http://reviews/x", "301 http://reviews/new/x"),
        ("authority=b.example", "GET http://reviews:80/old/x?y", "301 http://b.example/old/x?y"),
        ("authority=b.example status=302", "GET http://reviews/", "302 http://b.example/"),
        ("scheme=https", "GET http://reviews/a", "301 https://reviews/a"),
        ("scheme=https", "GET http://reviews:80/a", "301 https://reviews/a"),
        ("scheme=https", "GET http://reviews.default:80/a", "301 https://reviews.default/a"),
        ("port=8080", "GET http://reviews/a", "301 http://reviews:8080/a"),
        ("port=8080", "GET http://reviews:80/a", "301 http://reviews:8080/a"),
        ("port=80", "GET http://reviews/a", "301 http://reviews/a"),
        ("port=443 scheme=https", "GET http://reviews/a", "301 https://reviews/a"),
        ("port=443", "GET http://reviews/a", "301 http://reviews:443/a"),
        ("port=request", "GET http://reviews/a", "301 http://reviews/a"),
        ("port=request scheme=https", "GET http://reviews/a", "301 https://reviews:80/a"),
        ("port=default", "GET http://reviews:80/a", "301 http://reviews/a"),
        ("uri=/ status=308", "POST http://reviews/a", "308 http://reviews/"),
    ];
    for (to, request, expected) in cases {
        table(&config(to), &[(to, request, expected)]);
    }
}
