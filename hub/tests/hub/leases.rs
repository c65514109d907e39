//! Leases date announcements; they erase nothing.

use std::time::Duration;

use api::hub as pb;
use prost::Message as _;

use crate::support::{Cluster, Hub, Setup, eventually};

async fn live(cluster: &Cluster) -> bool {
    let request = pb::ReadRequest { kind: pb::Kind::Lease.into(), cluster: cluster.name.clone(), stale: false };
    let read = cluster.client.read(request).await.unwrap();
    pb::Lease::decode(read.resources[0].value.as_slice()).unwrap().live
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_silent_cluster_becomes_stale_and_returns_and_loses_nothing() {
    // Long enough for a read to follow a renewal within it.
    let hub = Hub::start(Setup { lease_ttl: Duration::from_secs(2), ..Setup::default() }).await;
    let east = hub.join("east").await;
    east.write("1", vec![east.export("default/web", 1, &[])]).await.unwrap();
    assert_eq!(east.client.renew_lease().await.unwrap().ttl_ms, 2000);
    eventually("the lease runs out", async || (!live(&east).await).then_some(())).await;
    assert!(east.sees().await.contains(&"export east default/web".to_owned()));
    let renewed = east.client.renew_lease().await.unwrap();
    assert_eq!((renewed.version, renewed.hub_addresses.len()), (1, 3));
    assert!(live(&east).await, "a renewal revives it at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cluster_that_renews_stays_live_when_the_leader_changes() {
    let ttl = Duration::from_millis(4000);
    let mut hub = Hub::start(Setup { lease_ttl: ttl, ..Setup::default() }).await;
    let east = hub.join("east").await;
    let mut watch = east.client.watch(0).await.unwrap();
    let first = watch.next().await.unwrap().revision;
    let leader = hub.leader().await;
    hub.stop(leader).await;
    let end = tokio::time::Instant::now() + ttl + ttl / 4;
    while tokio::time::Instant::now() < end {
        east.client.renew_lease().await.unwrap();
        tokio::time::sleep(ttl / 8).await;
    }
    assert!(live(&east).await);
    let now = east.client.read(pb::ReadRequest::default()).await.unwrap().revision;
    assert_eq!(now, first, "the lease never changed in between");
}
