//! Hosts that ServiceEntries add, what a Sidecar lets through, and hosts that nobody knows.

use super::table;

#[test]
fn entries_are_found_by_name_and_the_longest_pattern() {
    let config = "
        entry a.example.org dns
        entry *.example.org dns hosts=wild.example
        entry *.b.example.org dns hosts=deep.example
        entry httpbin.org dns
        entry *.com dns
        entry vm.shop.svc.cluster.local dns
        entry single dns
        service reviews v1";
    table(
        config,
        &[
            ("exact", "GET a.example.org/", "a.example.org:80 a.example.org:80"),
            ("in capitals", "GET A.Example.ORG/", "a.example.org:80 a.example.org:80"),
            ("by wildcard", "GET c.example.org/", "*.example.org:80 wild.example:80"),
            ("by a longer wildcard", "GET c.b.example.org/", "*.b.example.org:80 deep.example:80"),
            ("not itself", "GET example.org/", "pass; wants example.org"),
            ("as a service's name", "GET httpbin.org/", "httpbin.org:80 httpbin.org:80"),
            ("a wildcard for two labels", "GET edition.com/", "*.com:80 edition.com:80; wants edition.com"),
            ("a wildcard asks for the client's host", "GET www.edition.com/", "*.com:80 www.edition.com:80"),
            ("a name of the cluster", "GET vm.shop/", "vm.shop.svc.cluster.local:80 vm.shop.svc.cluster.local:80"),
            (
                "all of it",
                "GET vm.shop.svc.cluster.local/",
                "vm.shop.svc.cluster.local:80 vm.shop.svc.cluster.local:80",
            ),
            ("a single label", "GET single/", "single:80 single:80"),
            ("services go first", "GET reviews/", "reviews:80 v1-1"),
            ("nobody", "GET www.example.net/", "pass"),
            ("another port", "GET a.example.org:81/", "pass"),
            ("a connection", "tcp a.example.org:80", "a.example.org:80 a.example.org:80"),
        ],
    );
}

#[test]
fn an_entry_is_seen_where_it_is_exported_to() {
    let config = "
        client shop
        entry a.example dns in=other to=other
        entry b.example dns in=other to=shop,other
        entry c.example dns in=aaa hosts=theirs.example
        entry c.example dns in=shop hosts=ours.example
        entry c.example dns in=zzz hosts=theirs.example";
    table(
        config,
        &[
            ("not exported", "GET a.example/", "pass; wants a.example"),
            ("exported", "GET b.example/", "b.example:80 b.example:80"),
            ("the own namespace first", "GET c.example/", "c.example:80 ours.example:80"),
        ],
    );
}

#[test]
fn resolution_says_where_an_entry_is() {
    let config = "
        entry none.x.example none ports=443
        entry static.x.example static ports=80 v1*2! v2@eu!
        entry dns.x.example dns ports=80,443 hosts=b.example:8080*2,c.example
        entry mixed.x.example dns v1! hosts=b.example
        entry one.x.example rr ports=80
        entry empty.x.example static
        entry vm.x.example static v1";
    table(
        config,
        &[
            ("as it was dialled", "GET https://none.x.example/", "pass none.x.example:443"),
            ("endpoints", "GET static.x.example/", "static.x.example:80 v1-1! v1-2! v2-1!"),
            ("names", "GET dns.x.example/", "dns.x.example:80 b.example:8080*2 c.example:80"),
            ("names, another port", "GET https://dns.x.example/", "dns.x.example:443 b.example:443*2 c.example:443"),
            ("both", "GET mixed.x.example/", "mixed.x.example:80 v1-1! b.example:80"),
            ("one address at a time", "GET one.x.example/", "one.x.example:80 1xone.x.example:80"),
            ("nothing", "GET empty.x.example/", "refuse no-endpoint"),
            ("with a sidecar", "GET vm.x.example/", "vm.x.example:80 v1-1"),
        ],
    );
}

