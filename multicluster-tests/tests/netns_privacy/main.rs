//! Proof of privacy, on the wire: what anybody between the clusters, and whoever holds a gateway, can see and do.
//!
//! `cargo test -p isthmus-multicluster-tests --test netns_privacy`, as root; needs tcpdump.

#![expect(clippy::expect_used, clippy::panic, reason = "whatever fails here is a failed test")]

mod capture;
mod flows;
mod hostile;
mod packet;
mod quic;
mod search;
mod tls;

use std::time::Duration;

use fleet::call::{Call, Reply, Speak};
use fleet::echo::Answer;
use fleet::http::get_json;
use http::Method;
use multicluster_tests::{Scenario, addresses, echo, eventually, on_netns, step, tool, within};
use rustix::process::Signal;
use serde_json::Value;

use capture::Capture;
use flows::{Between, Inside};
use search::Search;

/// Names that occur nowhere else, each long enough that no ciphertext has them by chance. Between east and west is an emulated
/// link, so that UDP can be blocked; north exists only so that something is exported to somebody else.
const FILE: &str = "
name: privacy
mesh: demo
hub: {nodes: 1}
wan: [{between: [east, west]}]
clusters:
  - name: east
    workloads:
      - {name: heronries, namespace: mudflats, serviceAccount: ospreynest}
      - {name: stilthouse, namespace: mudflats, serviceAccount: stilthouse}
  - name: west
    workloads:
      - name: kingfisher
        namespace: mudflats
        serviceAccount: pelicanry
        labels: {app: kingfisher, kind: bird}
        export: true
        ports:
          - {name: http, port: 9080, protocol: http}
          - {name: grpc, port: 9090, protocol: grpc}
          - {name: tcp, port: 9000, protocol: tcp}
          - {name: first, port: 9001, protocol: tcp-server-first}
          - {name: datagrams, port: 9007, protocol: udp}
      - {name: sanderling, namespace: mudflats, serviceAccount: wader, mesh: false, labels: {kind: bird}, export: true, ports: [{name: http, port: 9080, protocol: http}]}
      - {name: bitternreed, namespace: mudflats, serviceAccount: bitternreed, ports: [{name: http, port: 9080, protocol: http}]}
      - {name: turnstone, namespace: mudflats, export: [north], ports: [{name: http, port: 9080, protocol: http}]}
  - name: north
    workloads:
      - {name: guillemot}
";

const HOST: &str = "kingfisher.mudflats.svc.clusterset.local";
const CLIENT: &str = "spiffe://east.demo/ns/mudflats/sa/ospreynest";
const SERVER: &str = "west/kingfisher-1";

const PATH: &str = "sandpiper-path";
const HEADER: &str = "x-plover-header";
const VALUE: &str = "curlew-token-7341";
const BODY: &str = "dunlin-body-text";
const MESSAGE: &str = "avocet-message";
const BYTES: &str = "whimbrel-bytes";
const DATAGRAM: &str = "phalarope-datagram";

/// What must be readable nowhere but between the server's sidecar and the server.
const WORDS: [&str; 17] = [
    PATH,
    HEADER,
    VALUE,
    BODY,
    MESSAGE,
    BYTES,
    DATAGRAM,
    "kingfisher",
    "mudflats",
    "pelicanry",
    "ospreynest",
    "heronries",
    "bitternreed",
    "turnstone",
    "clusterset",
    "spiffe://",
    "isthmus.echo",
];

const PATIENCE: Duration = Duration::from_secs(30);

/// A call of the client to a port of the server.
async fn call(scenario: &Scenario, speak: Speak, target: &str, body: &'static str) -> Reply {
    let mut call = Call::get(scenario.proxy("east/heronries"), &format!("http://{HOST}:{target}")).expect("a URL");
    call.header(&format!("{HEADER}: {VALUE}")).expect("a header");
    (call.speak, call.body) = (speak, body.into());
    if speak == Speak::Http1 {
        call.method = Method::POST;
    }
    let reply = call.send().await;
    reply.unwrap_or_else(|error| panic!("{target}: {error:#}\n{}", scenario.logs()))
}

