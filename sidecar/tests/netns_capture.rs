//! Transparent capture with real namespaces, real nftables and clients that know nothing of it.
//!
//! Needs root, `ip`, `nft` and `curl`; `cargo test -p isthmus-sidecar --test netns_capture`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "netns_capture/ground.rs"]
mod ground;
#[path = "netns_capture/mesh.rs"]
mod mesh_of;
#[path = "netns_capture/pod.rs"]
mod pod;

use std::time::Duration;

use ground::{Ground, Place};
use mesh::{MtlsMode, UnknownHosts};
use mesh_of::{Client, Server};
use pod::{Apps, Pod};

/// Both pods with sidecars, capture in force in both, and a host outside.
struct World {
    client: Pod,
    server: Pod,
    _outside: Pod,
    ground: Ground,
}

impl World {
    fn new(mode: MtlsMode) -> Self {
        Self::with(mode, UnknownHosts::Allow)
    }

    fn with(mode: MtlsMode, unknown: UnknownHosts) -> Self {
        let ground = Ground::new();
        let authority = mesh_of::Authority::new();
        let outside = Pod::apps_only(&ground, Place::Outside, Apps::outside());
        let server = Pod::with_sidecar(&ground, Place::Server, Apps::server(), authority.pod(&Server { mode }));
        let client = Pod::with_sidecar(&ground, Place::Client, Apps::none(), authority.pod(&Client { unknown }));
        ground.capture(Place::Client, "apply", &[]);
        ground.capture(Place::Server, "apply", &[]);
        Self { client, server, _outside: outside, ground }
    }

    fn curl(&self, from: Place, arguments: &[&str]) -> Result<String, String> {
        self.ground.curl(from, arguments)
    }
}

/// Both families, as they stand in a URL.
const SERVICE: [&str; 2] = ["10.96.0.10", "[fd96::10]"];
const BANNER: [&str; 2] = ["10.96.0.11", "[fd96::11]"];
const SERVER: [&str; 2] = ["10.77.0.2", "[fd77::2]"];
const OUTSIDE: [&str; 2] = ["10.77.0.3", "[fd77::3]"];

#[test]
fn an_unchanged_client_reaches_services_and_pods_by_mutual_tls() {
    let world = World::new(MtlsMode::Strict);
    for family in 0..2 {
        let (service, pod) = (SERVICE[family], SERVER[family]);
        let meshed = [
            (format!("http://{service}/"), "outbound|80||reviews.default.svc.cluster.local"),
            (format!("http://{pod}:9080/"), "outbound|80||reviews.default.svc.cluster.local"),
            // No service leads there; the pod's sidecar proves who it is all the same.
            (format!("http://{pod}:7777/"), "PassthroughCluster"),
        ];
        for (url, cluster) in meshed {
            let seen = world.curl(Place::Client, &[&url]).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert!(seen.contains("URI=spiffe://east.demo/ns/default/sa/web"), "{url}: {seen}");
            let record = world.client.record(&format!(" {cluster} "));
            assert!(record.contains("mtls=true"), "{url}: {record}");
        }
        let banner = format!("telnet://{}:3306", BANNER[family]);
        assert_eq!(world.curl(Place::Client, &[&banner]).unwrap(), "banner\n", "{banner}");
    }
    // The server's own requests by its service's name go through its sidecar, those to itself do not.
    let own = world.curl(Place::Server, &[&format!("http://{}/", SERVICE[0])]).unwrap();
    assert!(own.contains("URI=spiffe://east.demo/ns/default/sa/reviews"), "{own}");
    let direct = world.curl(Place::Server, &["http://10.77.0.2:9080/"]).unwrap();
    assert!(!direct.contains("URI="), "{direct}");
    assert!(world.curl(Place::Server, &["http://127.0.0.1:9080/"]).is_ok());
}

