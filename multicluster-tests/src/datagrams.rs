//! UDP: questions that may be lost, and many datagrams of which nearly all come back.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::Scenario;

/// How long an answer may take before its question counts as lost.
const LOST: Duration = Duration::from_secs(2);
/// How many datagrams may be unanswered at a time. Queues on the way are bounded and drop what is too much for them, so that a
/// client that does not look would measure how fast the machine is.
const AHEAD: usize = 8;

/// What a name means to a pod, of both families.
pub async fn addresses(scenario: &Scenario, pod: &str, name: &str) -> BTreeSet<IpAddr> {
    let said = scenario.ok(&["fleet", "exec", pod, "--", "getent", "ahosts", name]).await;
    let found = said.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect();
    assert_ne!(found, BTreeSet::new(), "{name}: {said}");
    found
}

/// A socket that hears nobody but this server.
pub async fn connected(server: SocketAddr) -> UdpSocket {
    let any: SocketAddr = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().expect("an address");
    let socket = UdpSocket::bind(any).await.expect("a socket");
    socket.connect(server).await.expect("any address will do");
    socket
}

/// Asks an echo server until an answer comes: datagrams may be lost.
pub async fn echo(server: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let (socket, mut answer) = (connected(server).await, vec![0; 65_536]);
    for _ in 0..15 {
        socket.send(payload).await.expect("sent");
        if let Ok(Ok(length)) = timeout(LOST, socket.recv(&mut answer)).await {
            answer.truncate(length);
            return Some(answer);
        }
    }
    None
}

/// Sends the datagrams `0..count`, and gives the numbers of those that came back: `receive` waits for one for so long. None waits
/// for those that are lost for longer than that takes to tell.
pub async fn exchange(
    count: u32,
    send: impl AsyncFn(u32),
    mut receive: impl AsyncFnMut(Duration) -> Option<u32>,
) -> BTreeSet<u32> {
    let (mut came, mut lost) = (BTreeSet::new(), 0);
    for (sent, number) in (1_usize..).zip(0..count) {
        send(number).await;
        let ahead = if number + 1 == count { 1 } else { AHEAD };
        while sent.saturating_sub(came.len() + lost) >= ahead {
            match receive(LOST).await {
                Some(number) => drop(came.insert(number)),
                None => lost = sent - came.len(),
            }
        }
    }
    came
}