/// HTTP, gRPC, TCP either way round, UDP, and DNS, each with what may not be seen; the server must have seen it all, and the client's
/// own identity.
async fn traffic(scenario: &Scenario) {
    // Sidecars find their gateways and paths again.
    eventually("an answer from the other cluster", PATIENCE, async || {
        let shot = scenario.shot("east/heronries", &format!("http://{HOST}:9080/"), &[]).await;
        if shot.status == 200 { Ok(()) } else { Err(format!("{shot:?}")) }
    })
    .await;
    let reply = call(scenario, Speak::Http1, &format!("9080/{PATH}"), BODY).await;
    let answer: Answer = serde_json::from_slice(&reply.body).expect("the echo server's answer");
    assert_eq!(answer.client_identity, CLIENT, "{answer:?}");
    assert_eq!((answer.path.as_str(), answer.body_bytes), (&*format!("/{PATH}"), BODY.len() as u64));
    assert_eq!(answer.headers.get(HEADER).map(String::as_str), Some(VALUE));
    let reply = call(scenario, Speak::Grpc, "9090/isthmus.echo.v1.Echo/ServerStream", MESSAGE).await;
    let said = String::from_utf8_lossy(&reply.body).into_owned();
    assert!(said.contains(MESSAGE) && said.contains(CLIENT), "{:?} {said}", reply.grpc_status);
    for port in ["9000", "9001"] {
        let reply = call(scenario, Speak::Tcp, port, BYTES).await;
        assert!(String::from_utf8_lossy(&reply.body).contains(BYTES), "{port}: {:?}", reply.body);
    }
    // As an application does it: a name, asked of the cluster's shim, and a captured connection.
    let url = format!("http://{HOST}:9080/{PATH}");
    let curl = ["curl", "-sS", "--max-time", "20", "-H", &format!("{HEADER}: {VALUE}"), "-d", BODY, &url];
    let said = scenario.ok(&[&["fleet", "exec", "east/heronries", "--"], &curl[..]].concat()).await;
    assert!(said.contains(CLIENT), "{said}");
    datagrams(scenario).await;
}

/// UDP of an application: as it fits into a packet of the WAN, and longer.
async fn datagrams(scenario: &Scenario) {
    for address in addresses(scenario, "east/heronries", HOST).await {
        for length in [0, 900, 4000] {
            let payload = [DATAGRAM.as_bytes(), &vec![b'.'; length]].concat();
            let server = (address, 9007).into();
            let echoed = within(&scenario.fleet, "east/heronries-1", async || echo(server, &payload).await);
            assert!(echoed == Some(payload), "{server}, {length} bytes more: {echoed:?}");
        }
    }
}

/// Some datagrams were datagrams of QUIC, and some went on streams: the longer ones, and all over TCP.
async fn went_both_ways(scenario: &Scenario) {
    for (cluster, direction) in [("east", "sent"), ("east", "received"), ("west", "sent"), ("west", "received")] {
        let as_datagrams = carried(scenario, cluster, direction, "datagram").await;
        let on_streams = carried(scenario, cluster, direction, "stream").await;
        println!("the gateway of {cluster} has {direction} {as_datagrams} datagrams of QUIC, {on_streams} on streams");
        assert!(as_datagrams > 0 && on_streams > 0, "{cluster} {direction}: {as_datagrams}, {on_streams}");
    }
}

/// How many datagrams a gateway has sent to another cluster, or received from there, as datagrams of QUIC or on streams.
async fn carried(scenario: &Scenario, cluster: &str, direction: &str, how: &str) -> u64 {
    let gateway = scenario.fleet.cluster(cluster).expect("a cluster").gateways[0].ip;
    let admin = fleet::plan::at(gateway, fleet::plan::port::ADMIN);
    let (_, metrics) = fleet::http::get(admin, "/metrics", PATIENCE).await.expect("metrics");
    let name = format!("isthmus_gateway_datagrams_total{{direction=\"{direction}\",carried=\"{how}\"}} ");
    let text = String::from_utf8_lossy(&metrics).into_owned();
    text.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or_default()
}