#[test]
fn hosts_outside_are_passed_through_and_requests_go_where_they_say() {
    let world = World::new(MtlsMode::Permissive);
    for outside in OUTSIDE {
        let seen = world.curl(Place::Client, &[&format!("http://{outside}:8080/")]).unwrap();
        assert!(seen.contains("GET / HTTP/1.1") && !seen.contains("URI="), "{seen}");
        world.client.record(&format!("{outside}:8080 PassthroughCluster "));
        // Who speaks first does not matter where nothing is known.
        assert_eq!(world.curl(Place::Client, &[&format!("telnet://{outside}:2525")]).unwrap(), "banner\n");
        // On a port on which services speak HTTP the host counts, as with Istio.
        let named = ["-H", "host: reviews.default", &format!("http://{outside}/")].map(str::to_owned);
        let named: Vec<&str> = named.iter().map(String::as_str).collect();
        assert!(world.curl(Place::Client, &named).unwrap().contains("URI=spiffe://east.demo/ns/default/sa/web"));
    }
    // A client that uses a proxy of its own gets it.
    let through = ["-p", "-x", "http://10.77.0.3:3128", "http://example.invalid/"];
    assert!(
        world.curl(Place::Client, &through).unwrap().contains("tunnelled"),
        "CONNECT reaches the client's own proxy"
    );
    // Each connection was made once: the sidecar's own ones are not captured.
    assert_eq!(world.client.records().iter().filter(|record| record.contains(":8080 ")).count(), 2);
}

#[test]
fn on_undeclared_ports_the_first_byte_decides_and_upgrades_go_through() {
    let world = World::new(MtlsMode::Strict);
    let (soon, late) = (Duration::ZERO, Duration::from_millis(300));
    let request = "GET / HTTP/1.1\r\nhost: late\r\n\r\n";
    for family in 0..2 {
        let at = |number: u8, port: u16| match family {
            0 => format!("10.96.0.{number}:{port}"),
            _ => format!("[fd96::{number}]:{port}"),
        };
        // A server that speaks first is heard by a client that waits.
        assert_eq!(world.ground.talk(Place::Client, &at(12, 7000), &[], "banner\n"), "banner\n");
        // A client that only thought for a while still sends requests, which the server's sidecar sees as such.
        for pause in [soon, late] {
            let answer = world.ground.talk(Place::Client, &at(13, 7001), &[(pause, request)], "host: late");
            assert!(answer.contains("URI=spiffe://east.demo/ns/default/sa/web"), "{pause:?}: {answer}");
        }
        let upgrade = "GET /chat HTTP/1.1\r\nhost: reviews\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        let spoken = world.ground.talk(Place::Client, &at(10, 80), &[(soon, upgrade), (late, "ping")], "ping");
        assert!(spoken.starts_with("HTTP/1.1 101 ") && spoken.ends_with("\r\n\r\nping"), "{spoken}");
    }
}

#[test]
fn registry_only_lets_nothing_out_that_the_mesh_does_not_know() {
    let world = World::with(MtlsMode::Permissive, UnknownHosts::Refuse);
    for outside in OUTSIDE {
        let reset = world.curl(Place::Client, &[&format!("telnet://{outside}:2525")]).unwrap_err();
        assert!(reset.contains("reset by peer"), "{reset}");
        world.client.record(&format!("{outside}:2525 BlackHoleCluster "));
        for port in [80, 8080] {
            let url = format!("http://{outside}:{port}/");
            let asked = ["--output", "/dev/null", "--write-out", "%{http_code}", &url];
            assert_eq!(world.curl(Place::Client, &asked).unwrap(), "502", "{url}");
        }
    }
    assert!(world.curl(Place::Client, &[&format!("http://{}/", SERVICE[0])]).is_ok());
}

