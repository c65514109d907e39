//! Floods against the listeners of a live fleet: each process stays within its memory, answers normal requests beside the
//! flood in bounded time, and says in a metric what it shed.

#![expect(clippy::unwrap_used, reason = "whatever fails here is a failed test")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use identity::{Credentials, PeerPolicy, TrustBundles, connect_tls};
use mesh::{Namespace, SpiffeId, TrustDomain};
use multicluster_tests::{Scenario, step};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

const FLEET: &str = "
name: floods
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    gateways: 1
    ingress: [{}]
    workloads:
      - {name: web, serviceAccount: web, labels: {app: web, version: v1}}
  - name: west
    gateways: 1
    workloads:
      - name: reviews
        serviceAccount: reviews
        labels: {app: reviews, version: v2}
        export: true
        ports: [{name: http, port: 9080, protocol: http}]
";

const INGRESS: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: default}
spec:
  hosts: ['*']
  gateways: [gw]
  http: [{directResponse: {status: 200}}]
";

/// Where floods come from, which is not where the fleet's own processes and the normal requests do.
const FLOODER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 9, 9, 9));
/// Connections that one source holds and says nothing on.
const STALLED: usize = 400;
/// How long a normal request beside a flood may take, on a machine that others use too.
const BOUND: Duration = Duration::from_secs(8);
/// What a process may grow by, through all floods.
const GROWTH: u64 = 64 << 20;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// How a listener is spoken to.
#[derive(Clone)]
enum Speaks {
    /// Mutual TLS with HTTP/2 inside, as this identity.
    Mutual(Credentials),
    /// The same between gateways.
    Tunnel(Credentials),
    /// TLS with HTTP/2 inside, for whoever comes.
    Open(Credentials),
    /// HTTP in plain text; the request that is normal here.
    Plain(&'static str),
}

struct Door {
    process: &'static str,
    name: &'static str,
    address: SocketAddr,
    speaks: Speaks,
}

fn id(trust_domain: &str, account: &str) -> SpiffeId {
    SpiffeId::new(TrustDomain::new(trust_domain).unwrap(), Namespace::new("default").unwrap(), account).unwrap()
}

fn system(trust_domain: &str, account: &str) -> SpiffeId {
    SpiffeId::system(TrustDomain::new(trust_domain).unwrap(), account).unwrap()
}

fn doors(scenario: &Scenario) -> Vec<Door> {
    let plan = scenario.fleet.plan();
    let (east, west) = (plan.cluster("east").unwrap(), plan.cluster("west").unwrap());
    let pod = |name: &str| plan.clusters.iter().flat_map(|cluster| &cluster.pods).find(|pod| pod.workload == name);
    let (web, reviews) = (pod("web").unwrap().ip, pod("reviews").unwrap().ip);
    let mutual = |id| Speaks::Mutual(scenario.fakes(id).good());
    let open = || {
        let mut bundles = TrustBundles::default();
        for name in ["hub", "east", "west"] {
            bundles.insert(scenario.ca(name).bundle(1).unwrap());
        }
        Speaks::Open(Credentials::anonymous(bundles))
    };
    let door = |process, name, ip: Ipv4Addr, port, speaks| Door {
        process,
        name,
        address: SocketAddr::from((ip, port)),
        speaks,
    };
    let gateway = west.gateways[0].ip;
    let explicit = "GET http://reviews.default.svc.clusterset.local:9080/x HTTP/1.1\r\nhost: x\r\n\r\n";
    let plain = "GET /x HTTP/1.1\r\nhost: reviews.default.svc.cluster.local:9080\r\n\r\n";
    let shop = "GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n";
    let health = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    vec![
        door("hub-1", "hub api", plan.hub[0].ip, 7443, mutual(system("hub.demo", "operator"))),
        door("hub-1", "hub join", plan.hub[0].ip, 7444, open()),
        door("west/agent", "agent discovery", west.agent, 15010, mutual(id("west.demo", "reviews"))),
        door("west/agent", "agent ca", west.agent, 15012, open()),
        door("west/gateway-1", "gateway hbone", gateway, 15008, mutual(id("west.demo", "reviews"))),
        door(
            "west/gateway-1",
            "gateway tunnel",
            gateway,
            15443,
            Speaks::Tunnel(scenario.fakes(system("east.demo", "gateway")).good()),
        ),
        door("west/gateway-1", "gateway admin", gateway, 15020, Speaks::Plain(health)),
        door("west/reviews-1/sidecar", "sidecar mtls", reviews, 15008, mutual(id("east.demo", "web"))),
        door("west/reviews-1/sidecar", "sidecar plain", reviews, 9080, Speaks::Plain(plain)),
        door("east/web-1/sidecar", "sidecar explicit", web, 15001, Speaks::Plain(explicit)),
        door("east/istio-ingressgateway", "ingress", east.edges[0].ip, 8080, Speaks::Plain(shop)),
    ]
}

async fn dial(address: SocketAddr, from: Option<IpAddr>) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(from) = from {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    socket.connect(address).await
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Door {
    /// A connection on which HTTP can be spoken.
    async fn open(&self, from: Option<IpAddr>) -> Result<Box<dyn Stream>, String> {
        let tcp = dial(self.address, from).await.map_err(|error| error.to_string())?;
        let (credentials, alpn) = match &self.speaks {
            Speaks::Plain(_) => return Ok(Box::new(tcp)),
            Speaks::Tunnel(credentials) => (credentials, api::TUNNEL_TCP_ALPN),
            Speaks::Mutual(credentials) | Speaks::Open(credentials) => (credentials, &b"h2"[..]),
        };
        let config = credentials.client_config(PeerPolicy::AnyKnown, &[alpn]).unwrap();
        let (stream, _) = connect_tls(config, tcp, BOUND).await.map_err(|error| format!("{error:?}"))?;
        Ok(Box::new(stream))
    }

    /// A normal request on a connection of its own, and how long it took.
    async fn normal(&self) -> Result<Duration, String> {
        let begun = Instant::now();
        let answered = async {
            let mut stream = self.open(None).await?;
            let request = if let Speaks::Plain(request) = self.speaks { request.as_bytes() } else { PREFACE };
            stream.write_all(request).await.map_err(|error| error.to_string())?;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.map_err(|error| error.to_string())?;
            if matches!(self.speaks, Speaks::Plain(_)) && answer != *b"HTTP/1.1 200" {
                return Err(String::from_utf8_lossy(&answer).into_owned());
            }
            Ok(begun.elapsed())
        };
        timeout(BOUND, answered).await.map_err(|_| format!("no answer within {BOUND:?}"))?
    }

    /// Sends this until the listener has had enough, or all of it is sent; whether the listener ended it.
    async fn flood(&self, first: &[u8], again: &[u8], times: usize) -> Result<bool, String> {
        let stream = self.open(Some(FLOODER)).await?;
        let (mut reads, mut writes) = tokio::io::split(stream);
        let sending = async {
            writes.write_all(first).await?;
            for _ in 0..times {
                writes.write_all(again).await?;
            }
            writes.flush().await
        };
        let mut sink = vec![0; 64 * 1024];
        let ended = async { while matches!(reads.read(&mut sink).await, Ok(1..)) {} };
        tokio::pin!(ended);
        let sent = async {
            tokio::select! {
                () = ended.as_mut() => true,
                sent = sending => sent.is_err(),
            }
        };
        let ended_early = timeout(Duration::from_secs(4), sent).await.unwrap_or(false);
        // One that takes it all and holds nothing is fine, too: memory and normal requests are looked at.
        Ok(ended_early || timeout(Duration::from_millis(500), ended).await.is_ok())
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `:method: POST`, `:scheme: http`, `:path: /`, all of the static table, and an authority.
fn head() -> Vec<u8> {
    [&[0x83, 0x86, 0x84, 0x01, 1][..], b"x"].concat()
}

/// Floods of frames: what comes first, what again and again, and how often.
fn frames() -> Vec<(&'static str, Vec<u8>, Vec<u8>, usize)> {
    let preface = PREFACE.to_vec();
    let open = |stream: u32| frame(1, 4, stream, &head());
    let reset = |stream: u32| frame(3, 0, stream, &8_u32.to_be_bytes());
    let pairs: Vec<u8> = (0..4000).flat_map(|n| [open(2 * n + 1), reset(2 * n + 1)].concat()).collect();
    let streams: Vec<u8> = (0..20_000).flat_map(|n| open(2 * n + 1)).collect();
    let begun = [preface.clone(), frame(1, 0, 1, &head())].concat();
    let body = [preface.clone(), open(1)].concat();
    let bomb = [0x40, 1, b'a', 0x7f, 0xbd, 0x1d];
    vec![
        ("rapid reset", preface.clone(), pairs, 1),
        ("streams", preface.clone(), streams, 1),
        ("CONTINUATION", begun, frame(9, 0, 1, &[0; 8192]), 4000),
        ("PING", preface.clone(), frame(6, 0, 0, &[0; 8]).repeat(1000), 200),
        ("SETTINGS", preface.clone(), frame(4, 0, 0, &[]).repeat(1000), 200),
        ("empty DATA", body, frame(0, 0, 1, &[]).repeat(1000), 200),
        // One field of 3,900 bytes goes into the table, and is named 10,000 times by a byte each.
        ("HPACK", preface, frame(1, 5, 1, &[&head()[..], &bomb, &[b'x'; 3900], &[0xbe; 10_000]].concat()), 1),
    ]
}

/// What a process says that it shed: reasons by listener.
async fn shed(scenario: &Scenario, process: &str) -> String {
    let admin = SocketAddr::new(scenario.fleet.process(process).unwrap().address.ip(), 15020);
    let (_, metrics) = fleet::http::get(admin, "/metrics", BOUND).await.unwrap();
    let text = String::from_utf8_lossy(&metrics).into_owned();
    text.lines()
        .filter(|line| line.starts_with("isthmus_listener_shed_total{"))
        .map(|line| format!("{line}\n"))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_cost_bounded_memory_and_keep_nobody_out() {
    let scenario = Scenario::up(FLEET).await;
    scenario.apply("east", INGRESS).await;
    let doors = doors(&scenario);
    for door in &doors {
        let took = door.normal().await.unwrap_or_else(|why| panic!("{}: {why}\n{}", door.name, scenario.logs()));
        println!("{}: {took:?} without a flood", door.name);
    }
    let processes: BTreeMap<_, _> =
        doors.iter().map(|door| (door.process, scenario.memory(door.process).resident)).collect();
    let mut wrong = Vec::new();
    step("dns");
    dns(&scenario, &mut wrong).await;
    for door in &doors {
        step(door.name);
        stalled(door, &mut wrong).await;
        if let Speaks::Plain(_) = door.speaks {
            slow(door, &mut wrong).await;
        }
        // The admin listener speaks HTTP/1 only.
        if door.address.port() != 15020 && door.address.port() != 15001 {
            for (name, first, again, times) in frames() {
                let (ended, beside) = tokio::join!(door.flood(&first, &again, times), normal(door, name));
                wrong.extend(beside);
                println!("  {name}: ended by the listener: {ended:?}");
            }
        }
    }
    for (process, before) in processes {
        let peak = scenario.memory(process).peak;
        println!("{process}: {} MiB before, {} MiB at most", before >> 20, peak >> 20);
        if peak.saturating_sub(before) > GROWTH {
            wrong.push(format!("{process} grew from {before} to {peak} bytes"));
        }
        let shed = shed(&scenario, process).await;
        print!("{shed}");
        if shed.is_empty() {
            wrong.push(format!("{process} says of nothing that it was shed"));
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), scenario.logs());
}

/// A normal request; what is wrong with it.
async fn normal(door: &Door, flood: &str) -> Option<String> {
    door.normal().await.err().map(|why| format!("{} beside the flood of {flood}: {why}", door.name))
}

/// Connections that stall in the handshake, or before their first byte.
async fn stalled(door: &Door, wrong: &mut Vec<String>) {
    let mut held = Vec::new();
    for _ in 0..STALLED {
        held.extend(dial(door.address, Some(FLOODER)).await.ok());
    }
    let took = door.normal().await;
    println!("  {STALLED} stalled connections: {took:?}");
    wrong.extend(took.err().map(|why| format!("{} beside stalled connections: {why}", door.name)));
}

/// Heads that come a byte at a time, and one that does not end.
async fn slow(door: &Door, wrong: &mut Vec<String>) {
    let drip = async {
        let mut held = Vec::new();
        for _ in 0..50 {
            held.extend(dial(door.address, Some(FLOODER)).await.ok());
        }
        loop {
            for stream in &mut held {
                let _ = stream.write_all(b"G").await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let looks = async {
        let mut wrong = Vec::new();
        for _ in 0..3 {
            wrong.extend(normal(door, "slow heads").await);
        }
        let endless = door.flood(b"GET / HTTP/1.1\r\nx-a: ", &[b'x'; 16 * 1024], 256).await;
        if endless != Ok(true) {
            wrong.push(format!("{}: a head without an end is not refused: {endless:?}", door.name));
        }
        let many = door.flood(b"GET / HTTP/1.1\r\n", &b"x-a: 1\r\n".repeat(100), 100).await;
        if many != Ok(true) {
            wrong.push(format!("{}: a head of 10,000 fields is not refused: {many:?}", door.name));
        }
        wrong
    };
    tokio::select! {
        () = drip => {}
        found = looks => wrong.extend(found),
    }
}

/// A question for the address of `reviews` (RFC 1035 §4.1).
fn question() -> Vec<u8> {
    let mut message = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    for label in "reviews.default.svc.clusterset.local".split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.as_bytes());
    }
    message.extend(b"\0\0\x01\0\x01");
    message
}

/// Questions in a flood by UDP and connections that stall by TCP, and a normal question beside them.
async fn dns(scenario: &Scenario, wrong: &mut Vec<String>) {
    let (process, east) = ("east/dns", scenario.fleet.cluster("east").unwrap());
    let (address, before) = (SocketAddr::from((east.dns, east.dns_port)), scenario.memory("east/dns").resident);
    let mut held = Vec::new();
    for _ in 0..STALLED {
        held.extend(dial(address, Some(FLOODER)).await.ok());
    }
    let flooder = UdpSocket::bind((FLOODER, 0)).await.unwrap();
    for _ in 0..20_000 {
        let _ = flooder.send_to(&question(), address).await;
    }
    let asker = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let begun = Instant::now();
    let answered = async {
        let mut answer = [0; 512];
        loop {
            // As resolvers do: a datagram may be lost, above all in a flood.
            asker.send_to(&question(), address).await.unwrap();
            if let Ok(received) = timeout(Duration::from_secs(1), asker.recv(&mut answer)).await {
                return answer[..received.unwrap()].to_vec();
            }
        }
    };
    match timeout(BOUND, answered).await {
        Ok(answer) if answer[3] & 15 == 0 => println!("  by UDP beside the flood: {:?}", begun.elapsed()),
        other => wrong.push(format!("dns beside a flood: {other:?}")),
    }
    let by_tcp = async {
        let mut stream = dial(address, None).await?;
        let message = question();
        stream.write_all(&u16::try_from(message.len()).unwrap().to_be_bytes()).await?;
        stream.write_all(&message).await?;
        stream.read_u16().await
    };
    let by_tcp = timeout(BOUND, by_tcp).await;
    println!("  by TCP beside stalled connections: {by_tcp:?}");
    if !matches!(by_tcp, Ok(Ok(1..))) {
        wrong.push(format!("dns by TCP beside stalled connections: {by_tcp:?}"));
    }
    let peak = scenario.memory(process).peak;
    if peak.saturating_sub(before) > GROWTH {
        wrong.push(format!("{process} grew from {before} to {peak} bytes"));
    }
}