/// What is started anew, in this order, so that every handshake is captured whole.
const ANEW: [&str; 4] = ["east/agent", "west/agent", "east/gateway-1", "west/gateway-1"];

/// Waits until new flows of east's gateway to west take a transport.
async fn until_over(scenario: &Scenario, transport: &str) {
    let gateway = scenario.fleet.cluster("east").expect("east").gateways[0].ip;
    let admin = fleet::plan::at(gateway, fleet::plan::port::ADMIN);
    eventually(&format!("new flows over {transport}"), PATIENCE, async || {
        let paths = get_json(admin, "/debug/paths", PATIENCE).await.map_err(|error| error.to_string())?;
        let rows = paths.as_array().cloned().unwrap_or_default();
        let carries = |connection: &Value| connection["transport"] == transport && connection["usable"] == true;
        let over = |row: &Value| {
            let connections = row["connections"].as_array().into_iter().flatten();
            row["cluster"] == "west" && row["transport"] == transport && connections.into_iter().any(carries)
        };
        if rows.iter().any(over) { Ok(()) } else { Err(paths.to_string()) }
    })
    .await;
}

#[test]
fn whoever_listens_between_the_clusters_or_at_a_gateway_reads_nothing() {
    tool("tcpdump", "tcpdump");
    tool("curl", "curl");
    on_netns(FILE, async |scenario| {
        let devices = [
            ("east/fabric", "wan0"),
            ("east/fabric", "wan2"),
            ("east/fabric", "wan3"),
            ("west/fabric", "wan0"),
            ("west/fabric", "wan1"),
            ("west/fabric", "wan3"),
        ];
        for process in ANEW {
            scenario.fleet.signal(process, Signal::KILL).await.expect("it runs");
        }
        let between: Vec<_> =
            devices.iter().map(|(namespace, device)| Capture::begin(scenario, namespace, device)).collect();
        let gateways = ["east/gateway-1", "west/gateway-1"].map(|name| Capture::begin(scenario, name, "eth0"));
        let server = Capture::begin(scenario, SERVER, "lo");
        let before_sidecar = Capture::begin(scenario, SERVER, "eth0");
        step("captures run; gateways and agents start anew");
        for process in ANEW {
            scenario.fleet.start(process, PATIENCE).await.expect("it starts");
        }
        until_over(scenario, "quic").await;
        traffic(scenario).await;
        step("traffic over QUIC is done; UDP is blocked");
        scenario.fleet.set_wan("east", "west", ["block-udp=on"]).expect("the link is emulated");
        until_over(scenario, "tcp").await;
        traffic(scenario).await;
        step("traffic over TCP is done");

        let gateways = gateways.map(Capture::end);
        // Only now: operators read the names of services in metrics.
        went_both_ways(scenario).await;

        let search = Search::new(&WORDS);
        let plain = server.end();
        let missed = search.missing(plain.frames.iter().map(Vec::as_slice));
        let never: Vec<_> =
            missed.iter().filter(|word| [PATH, HEADER, VALUE, BODY, MESSAGE, BYTES, DATAGRAM].contains(word)).collect();
        assert!(never.is_empty(), "the search finds nothing where it must: {never:?}");

        // What gateways read of a flow's header goes no further than to them: the server's sidecar gets ciphertext.
        let arriving = before_sidecar.end();
        arriving.frames.iter().for_each(|frame| search.none_in(frame, &arriving.name));

        let mut seen = Between::new(scenario.fleet.plan(), &search);
        between.into_iter().for_each(|capture| seen.take(&capture.end()));
        seen.check();
        for (cluster, capture) in ["east", "west"].into_iter().zip(gateways) {
            let mut seen = Inside::new(scenario.fleet.plan(), cluster, &search);
            seen.take(&capture);
            seen.check();
        }
    });
}
