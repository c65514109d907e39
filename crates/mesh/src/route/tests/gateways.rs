//! What enters at a gateway.

use super::table;

#[test]
fn hosts_find_their_routes_by_the_most_specific_name() {
    let config = "
        service reviews v1
        service ratings v1
        server gw 80 http *
        server other 81 http *.example
        vs * gateways=gw
          -> ratings
        vs *.example gateways=gw,other
          path=/x -> reviews
        vs a.example gateways=gw
          -> redirect uri=/a
        vs b.example gateways=mesh2
          -> direct";
    table(
        config,
        &[
            ("exact", "GET a.example/ @80", "301 http://a.example/a"),
            ("in capitals, with a port", "GET A.Example:80/ @80", "301 http://A.Example:80/a"),
            ("by wildcard", "GET b.example/x @80", "reviews:80 v1-1"),
            ("it counts alone", "GET b.example/ @80", "refuse no-route"),
            ("any", "GET example/ @80", "ratings:80 v1-1"),
            ("another listener", "GET b.example/x @81", "reviews:80 v1-1"),
            ("no host", "GET c.other/ @81", "refuse no-route"),
            ("no listener", "GET a.example/ @82", "refuse no-route"),
            ("the mesh knows no such host", "GET a.example/", "pass; wants a.example"),
        ],
    );
    table("service reviews v1", &[("no gateway", "GET reviews/ @80", "refuse no-route")]);
}

#[test]
fn rules_of_several_objects_are_joined_and_what_is_for_all_comes_last() {
    let config = "
        server gw 80 http *
        vs a.example gateways=gw name=first
          path=/1 -> redirect uri=/one
          -> redirect uri=/rest
        vs a.example gateways=gw name=second
          path=/2 -> redirect uri=/two
          path^=/ -> redirect uri=/never
        vs a.example gateways=gw name=third
          path=/1 -> redirect uri=/never
          header:x=3 -> redirect uri=/three";
    table(
        config,
        &[
            ("the first object", "GET a.example/1 @80", "301 http://a.example/one"),
            ("the second", "GET a.example/2 @80", "301 http://a.example/two"),
            ("the third", "GET a.example/ x=3 @80", "301 http://a.example/three"),
            ("the first that is for all", "GET a.example/x @80", "301 http://a.example/rest"),
        ],
    );
}

#[test]
fn rules_may_be_for_some_gateways_and_ports_only() {
    let config = "
        client istio-system istio=ingressgateway
        server gw 80 http *
        server other 81 http *
        vs a.example gateways=gw,other,mesh2
          gateway=other -> redirect uri=/other
          port=80 -> redirect uri=/80
          label:istio=ingressgateway -> redirect uri=/label
        vs b.example gateways=gw to=shop
          -> direct";
    table(
        config,
        &[
            ("by gateway", "GET a.example/ @81", "301 http://a.example/other"),
            ("by port", "GET a.example/ @80", "301 http://a.example/80"),
            ("the port is the listener's", "GET a.example:8080/ @80", "301 http://a.example:8080/80"),
            ("not exported to the gateway", "GET b.example/ @80", "refuse no-route"),
        ],
    );
}

#[test]
fn plain_text_is_sent_to_https() {
    let config = "
        server gw 80 http *.example redirect
        server gw 443 http *.example tls=simple
        server plain 80 http *.plain
        vs a.example gateways=gw
          -> direct
        vs x.plain gateways=plain
          -> direct";
    table(
        config,
        &[
            ("a host with routes", "GET a.example/x?y @80", "301 https://a.example/x?y"),
            ("a host without", "GET b.example/ @80", "301 https://b.example/"),
            ("another server of the port", "GET x.plain/ @80", "direct"),
            ("by TLS", "GET https://a.example/ sni=a.example @443", "direct"),
            ("a client that was encrypted before", "GET https://a.example/ @80", "direct"),
            ("no such host", "GET a.other/ @80", "refuse no-route"),
        ],
    );
}

#[test]
fn tls_servers_are_found_by_the_client_hello_and_have_their_own_hosts() {
    let config = "
        server one 443 http a.example tls=simple
        server two 443 http *.example tls=simple
        server any 8443 http * tls=simple
        server inside 15443 http * tls=mesh
        vs a.example gateways=one
          -> redirect uri=/one
        vs *.example gateways=two
          -> redirect uri=/two
        vs * gateways=any,inside
          -> direct";
    table(
        config,
        &[
            ("the exact server", "GET https://a.example/ sni=a.example @443", "301 https://a.example/one"),
            ("the wildcard", "GET https://b.example/ sni=b.example @443", "301 https://b.example/two"),
            ("a host of another server", "GET https://b.example/ sni=a.example @443", "refuse no-route"),
            ("no name for any host", "GET https://x.y.z/ @8443", "direct"),
            ("by mTLS of the mesh", "GET http://x.y.z/ @15443", "direct"),
        ],
    );
}

