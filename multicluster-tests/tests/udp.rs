//! UDP across clusters, through the SOCKS5 proxy of a sidecar (UDP ASSOCIATE): an echo of datagrams and a DNS server.

#![expect(clippy::unwrap_used, reason = "whatever fails here is a failed test")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use fleet::dns;
use multicluster_tests::{Scenario, eventually, exchange, step, tool};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

const FLEET: &str = "
name: udp
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    gateways: 1
    workloads:
      - {name: web, serviceAccount: web, labels: {app: web, version: v1}}
      - {name: other, serviceAccount: other, labels: {app: other, version: v1}}
      - {name: near, labels: {app: near, version: v1}, ports: [{name: datagrams, port: 7, protocol: udp}]}
  - name: west
    gateways: 1
    workloads:
      - name: echo
        serviceAccount: echo
        labels: {app: echo, version: v1}
        export: true
        ports: [{name: datagrams, port: 7, protocol: udp}, {name: http, port: 9080, protocol: http}]
      - name: names
        serviceAccount: names
        labels: {app: names, version: v1}
        export: true
        command: [dnsmasq, --keep-in-foreground, --conf-file=/dev/null, --no-resolv, --no-hosts, --pid-file=, --user=root,
          --bind-interfaces, '--listen-address={host}', '--port={port:dns}', '--address=/answer.example/192.0.2.7']
        ports: [{name: dns, port: 53, protocol: udp}]
";

const ECHO: &str = "echo.default.svc.clusterset.local";
const NAMES: &str = "names.default.svc.clusterset.local";

/// A place of a SOCKS5 proxy that takes datagrams (RFC 1928, sections 4 and 7).
struct Association {
    socket: UdpSocket,
    /// It lives as long as this.
    _control: TcpStream,
}

impl Association {
    async fn new(proxy: SocketAddr) -> Self {
        let mut control = TcpStream::connect(proxy).await.unwrap();
        control.write_all(b"\x05\x01\x00").await.unwrap();
        let mut method = [0; 2];
        control.read_exact(&mut method).await.unwrap();
        assert_eq!(method, [5, 0]);
        control.write_all(b"\x05\x03\x00\x01\0\0\0\0\0\0").await.unwrap();
        let mut answer = [0; 10];
        control.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer[..4], [5, 0, 0, 1]);
        let ip: [u8; 4] = answer[4..8].try_into().unwrap();
        let bound = SocketAddr::from((Ipv4Addr::from(ip), u16::from_be_bytes([answer[8], answer[9]])));
        let socket = UdpSocket::bind((control.local_addr().unwrap().ip(), 0)).await.unwrap();
        socket.connect(bound).await.unwrap();
        Self { socket, _control: control }
    }

    async fn send(&self, host: &str, port: u16, payload: &[u8]) {
        let mut datagram = vec![0, 0, 0, 3, u8::try_from(host.len()).unwrap()];
        datagram.extend(host.bytes().chain(port.to_be_bytes()).chain(payload.iter().copied()));
        self.socket.send(&datagram).await.unwrap();
    }

    /// The next answer, if it comes in time.
    async fn receive(&self, host: &str, within: Duration) -> Option<Vec<u8>> {
        let mut datagram = vec![0; 65_536];
        let received = tokio::time::timeout(within, self.socket.recv(&mut datagram)).await.ok()?;
        datagram.truncate(received.unwrap());
        assert_eq!(&datagram[5..5 + host.len()], host.as_bytes());
        Some(datagram.split_off(5 + host.len() + 2))
    }

    /// Asks until an answer comes: datagrams may be lost.
    async fn ask(&self, host: &str, port: u16, payload: &[u8]) -> Vec<u8> {
        eventually("an answer", Duration::from_secs(30), async || {
            self.send(host, port, payload).await;
            self.receive(host, Duration::from_secs(2)).await.ok_or_else(|| format!("none from {host}:{port}"))
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_and_dns_cross_clusters() {
    tool("dnsmasq", "dnsmasq-base");
    let scenario = Scenario::up(FLEET).await;
    let web = Association::new(scenario.proxy("east/web")).await;

    step("datagrams of 1,200 bytes come back whole");
    web.ask(ECHO, 7, b"are you there").await;
    let datagram = |n: u32| [&n.to_be_bytes()[..], &vec![n as u8; 1196]].concat();
    // Neither order nor arrival is promised; what comes is whole.
    let receive = async |within| loop {
        let answer = web.receive(ECHO, within).await?;
        let number = u32::from_be_bytes(answer[..4].try_into().unwrap());
        // A late answer to the question before is none.
        if answer.len() == 1200 {
            assert_eq!(answer, datagram(number));
            return Some(number);
        }
    };
    let seen = exchange(200, async |n| web.send(ECHO, 7, &datagram(n)).await, receive).await;
    assert!(seen.len() >= 190, "{} of 200", seen.len());

    step("a server of the own cluster answers");
    assert_eq!(web.ask("near", 7, &[5; 1200]).await, [5; 1200]);

    step("a DNS server answers");
    let question = dns::question(4711, "www.answer.example").unwrap();
    let answer = dns::parse(4711, &web.ask(NAMES, 53, &question).await).expect("an answer");
    assert_eq!((answer.code, answer.addresses), (0, vec![Ipv4Addr::new(192, 0, 2, 7)]));

    step("both ends record the flow, with the identity of the client");
    drop(web);
    let log = |cluster: &str, pod: &str| {
        let text = std::fs::read_to_string(scenario.fleet.layout.log(&format!("{cluster}/{pod}/sidecar"))).unwrap();
        let of_udp = text.lines().filter(|line| line.contains("\"protocol\":\"udp\"")).map(str::to_owned);
        of_udp.collect::<Vec<_>>().join("\n")
    };
    eventually("a record at each end", Duration::from_secs(20), async || {
        let (client, server) = (log("east", "web-1"), log("west", "echo-1"));
        let known = server.contains("spiffe://east.demo/ns/default/sa/web") && client.contains("gateway-1");
        known.then_some(()).ok_or_else(|| format!("client: {client}\nserver: {server}"))
    })
    .await;

    step("a policy refuses the datagrams of others");
    scenario.apply("west", POLICY).await;
    let (web, other) =
        (Association::new(scenario.proxy("east/web")).await, Association::new(scenario.proxy("east/other")).await);
    web.ask(ECHO, 7, b"still there").await;
    for _ in 0..3 {
        other.send(ECHO, 7, b"let me in").await;
        assert_eq!(other.receive(ECHO, Duration::from_secs(1)).await, None);
    }
}

const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-web}
spec:
  selector: {matchLabels: {app: echo}}
  action: ALLOW
  rules: [{from: [{source: {principals: [east.demo/ns/default/sa/web]}}]}]
";
