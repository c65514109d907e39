//! Slow readers.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::world::*;

/// A server that reads nothing from who begins with `s`, and echoes to the others.
async fn choosy() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                if stream.read_u8().await.is_ok_and(|first| first == b's') {
                    return std::future::pending().await;
                }
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_stall_nobody_else_and_some_are_reset() {
    let (backend, trust) = (choosy().await, Trust::new());
    let west = gateway("west.demo", trust.west_gateway(), west_view(), backend).await;
    let east = gateway_with("east.demo", trust.east_gateway(), east_view(&[west.quic()]), backend, |parts, _| {
        parts.tunnel.connections = 1;
        parts.tunnel.fallback = false;
    });
    let east = east.await;
    let outer = outer(east.hbone(), &trust.web()).await.unwrap();
    super::health::until_usable(&east, 1).await;
    // More than the connection's window has place for; all are there before any is slow.
    let mut flows = Vec::new();
    for _ in 0..20 {
        let mut flow = open(&outer, &request("reviews")).await;
        flow.answer.await.unwrap();
        flow.io.write_all(b"s").await.unwrap();
        flows.push(flow.io);
    }
    let mut slow = tokio::task::JoinSet::new();
    for mut io in flows {
        slow.spawn(async move {
            let block = vec![b's'; 1 << 20];
            // Ends when the flow is reset.
            while io.write_all(&block).await.is_ok() {}
        });
    }
    let begun = Instant::now();
    for _ in 0..12 {
        let reset = tokio::time::timeout(Duration::from_secs(40), slow.join_next()).await;
        let Ok(reset) = reset else {
            panic!("no reset; {:#?}; {}", east.running.context.paths.rows(), west.registry.encode());
        };
        reset.unwrap().unwrap();
    }
    assert!(begun.elapsed() >= Duration::from_secs(8), "{:?}", begun.elapsed());
    let answer = tokio::time::timeout(Duration::from_secs(10), ask(&outer, b"x quick")).await;
    assert_eq!(answer.expect("an answer").unwrap(), b" quick");
    assert_eq!(slow.len(), 8, "as many as fit may read as slowly as they like");
    let metrics = west.registry.encode();
    assert!(metrics.contains("isthmus_gateway_slow_readers_total{transport=\"quic\"} 12"), "{metrics}");
}
