//! `from`.

use super::check_all;

const WEB: &str = "peer=default/web";

#[test]
fn principals_are_compared_without_their_scheme() {
    let allow = "ALLOW from principals=east.demo/ns/default/sa/web";
    check_all(&[
        (allow, WEB, "allow"),
        (allow, "peer=default/web2", "deny"),
        (allow, "peer=west.demo/default/web", "deny"),
        (allow, "peer=other/web", "deny"),
        (allow, "", "deny"),
        ("ALLOW from principals=spiffe://east.demo/ns/default/sa/web", WEB, "deny"),
        ("ALLOW from principals=*", WEB, "allow"),
        ("ALLOW from principals=*", "", "deny"),
        ("ALLOW from principals=east.demo/*", WEB, "allow"),
        ("ALLOW from principals=east.demo/*", "peer=east.demos/default/web", "deny"),
        ("ALLOW from principals=*/sa/web", "peer=west.demo/x/web", "allow"),
        ("ALLOW from principals=*/sa/web", "peer=west.demo/x/cobweb", "deny"),
        ("ALLOW from principals=a,east.demo/ns/default/sa/web", WEB, "allow"),
        ("ALLOW from principals=a from principals=east.demo/ns/default/sa/web", WEB, "allow"),
        ("DENY from principals=east.demo/ns/default/sa/web", WEB, "deny"),
        ("DENY from principals=east.demo/ns/default/sa/web", "", "allow"),
        ("DENY from principals!=east.demo/ns/default/sa/web", WEB, "allow"),
        ("DENY from principals!=east.demo/ns/default/sa/web", "peer=default/db", "deny"),
        ("DENY from principals!=east.demo/ns/default/sa/web", "", "deny"),
        ("DENY from principals!=*", "", "deny"),
        ("DENY from principals!=*", WEB, "allow"),
        ("ALLOW from principals!=east.demo/ns/default/sa/web", "", "allow"),
        ("ALLOW from principals=east.demo/* principals!=*/sa/web", WEB, "deny"),
        ("ALLOW from principals=east.demo/* principals!=*/sa/web", "peer=default/db", "allow"),
        ("ALLOW from principals=east.demo/* principals!=*/sa/web", "", "deny"),
        ("ALLOW from", "", "allow"),
    ]);
}

#[test]
fn namespaces_accounts_and_trust_domains_come_from_the_identity() {
    check_all(&[
        ("ALLOW from namespaces=default", WEB, "allow"),
        ("ALLOW from namespaces=default", "peer=west.demo/default/web", "allow"),
        ("ALLOW from namespaces=default", "peer=defaults/web", "deny"),
        ("ALLOW from namespaces=default", "", "deny"),
        ("ALLOW from namespaces=def*", WEB, "allow"),
        ("ALLOW from namespaces=*ault", WEB, "allow"),
        ("ALLOW from namespaces=*", WEB, "allow"),
        ("ALLOW from namespaces=*", "", "deny"),
        ("DENY from namespaces!=default", "peer=evil/web", "deny"),
        ("DENY from namespaces!=default", WEB, "allow"),
        ("DENY from namespaces!=default", "", "deny"),
        ("ALLOW from serviceAccounts=default/web", WEB, "allow"),
        ("ALLOW from serviceAccounts=default/web", "peer=west.demo/default/web", "allow"),
        ("ALLOW from serviceAccounts=default/web", "peer=other/web", "deny"),
        ("ALLOW from serviceAccounts=default/web", "peer=default/web-junk", "deny"),
        ("ALLOW from serviceAccounts=default/web", "", "deny"),
        ("DENY from serviceAccounts!=default/web", "", "deny"),
        ("DENY from serviceAccounts!=default/web", WEB, "allow"),
        ("ALLOW from trustDomains=east.demo", WEB, "allow"),
        ("ALLOW from trustDomains=east.demo", "peer=west.demo/default/web", "deny"),
        ("ALLOW from trustDomains=*.demo", "peer=west.demo/default/web", "allow"),
        ("ALLOW from trustDomains=east.demo", "", "deny"),
        ("DENY from trustDomains!=east.demo", "peer=west.demo/default/web", "deny"),
        ("DENY from trustDomains!=east.demo", "", "deny"),
        ("ALLOW from namespaces=default principals=*/sa/web", WEB, "allow"),
        ("ALLOW from namespaces=default principals=*/sa/db", WEB, "deny"),
        ("ALLOW from namespaces=other from principals=*/sa/web", WEB, "allow"),
    ]);
}

