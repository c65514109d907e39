//! Going away without dropping flows.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::world::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_source_gateway_finishes_flows_and_takes_no_more() {
    let world = World::new(echo().await).await;
    let outer = world.web().await;
    let mut flow = open(&outer, &request("reviews")).await;
    flow.answer.await.unwrap();
    world.east.shutdown.drain();
    let finished = tokio::spawn(world.east.running.finish(Duration::from_secs(20)));
    while outer.is_usable() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    flow.io.write_all(b"still here").await.unwrap();
    flow.io.shutdown().await.unwrap();
    let mut seen = String::new();
    flow.io.read_to_string(&mut seen).await.unwrap();
    assert_eq!(seen, "still here");
    drop(flow.io);
    assert!(finished.await.unwrap(), "all flows were done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_destination_gateway_denies_new_flows_and_finishes_old_ones() {
    let world = World::new(echo().await).await;
    let outer = world.web().await;
    let mut flow = open(&outer, &request("reviews")).await;
    flow.answer.await.unwrap();
    world.west.shutdown.drain();
    let denied = denial(&outer, &request("reviews")).await;
    assert!(["draining", "cluster-unreachable"].contains(&denied.reason.as_str()), "{denied:?}");
    let finished = tokio::spawn(world.west.running.finish(Duration::from_secs(20)));
    flow.io.write_all(b"still here").await.unwrap();
    flow.io.shutdown().await.unwrap();
    let mut seen = String::new();
    flow.io.read_to_string(&mut seen).await.unwrap();
    assert_eq!(seen, "still here");
    assert!(finished.await.unwrap(), "all flows were done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_flows_leave_a_draining_gateway_for_another() {
    let (backend, trust) = (echo().await, Trust::new());
    let first = gateway("west.demo", trust.west_gateway(), west_view(), backend).await;
    let second = gateway("west.demo", trust.west_gateway(), west_view(), backend).await;
    let view = east_view(&[first.quic(), second.quic()]);
    let east = gateway("east.demo", trust.east_gateway(), view, backend).await;
    let outer = outer(east.hbone(), &trust.web()).await.unwrap();
    super::health::until_usable(&east, 2).await;
    first.shutdown.drain();
    for _ in 0..20 {
        assert_eq!(ask(&outer, b"x").await.unwrap(), b"x");
    }
}
