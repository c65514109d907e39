//! Rules of connections.

use super::table;

#[test]
fn tls_is_routed_by_the_name_in_the_client_hello() {
    let config = "
        client shop
        service tls.shop v1 v2 v3 ports=443,8443
        dr tls.shop v1 v2 v3
        vs tls.shop
          tls sni=*.a.example -> tls.shop v1
          tls sni=b.a.example,c.example port=443 -> tls.shop v2
          tls sni=n.example to=10.0.0.0/8 -> tls.shop v3
          tls sni=d.example ns=other -> tls.shop v3";
    table(
        config,
        &[
            ("a wildcard", "tcp tls:443 sni=x.a.example", "tls/v1:443 v1-1"),
            ("the most specific name, not the first", "tcp tls:443 sni=b.a.example", "tls/v2:443 v2-1"),
            ("the port", "tcp tls:8443 sni=b.a.example", "tls/v1:8443 v1-1"),
            ("any of the names", "tcp tls:443 sni=C.Example", "tls/v2:443 v2-1"),
            ("a network", "tcp tls:443 sni=n.example to=10.2.3.4", "tls/v3:443 v3-1"),
            ("another network", "tcp tls:443 sni=n.example to=192.0.2.1", "refuse no-route"),
            ("another client", "tcp tls:443 sni=d.example", "refuse no-route"),
            ("no rule", "tcp tls:443 sni=z.example", "refuse no-route"),
            ("no name", "tcp tls:443", "tls:443 v1-1 v2-1 v3-1"),
            ("a request", "GET https://tls/", "tls:443 v1-1 v2-1 v3-1"),
        ],
    );
}

#[test]
fn connections_are_routed_by_what_is_known_before_any_byte() {
    let config = "
        service db v1 v2 v3 ports=5432,5433
        dr db v1 v2 v3
        vs db
          tcp port=5433 -> db v1
          tcp from=10.1.0.0/16 -> db v2
          tcp to=10.2.0.0/16 -> db v3
          tcp ns=other -> db v1";
    table(
        config,
        &[
            ("the port", "tcp db:5433", "db/v1:5433 v1-1"),
            ("the client's address", "tcp db:5432 ip=10.1.2.3", "db/v2:5432 v2-1"),
            ("the server's address", "tcp db:5432 ip=10.9.2.3 to=10.2.0.1", "db/v3:5432 v3-1"),
            ("no rule", "tcp db:5432 ip=10.9.2.3", "db:5432 v1-1 v2-1 v3-1"),
            ("nothing is known", "tcp db:5432", "db:5432 v1-1 v2-1 v3-1"),
        ],
    );
    let all = "service db v1 v2\ndr db v1 v2\nvs db\n  tcp -> db v2";
    table(
        all,
        &[
            ("without a condition", "tcp db:80", "db/v2:80 v2-1"),
            ("also what speaks TLS", "tcp db:80 sni=db.example", "db/v2:80 v2-1"),
            ("not requests", "GET db/", "db:80 v1-1 v2-1"),
        ],
    );
}

#[test]
fn connections_have_weights() {
    let config = "service db v1 v2\ndr db v1 v2\nvs db\n  tcp -> db v1 0, db v2 100";
    table(config, &[("all to v2", "tcp db:80", "db/v2:80 v2-1")]);
}
