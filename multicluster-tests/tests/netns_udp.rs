//! UDP of unchanged applications on the ground `netns`: what pods send is captured, and answers come from where it was sent.
//!
//! `cargo test -p isthmus-multicluster-tests --test netns_udp`, as root.

#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "whatever fails here is a failed test")]

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc;
use std::time::Duration;

use multicluster_tests::{Scenario, addresses, connected, echo, eventually, exchange, on_netns, step, tool, within};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

/// `east/web` asks. `names` is a DNS server, the others send back what they get.
const FILE: &str = "
name: netns-udp
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    workloads:
      - {name: web, labels: {app: web, version: v1}}
      - {name: near, ports: &ports [{name: datagrams, port: 7, protocol: udp}]}
  - name: west
    workloads:
      - {name: echo, ports: *ports, export: true}
      - name: names
        export: true
        command: [dnsmasq, --keep-in-foreground, --conf-file=/dev/null, --no-resolv, --no-hosts, --pid-file=, --user=root,
          --bind-interfaces, '--listen-address={host}', '--port={port:dns}', '--address=/answer.example/192.0.2.7']
        ports: [{name: dns, port: 53, protocol: udp}]
";

const ECHO: &str = "echo.default.svc.clusterset.local";
const NAMES: &str = "names.default.svc.clusterset.local";
const NEAR: &str = "near.default.svc.cluster.local";
const LONG: Duration = Duration::from_secs(30);

#[test]
fn datagrams_of_unchanged_pods_are_captured_and_cross_clusters() {
    tool("dig", "bind9-dnsutils");
    tool("dnsmasq", "dnsmasq-base");
    on_netns(FILE, async |scenario| {
        names_are_asked_by_dig(scenario).await;
        step("1,200 bytes go to another cluster and come back, of both families");
        for address in addresses(scenario, "east/web", ECHO).await {
            echoes(scenario, SocketAddr::new(address, 7));
        }
        step("as in the own cluster, by address of the service and of the pod");
        for address in addresses(scenario, "east/web", NEAR).await.into_iter().chain([pod(scenario, "east", "near")]) {
            echoes(scenario, SocketAddr::new(address, 7));
        }
        both_ends_know_each_other(scenario).await;
        step("a pod, at a port that nobody declared");
        undeclared(scenario);
        step("a pod's own answers to plain clients are left alone");
        assert_eq!(echo(SocketAddr::new(pod(scenario, "east", "near"), 7), &[3; 900]).await, Some(vec![3; 900]));
    });
}

async fn names_are_asked_by_dig(scenario: &Scenario) {
    let address = addresses(scenario, "east/web", NAMES).await.first().expect("an address").to_string();
    for server in [NAMES, &address] {
        step(&format!("dig @{server}"));
        let (at, arguments) = (format!("@{server}"), ["+short", "+notcp", "+tries=1", "+time=5", "www.answer.example"]);
        let command = [&["fleet", "exec", "east/web", "--", "dig", &at][..], &arguments].concat();
        eventually("an answer", LONG, async || {
            let said = scenario.ok(&command).await;
            (said.trim() == "192.0.2.7").then_some(()).ok_or(said)
        })
        .await;
    }
    // The pod's own resolver is none of the mesh's services.
    let own = scenario.ok(&["fleet", "exec", "east/web", "--", "dig", "+short", "+notcp", ECHO]).await;
    assert!(own.trim().parse::<IpAddr>().is_ok(), "{own}");
}

fn pod(scenario: &Scenario, cluster: &str, workload: &str) -> IpAddr {
    let pods = &scenario.fleet.cluster(cluster).expect("the cluster").pods;
    pods.iter().find(|pod| pod.workload == workload).expect("the pod").ip.into()
}

/// A client in `east/web`: its socket is connected, so that it hears nobody but whom it asked.
fn echoes(scenario: &Scenario, server: SocketAddr) {
    let came = within(&scenario.fleet, "east/web-1", async || {
        assert_eq!(echo(server, &[1; 1200]).await, Some(vec![1; 1200]), "{server}");
        let (socket, mut answer) = (connected(server).await, vec![0; 2000]);
        let send = async |number| {
            socket.send(&[u8::try_from(number).unwrap(); 1200]).await.unwrap();
        };
        let receive = async |within| {
            let length = tokio::time::timeout(within, socket.recv(&mut answer)).await.ok()?.unwrap();
            assert_eq!(&answer[..length], [answer[0]; 1200]);
            Some(answer[0].into())
        };
        exchange(100, send, receive).await.len()
    });
    assert!(came >= 95, "{server}: {came} of 100 came back");
}

async fn both_ends_know_each_other(scenario: &Scenario) {
    step("the server's sidecar knows the client");
    eventually("metrics of both ends", LONG, async || {
        let admin = (pod(scenario, "west", "echo"), 15020).into();
        let (_, text) =
            fleet::http::get(admin, "/metrics", Duration::from_secs(5)).await.map_err(|error| error.to_string())?;
        let server = String::from_utf8_lossy(&text).into_owned();
        let known = server.lines().any(|line| {
            line.starts_with("istio_tcp_connections_opened_total")
                && line.contains("source_principal=\"spiffe://east.demo/ns/default/sa/web\"")
                && line.contains("request_protocol=\"udp\"")
        });
        known.then_some(()).ok_or(server)
    })
    .await;
}

/// Gossip between pods is of this kind.
fn undeclared(scenario: &Scenario) {
    let near = pod(scenario, "east", "near");
    let answer = std::thread::scope(|scope| {
        let ((told, serving), stop) = (mpsc::channel::<u16>(), CancellationToken::new());
        let stopped = stop.clone();
        scope.spawn(move || {
            within(&scenario.fleet, "east/near-1", async || {
                let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
                told.send(socket.local_addr().unwrap().port()).unwrap();
                let mut datagram = vec![0; 2000];
                while let Some(received) = stopped.run_until_cancelled(socket.recv_from(&mut datagram)).await {
                    let (length, from) = received.unwrap();
                    socket.send_to(&datagram[..length], from).await.unwrap();
                }
            });
        });
        let port = serving.recv().unwrap();
        let answer = within(&scenario.fleet, "east/web-1", async || echo((near, port).into(), b"hello").await);
        stop.cancel();
        answer
    });
    assert_eq!(answer.as_deref(), Some(&b"hello"[..]));
}