#[test]
fn entries_are_found_by_address_and_connections_by_name() {
    let config = "
        entry a.x.example static ip=240.0.0.1 ports=80 v1!
        entry b.x.example static ip=240.0.0.1 ports=81 v2!
        entry net.x.example none net=10.0.0.0/8 ports=80
        entry small.x.example none net=10.1.0.0/16 ports=80
        entry *.tls.example none ports=443
        service reviews v1 ip=10.2.0.1 vip=243.0.0.1 export
        import west reviews v1";
    table(
        config,
        &[
            ("an address", "tcp 240.0.0.1:80", "a.x.example:80 v1-1!"),
            ("shared, another port", "tcp 240.0.0.1:81", "b.x.example:81 v2-1!"),
            ("shared, no such port", "tcp 240.0.0.1:82", "pass"),
            ("a network", "tcp 10.9.0.1:80", "pass net.x.example:80"),
            ("a smaller network", "tcp 10.1.0.1:80", "pass small.x.example:80"),
            ("services go first", "tcp 10.2.0.1:80", "reviews:80 v1-1"),
            ("the clusterset's address", "tcp 243.0.0.1:80", "reviews:80 v1-1 > west/v1"),
            ("a name in the ClientHello", "tcp 192.0.2.1:443 sni=A.tls.example", "pass *.tls.example:443"),
            ("no name", "tcp 192.0.2.1:443", "pass"),
            ("another name", "tcp 192.0.2.1:443 sni=b.example", "pass"),
        ],
    );
}

#[test]
fn a_host_without_a_service_has_rules_alone() {
    let config = "
        entry any.example.org none portless
        service reviews v1
        vs any.example.org
          path^=/reviews -> reviews
          port=81 -> direct";
    table(
        config,
        &[
            ("its rules", "GET any.example.org/reviews", "reviews:80 v1-1"),
            ("any port", "GET any.example.org:81/", "direct"),
            ("no rule", "GET any.example.org/", "refuse no-route"),
            ("a connection", "tcp any.example.org:80", "pass"),
        ],
    );
}

#[test]
fn entries_have_rules_and_policies_like_services() {
    let config = "
        entry a.example dns ports=80,443
        service gateway v1
        dr a.example tls=simple
        vs a.example
          port=80 path=/gateway -> gateway
          port=80 -> a.example:443
          port=443 -> direct";
    table(
        config,
        &[
            ("through the egress gateway", "GET a.example/gateway", "gateway:80 v1-1"),
            ("to another port", "GET a.example/", "a.example:443 a.example:443"),
            ("by port", "GET https://a.example/", "direct"),
        ],
    );
}

#[test]
fn what_the_mesh_does_not_know_goes_where_the_policy_says() {
    let refuse = "sidecar unknown=refuse\nservice reviews v1\nentry a.example none";
    table(
        refuse,
        &[
            ("unknown", "GET www.example.org/", "refuse unknown-host"),
            ("an unknown address", "tcp 192.0.2.1:80", "refuse unknown-host"),
            ("a service that is not here yet", "GET ratings/", "refuse unknown-host; wants ratings.default"),
            ("known", "GET reviews/", "reviews:80 v1-1"),
            ("an entry", "GET a.example/", "pass a.example:80"),
            ("an entry's other port", "GET a.example:81/", "refuse unknown-host"),
            ("no clusterset name", "GET x.y.clusterset.local/", "refuse not-exported"),
        ],
    );
    let through = "sidecar unknown=through:egress\nservice egress v1 ports=8080";
    table(through, &[("through the proxy", "GET www.example.org/", "egress:8080 v1-1")]);
    table(
        "sidecar unknown=through:gone",
        &[("no proxy", "GET www.example.org/", "refuse no-endpoint; wants gone.default")],
    );
    table("", &[("by default", "GET www.example.org/", "pass")]);
}

#[test]
fn a_sidecar_lists_what_can_be_reached() {
    let services = "
        service mine v1
        service theirs.shop v1 ports=80,81 export
        entry a.example none in=shop
        entry *.wild.example none in=shop
        import west theirs.shop v1";
    let cases = |hosts: &str, cases: &[(&str, &str, &str)]| {
        table(&format!("client default\nsidecar unknown=refuse hosts={hosts}\n{services}"), cases);
    };
    cases(
        "./*",
        &[
            ("the own namespace", "GET mine/", "mine:80 v1-1"),
            ("another", "GET theirs.shop/", "refuse unknown-host"),
            ("its entry", "GET a.example/", "refuse unknown-host"),
            ("its clusterset name", "GET theirs.shop.svc.clusterset.local/", "refuse not-exported"),
        ],
    );
    cases(
        "*/*",
        &[
            ("everything", "GET theirs.shop/", "theirs:80 v1-1"),
            ("entries too", "GET a.example/", "pass a.example:80"),
            ("and clusterset names", "GET theirs.shop.svc.clusterset.local/", "theirs:80 v1-1 > west/v1"),
        ],
    );
    cases(
        "shop/theirs.shop.svc.cluster.local:81,shop/*.wild.example",
        &[
            ("its port", "GET theirs.shop:81/", "theirs:81 v1-1"),
            ("not its other port", "GET theirs.shop/", "refuse unknown-host"),
            ("a wildcard", "GET x.wild.example/", "pass *.wild.example:80"),
            ("not the own namespace", "GET mine/", "refuse unknown-host"),
        ],
    );
    cases(
        "*/theirs.shop.svc.cluster.local",
        &[("any namespace", "GET theirs.shop/", "theirs:80 v1-1"), ("one host", "GET mine/", "refuse unknown-host")],
    );
    cases(
        "*/*.clusterset.local",
        &[
            ("clusterset names", "GET theirs.shop.svc.clusterset.local/", "theirs:80 v1-1 > west/v1"),
            ("and only those", "GET theirs.shop/", "refuse unknown-host"),
        ],
    );
    let allow = format!("sidecar hosts=./*\n{services}");
    table(&allow, &[("what is left out is unknown", "GET theirs.shop/", "pass")]);
}