#[test]
fn what_is_excluded_does_not_meet_the_sidecar() {
    let world = World::new(MtlsMode::Permissive);
    let url = "http://10.77.0.3:8080/";
    let as_user = ["setpriv", "--reuid", "4242", "--clear-groups"];
    let as_group = ["setpriv", "--regid", "4243", "--clear-groups"];
    let cases: [(&[&str], &[&str]); 5] = [
        (&["--exclude-outbound-ports", "8080"], &[]),
        (&["--exclude-outbound-ip-ranges", "10.77.0.0/24"], &[]),
        (&["--include-outbound-ip-ranges", "10.96.0.0/16"], &[]),
        (&["--proxy-uid", "4242"], &as_user),
        (&["--proxy-gid", "4243"], &as_group),
    ];
    for (settings, before) in cases {
        world.ground.capture(Place::Client, "apply", settings);
        world.ground.run(Place::Client, before, &[url]).unwrap();
        let met = world.client.records().iter().any(|record| record.contains(":8080 "));
        assert!(!met, "{settings:?}: {:?}", world.client.records());
    }
    world.ground.run(Place::Client, &as_user, &[url]).unwrap();
    world.client.record(":8080 PassthroughCluster ");
    // Annotations say the same.
    let annotations = world.ground.file("annotations", "traffic.sidecar.istio.io/excludeOutboundPorts=\"8080\"\n");
    world.ground.capture(Place::Client, "apply", &["--annotations", &annotations]);
    world.curl(Place::Client, &[url]).unwrap();
    assert_eq!(world.client.records().iter().filter(|record| record.contains(":8080 ")).count(), 1);
}

#[test]
fn plain_text_from_outside_meets_the_policy() {
    for (mode, open) in [(MtlsMode::Permissive, true), (MtlsMode::Strict, false)] {
        let world = World::new(mode);
        for server in SERVER {
            for port in ["9080", "7777"] {
                let answer = world.curl(Place::Outside, &[&format!("http://{server}:{port}/")]);
                assert_eq!(answer.is_ok(), open, "{mode:?} {server}:{port}: {answer:?}");
                let cluster = if port == "7777" { "InboundPassthroughCluster" } else { "" };
                world.server.record(&format!("{server}:{port} {cluster} mtls=false"));
            }
            // The sidecar's own ports are no way around it: nothing was captured there, so nothing is carried.
            for port in ["15001", "15006"] {
                assert!(world.curl(Place::Outside, &[&format!("http://{server}:{port}/")]).is_err());
            }
            // Its admin port answers itself.
            assert_eq!(world.curl(Place::Outside, &[&format!("http://{server}:15020/")]).unwrap(), "admin");
        }
        world.ground.capture(Place::Server, "apply", &["--exclude-inbound-ports", "7777"]);
        assert!(
            world.curl(Place::Outside, &["http://10.77.0.2:7777/"]).is_ok(),
            "an excluded port is the application's"
        );
    }
}

#[test]
fn a_ruleset_is_replaced_under_traffic_and_removed_without_a_trace() {
    let world = World::new(MtlsMode::Strict);
    std::thread::scope(|scope| {
        let requests = scope.spawn(|| {
            for number in 0..40 {
                let answer = world.curl(Place::Client, &[&format!("http://{}/{number}", SERVICE[number % 2])]);
                assert!(answer.is_ok(), "request {number} while the ruleset was replaced: {answer:?}");
            }
        });
        while !requests.is_finished() {
            world.ground.capture(Place::Client, "apply", &["--exclude-outbound-ports", "9"]);
            world.ground.capture(Place::Client, "apply", &[]);
        }
        requests.join().unwrap();
    });
    let refused = world.ground.try_capture(Place::Client, "apply", &["--exclude-outbound-ports", "ssh"]).unwrap_err();
    assert!(
        refused.contains("--exclude-outbound-ports: \"ssh\" is no port") && refused.contains("hint: "),
        "{refused}"
    );
    assert!(
        world.curl(Place::Client, &[&format!("http://{}/", SERVICE[0])]).is_ok(),
        "a refused ruleset changes nothing"
    );
    for _ in 0..2 {
        world.ground.capture(Place::Client, "remove", &[]);
    }
    assert_eq!(world.ground.exec(Place::Client, &["nft", "list", "ruleset"]).unwrap(), "");
    let started = std::time::Instant::now();
    assert!(
        world.curl(Place::Client, &["http://10.77.0.3:8080/"]).is_ok() && started.elapsed() < Duration::from_secs(9)
    );
    assert!(!world.client.records().iter().any(|record| record.contains(":8080 ")), "nothing is captured any longer");
}
