//! Black holes between gateways.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::task::AbortOnDropHandle;

use super::transports::{Between, between, flow, lives};
use super::world::OwnTime;

/// QUIC doubles its probe timeout while nothing is acknowledged, so that after a hole it would rest for up to as long again; and
/// what is sent into the hole uses up the congestion window, so that probes would not leave either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_go_on_soon_after_a_hole_whatever_was_under_way() {
    let Between { relay, outer, east: _east, west: _west } = between(|relay| relay.block_tcp(true)).await;
    let mut flows = Vec::new();
    // One at least on every connection.
    for _ in 0..6 {
        let (mut quiet, _) = flow(&outer).await;
        lives(&mut quiet, b"before").await;
        flows.push(quiet);
    }
    let mut busy = Vec::new();
    for _ in 0..3 {
        let (mut reader, mut writer) = flow(&outer).await.0.split();
        busy.push(AbortOnDropHandle::new(tokio::spawn(async move {
            let block = vec![7; 1 << 16];
            while writer.write_all(&block).await.is_ok() {}
        })));
        busy.push(AbortOnDropHandle::new(tokio::spawn(async move {
            let mut block = vec![0; 1 << 16];
            while reader.read(&mut block).await.is_ok_and(|count| count > 0) {}
        })));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    relay.block_udp(true);
    for quiet in &mut flows {
        quiet.write_all(b"into the hole").await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(8)).await;
    relay.block_udp(false);
    let begun = OwnTime::begin();
    for quiet in &mut flows {
        let mut seen = [0; 13];
        let read = tokio::time::timeout(Duration::from_secs(30), quiet.read_exact(&mut seen)).await;
        read.expect("the flow goes on").unwrap();
        assert_eq!(&seen, b"into the hole");
    }
    let after = begun.elapsed();
    println!("all flows went on within {after:?}");
    assert!(after < Duration::from_secs(4), "{after:?}");
}