#[test]
fn gateways_reach_what_only_other_clusters_export() {
    let config = "
        service local v1
        import west reviews v1*3
        service both v1 export
        import west both v1*2
        server gw 80 http *
        vs a.example gateways=gw
          path=/short -> reviews
          path=/clusterset -> reviews.default.svc.clusterset.local
          path=/both -> both.default.svc.clusterset.local
          path=/both-short -> both.default.svc.cluster.local
          -> local";
    table(
        config,
        &[
            ("a short name stays", "GET a.example/short @80", "refuse no-endpoint"),
            ("a clusterset name does not", "GET a.example/clusterset @80", "reviews:80 west/v1*3"),
            ("local first", "GET a.example/both @80", "both:80 v1-1 > west/v1*2"),
            ("the short name of both", "GET a.example/both-short @80", "both:80 v1-1"),
            ("local", "GET a.example/ @80", "local:80 v1-1"),
        ],
    );
}

#[test]
fn connections_are_routed_by_name_or_port() {
    let config = "
        service db v1 ports=5432
        service web v1 ports=443
        service reviews v1 ports=80,443
        dr reviews v1
        server tcp 5432 tcp *
        server pass 443 tcp *.example tls=passthrough
        server ended 443 tcp ended.example tls=simple
        server auto 15443 tcp *.local tls=auto
        vs * gateways=tcp
          tcp port=5433 -> web
          tcp -> db
        vs a.example gateways=pass
          tls sni=a.example port=443 -> web
        vs ended.example gateways=ended
          tcp -> db";
    table(
        config,
        &[
            ("bytes", "tcp x:5432 @5432", "db:5432 v1-1"),
            ("passed through", "tcp x:443 sni=a.example @443", "web:443 v1-1"),
            ("ended here", "tcp x:443 sni=ended.example @443", "db:5432 v1-1"),
            ("no rule for the name", "tcp x:443 sni=b.example @443", "refuse no-route"),
            ("no name", "tcp x:443 @443", "refuse no-route"),
            (
                "the name says the service",
                "tcp x:15443 sni=outbound_.80_.v1_.reviews.default.svc.cluster.local @15443",
                "reviews/v1:80 v1-1",
            ),
            (
                "and no subset",
                "tcp x:15443 sni=outbound_.443_._.reviews.default.svc.cluster.local @15443",
                "reviews:443 v1-1",
            ),
            ("no such name", "tcp x:15443 sni=reviews.default.svc.cluster.local @15443", "refuse no-route"),
            ("a request is no bytes", "GET x/ @5432", "refuse no-route"),
        ],
    );
}

#[test]
fn a_gateway_has_no_sidecar_scope() {
    let config = "
        sidecar unknown=refuse hosts=./nothing
        service reviews.shop v1
        server gw 80 http *
        vs a.example gateways=gw
          -> reviews.shop";
    table(config, &[("any service", "GET a.example/ @80", "reviews:80 v1-1")]);
}

#[test]
fn claims_of_verified_tokens_choose_routes_at_gateways_alone() {
    let config = "
        service reviews v1
        server gw 80 http *
        vs a.example gateways=gw
          claim:@request.auth.claims.group=admin -> redirect uri=/admin
          claim:@request.auth.claims[realm][roles]^=edit -> redirect uri=/edit
          claim:@request.auth.claims.sub -> redirect uri=/known
          without-claim:@request.auth.claims.iss=x -> redirect uri=/stranger
        vs reviews
          claim:@request.auth.claims.group=admin -> redirect uri=/admin
          without-claim:@request.auth.claims.group=admin -> redirect uri=/others
          -> direct";
    let to = |path: &str| format!("301 http://a.example{path}");
    let cases = [
        (r#"claims={"group":"admin"}"#, to("/admin")),
        (r#"claims={"group":["dev","admin"]}"#, to("/admin")),
        (r#"claims={"group":"Admin","realm":{"roles":["view","editor"]}}"#, to("/edit")),
        (r#"claims={"realm":{"roles":[]},"sub":"me"}"#, to("/known")),
        (r#"claims={"group":"dev"}"#, to("/stranger")),
        ("", to("/stranger")),
        (r#"claims={"iss":"x"}"#, "refuse no-route".into()),
    ];
    for (claims, expected) in cases {
        let request = format!("GET a.example/ {claims} @80");
        table(config, &[("at a gateway", request.as_str(), expected.as_str())]);
        let request = format!("GET reviews/ {claims}");
        table(config, &[("at a sidecar", request.as_str(), "direct")]);
    }
}

#[test]
fn keys_of_claims_are_istios() {
    let cases: [(&str, Option<&[&str]>); 9] = [
        ("@request.auth.claims.sub", Some(&["sub"])),
        ("@request.auth.claims.a.b", Some(&["a", "b"])),
        ("@request.auth.claims[a.b]", Some(&["a.b"])),
        ("@request.auth.claims[a][b]", Some(&["a", "b"])),
        ("@request.auth.claims", None),
        ("@request.auth.claims.", None),
        ("@request.auth.claims[a", None),
        ("@request.auth.claims[]", None),
        ("x-claims.sub", None),
    ];
    for (key, expected) in cases {
        let path = crate::policy::ClaimMatch::path_of(key);
        assert_eq!(path, expected.map(|names| names.iter().map(|name| (*name).to_owned()).collect()), "{key}");
    }
}