#[test]
fn addresses_are_of_the_connection_or_of_the_client_behind_it() {
    check_all(&[
        ("ALLOW from ipBlocks=10.0.0.0/8", "ip=10.1.2.3", "allow"),
        ("ALLOW from ipBlocks=10.0.0.0/8", "ip=11.1.2.3", "deny"),
        ("ALLOW from ipBlocks=10.0.0.0/8", "", "deny"),
        ("ALLOW from ipBlocks=10.1.2.3", "ip=10.1.2.3", "allow"),
        ("ALLOW from ipBlocks=10.1.2.3", "ip=10.1.2.4", "deny"),
        ("ALLOW from ipBlocks=10.0.0.0/8", "ip=::ffff:10.1.2.3", "allow"),
        ("ALLOW from ipBlocks=fd00::/8", "ip=fd00::1", "allow"),
        ("ALLOW from ipBlocks=fd00::/8", "ip=10.0.0.1", "deny"),
        ("ALLOW from ipBlocks=10.0.0.0/8,192.168.0.0/16", "ip=192.168.1.1", "allow"),
        ("ALLOW from ipBlocks=10.0.0.0/8", "ip=1.1.1.1 remote=10.0.0.1", "deny"),
        ("ALLOW from ipBlocks=10.0.0.0/8", "ip=10.0.0.1 remote=1.1.1.1", "allow"),
        ("DENY from ipBlocks!=10.0.0.0/8", "ip=10.0.0.1", "allow"),
        ("DENY from ipBlocks!=10.0.0.0/8", "ip=11.0.0.1", "deny"),
        ("DENY from ipBlocks!=10.0.0.0/8", "", "deny"),
        ("ALLOW from ipBlocks=10.0.0.0/8 ipBlocks!=10.0.0.1", "ip=10.0.0.1", "deny"),
        ("ALLOW from ipBlocks=10.0.0.0/8 ipBlocks!=10.0.0.1", "ip=10.0.0.2", "allow"),
        ("ALLOW from remoteIpBlocks=1.2.3.0/24", "ip=10.0.0.1 remote=1.2.3.4", "allow"),
        ("ALLOW from remoteIpBlocks=1.2.3.0/24", "ip=1.2.3.4 remote=10.0.0.1", "deny"),
        ("ALLOW from remoteIpBlocks=1.2.3.0/24", "ip=1.2.3.4", "allow"),
        ("DENY from remoteIpBlocks!=1.2.3.0/24", "ip=9.9.9.9", "deny"),
        ("DENY from remoteIpBlocks=0.0.0.0/0", "ip=9.9.9.9", "deny"),
        ("DENY from remoteIpBlocks=0.0.0.0/0", "ip=fd00::1", "allow"),
    ]);
}

#[test]
fn request_principals_are_split_at_the_last_slash() {
    let token = r#"claims={"iss":"https://accounts.example","sub":"alice"}"#;
    let slashes = r#"claims={"iss":"https://accounts.example","sub":"x/alice"}"#;
    let deeper = r#"claims={"iss":"https://accounts.example/evil","sub":"alice"}"#;
    check_all(&[
        ("ALLOW from requestPrincipals=https://accounts.example/alice", token, "allow"),
        ("ALLOW from requestPrincipals=https://accounts.example/bob", token, "deny"),
        ("ALLOW from requestPrincipals=https://accounts.example/alice", "", "deny"),
        ("ALLOW from requestPrincipals=https://accounts.example/x/alice", slashes, "deny"),
        ("ALLOW from requestPrincipals=https://accounts.example/evil/alice", deeper, "allow"),
        ("ALLOW from requestPrincipals=*", token, "allow"),
        ("ALLOW from requestPrincipals=*", "", "deny"),
        ("ALLOW from requestPrincipals=*", r#"claims={"iss":"a"}"#, "deny"),
        ("ALLOW from requestPrincipals=*", r#"claims={"iss":"a","sub":""}"#, "deny"),
        ("ALLOW from requestPrincipals=https://accounts.example/*", token, "allow"),
        ("ALLOW from requestPrincipals=https://accounts.example/*", deeper, "deny"),
        ("ALLOW from requestPrincipals=https://accounts.example/al*", token, "allow"),
        ("ALLOW from requestPrincipals=https://accounts.example/b*", token, "deny"),
        ("ALLOW from requestPrincipals=https*", token, "allow"),
        ("ALLOW from requestPrincipals=acc*", r#"claims={"iss":"accounts","sub":"a"}"#, "allow"),
        ("ALLOW from requestPrincipals=*/alice", token, "allow"),
        ("ALLOW from requestPrincipals=*/alice", slashes, "deny"),
        ("ALLOW from requestPrincipals=*.example/alice", token, "allow"),
        ("ALLOW from requestPrincipals=*.example/bob", token, "deny"),
        ("ALLOW from requestPrincipals=*ice", token, "allow"),
        ("ALLOW from requestPrincipals=alone", r#"claims={"iss":"alone","sub":""}"#, "allow"),
        ("ALLOW from requestPrincipals=alone", r#"claims={"iss":"alone","sub":"x"}"#, "deny"),
        ("DENY from requestPrincipals!=*", "", "deny"),
        ("DENY from requestPrincipals!=*", token, "allow"),
        ("DENY from requestPrincipals!=https://accounts.example/alice", token, "allow"),
        ("DENY from requestPrincipals!=https://accounts.example/alice", deeper, "deny"),
        ("ALLOW from requestPrincipals=*", r#"claims={"iss":["a"],"sub":"b"}"#, "deny"),
    ]);
}