#[test]
fn a_sidecar_brings_in_the_rules_of_the_namespaces_that_it_lists() {
    let config = |hosts: &str| {
        format!(
            "sidecar hosts={hosts}\nservice theirs.shop v1\nvs theirs.shop in=other\n  -> redirect uri=/other\nvs theirs.shop in=shop\n  -> direct"
        )
    };
    table(&config("shop/*"), &[("the service's", "GET theirs.shop/", "direct")]);
    table(&config("*/*"), &[("the first", "GET theirs.shop/", "301 http://theirs.shop/other")]);
    table(&config("./*,shop/*"), &[("not the third's", "GET theirs.shop/", "direct")]);
}

#[test]
fn an_external_name_is_another_name_of_what_it_names() {
    let config = "
        service ratings v1 v2 ports=80,81
        service shared v1 export
        import west shared v3
        entry known.example dns hosts=b.example
        alias one ratings.default.svc.cluster.local ports=80
        alias two one.default.svc.cluster.local
        alias all shared.default.svc.clusterset.local
        alias local shared.default.svc.cluster.local
        alias gone nobody.default.svc.cluster.local
        alias far nobody.default.svc.clusterset.local
        alias round round.default.svc.cluster.local
        alias known known.example
        alias out www.example.org ports=80
        dr out tls=simple
        vs ratings
          path=/direct -> direct
          -> ratings
        vs out
          path=/direct -> direct
          path=/ratings -> one
          -> out";
    table(
        config,
        &[
            ("a service", "GET one/", "ratings:80 v1-1 v2-1"),
            ("by its full name", "GET one.default.svc.cluster.local/", "ratings:80 v1-1 v2-1"),
            ("its routes", "GET one/direct", "direct"),
            ("a port that only the service has", "GET one:81/", "ratings:81 v1-1 v2-1"),
            ("a port that the service does not have", "GET one:82/", "refuse unknown-port"),
            ("an alias of an alias", "GET two/", "ratings:80 v1-1 v2-1"),
            ("all clusters", "GET all/", "shared:80 v1-1 > west/v3"),
            ("one cluster", "GET local/", "shared:80 v1-1"),
            ("a service that is asked for", "GET gone/", "refuse not-exported; wants nobody.default"),
            ("in other clusters", "GET far/", "refuse not-exported; wants nobody.default"),
            ("a circle", "GET round/", "refuse no-endpoint"),
            ("a ServiceEntry", "GET known/", "known.example:80 b.example:80"),
            ("a ServiceEntry's ports", "GET known:81/", "pass"),
            ("outside", "GET out/", "out:80 www.example.org:80"),
            ("outside at any port", "GET out:8443/", "out:8443 www.example.org:8443"),
            ("a connection", "tcp out:5432", "out:5432 www.example.org:5432"),
            ("its own routes", "GET out/direct", "direct"),
            ("as a destination", "GET out/ratings", "ratings:80 v1-1 v2-1"),
        ],
    );
}

#[test]
fn a_service_is_seen_where_it_is_exported_to() {
    let config = "
        client shop
        service far.other v1 v2 ip=10.0.0.1 to=other export
        service near.other v1 ip=10.0.0.2 to=shop,other
        alias hidden.shop far.other.svc.cluster.local";
    table(
        config,
        &[
            ("by its name", "GET far.other/", "pass"),
            ("by its clusterset name", "GET far.other.svc.clusterset.local/", "refuse not-exported"),
            ("by its address", "GET 10.0.0.1/", "pass"),
            ("by its pod's", "tcp 10.1.0.2:1080", "pass"),
            ("by another name", "GET hidden/", "refuse not-exported"),
            ("where it is exported to", "GET near.other/", "near:80 v1-1"),
        ],
    );
}
