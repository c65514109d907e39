//! Disks that lie: whatever happens to sled, no acknowledged write is missing and all nodes are the same to the byte.

use std::fs::OpenOptions;
use std::path::Path;

use api::hub as pb;

use crate::support::{Cluster, Hub, Setup, copy};

/// Snapshots every 25 entries, so that the log behind the applied state is gone.
const SMALL: Setup = Setup { nodes: 3, snapshot_every: 25, lease_ttl: std::time::Duration::from_secs(600) };
const REBUILDS: &str = "isthmus_hub_state_rebuilds_total";

async fn write(east: &Cluster, from: usize, to: usize) {
    for at in from..to {
        east.write(&format!("w{at}"), vec![east.export(&format!("default/s{at}"), 1, &[])]).await.unwrap();
    }
}

async fn check(hub: &Hub, exports: usize) {
    hub.leader().await;
    let request = pb::ReadRequest { kind: pb::Kind::Export.into(), ..Default::default() };
    assert_eq!(hub.client.read(request).await.unwrap().resources.len(), exports, "an acknowledged write is missing");
    hub.converged().await;
}

fn delete(sled: &Path) {
    std::fs::remove_dir_all(sled).unwrap();
}

fn truncate(sled: &Path) {
    let file = OpenOptions::new().write(true).open(sled.join("db")).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length / 3).unwrap();
}

fn scribble(sled: &Path) {
    let path = sled.join("db");
    let mut bytes = std::fs::read(&path).unwrap();
    for at in (4096..bytes.len()).step_by(997) {
        bytes[at] ^= 0xff;
    }
    std::fs::write(&path, bytes).unwrap();
}

/// Damages the applied state of some nodes, and expects everything back.
async fn damage(nodes: &[u64], hurt: fn(&Path)) {
    let mut hub = Hub::start(SMALL).await;
    let east = hub.join("east").await;
    write(&east, 0, 70).await;
    for id in nodes {
        hub.stop(*id).await;
    }
    for id in nodes {
        hurt(&hub.data_dir(*id).join("sled"));
    }
    for id in nodes {
        hub.restart(*id).await;
    }
    check(&hub, 70).await;
    for id in nodes {
        assert_eq!(hub.metric(*id, REBUILDS).await, 1, "node {id} says that it was rebuilt");
    }
    write(&east, 70, 80).await;
    check(&hub, 80).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sled_deleted_on_one_node() {
    damage(&[2], delete).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sled_deleted_on_all_nodes() {
    damage(&[1, 2, 3], delete).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sled_truncated_on_one_node() {
    damage(&[3], truncate).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sled_truncated_on_all_nodes() {
    damage(&[1, 2, 3], truncate).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sled_scribbled_over_on_all_nodes() {
    damage(&[1, 2, 3], scribble).await;
}

/// An older copy of sled comes back, as from a backup or a disk that lost its cache.
async fn roll_back(nodes: &[u64]) {
    let mut hub = Hub::start(SMALL).await;
    let east = hub.join("east").await;
    write(&east, 0, 10).await;
    for id in nodes {
        hub.stop(*id).await;
        copy(&hub.data_dir(*id).join("sled"), &hub.directory.path().join(format!("old-{id}")));
        hub.restart(*id).await;
        hub.leader().await;
    }
    write(&east, 10, 90).await;
    for id in nodes {
        hub.stop(*id).await;
    }
    for id in nodes {
        let sled = hub.data_dir(*id).join("sled");
        std::fs::remove_dir_all(&sled).unwrap();
        copy(&hub.directory.path().join(format!("old-{id}")), &sled);
    }
    for id in nodes {
        hub.restart(*id).await;
    }
    check(&hub, 90).await;
    for id in nodes {
        assert_eq!(hub.metric(*id, REBUILDS).await, 1);
        assert!(hub.data_dir(*id).join("sled.set-aside-1").exists(), "nothing is thrown away");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sled_rolled_back_on_one_node() {
    roll_back(&[2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sled_rolled_back_on_all_nodes() {
    roll_back(&[1, 2, 3]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn restarts_of_one_and_of_all_lose_nothing_and_rebuild_nothing() {
    let mut hub = Hub::start(SMALL).await;
    let east = hub.join("east").await;
    write(&east, 0, 40).await;
    hub.stop(1).await;
    write(&east, 40, 50).await;
    hub.restart(1).await;
    check(&hub, 50).await;
    for id in [1, 2, 3] {
        hub.stop(id).await;
    }
    for id in [3, 1, 2] {
        hub.restart(id).await;
    }
    check(&hub, 50).await;
    for id in [1, 2, 3] {
        assert_eq!(hub.metric(id, REBUILDS).await, 0);
    }
    write(&east, 50, 60).await;
    check(&hub, 60).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_lags_behind_the_log_is_fed_a_snapshot() {
    let mut hub = Hub::start(SMALL).await;
    let east = hub.join("east").await;
    write(&east, 0, 5).await;
    let lagging = hub.leader().await % 3 + 1;
    hub.stop(lagging).await;
    let before = snapshots(&hub, lagging);
    write(&east, 5, 100).await;
    hub.restart(lagging).await;
    check(&hub, 100).await;
    assert_ne!(snapshots(&hub, lagging), before, "the snapshot became a file of its own");
    // And it survives on its own after that.
    hub.stop(lagging).await;
    std::fs::remove_dir_all(hub.data_dir(lagging).join("sled")).unwrap();
    hub.restart(lagging).await;
    check(&hub, 100).await;
}

fn snapshots(hub: &Hub, id: u64) -> Vec<String> {
    let names = std::fs::read_dir(hub.data_dir(id).join("snapshots")).unwrap();
    let mut names: Vec<String> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_damaged_newest_snapshot_is_skipped() {
    let mut hub = Hub::start(SMALL).await;
    let east = hub.join("east").await;
    write(&east, 0, 70).await;
    hub.converged().await;
    hub.stop(2).await;
    let newest = hub.data_dir(2).join("snapshots").join(snapshots(&hub, 2).last().unwrap());
    let mut bytes = std::fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    hub.restart(2).await;
    check(&hub, 70).await;
    // What it wrote instead is enough to rebuild from.
    hub.stop(2).await;
    delete(&hub.data_dir(2).join("sled"));
    hub.restart(2).await;
    check(&hub, 70).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn neither_applied_state_nor_snapshot_is_an_error_with_a_hint() {
    let mut hub = Hub::start(SMALL).await;
    let east = hub.join("east").await;
    write(&east, 0, 70).await;
    hub.converged().await;
    hub.stop(2).await;
    delete(&hub.data_dir(2).join("sled"));
    delete(&hub.data_dir(2).join("snapshots"));
    let error = hub.start_error(2).await;
    assert!(error.contains("cannot be rebuilt") && error.contains("hint:"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_without_its_log_does_not_start() {
    let mut hub = Hub::start(Setup::default()).await;
    hub.join("east").await;
    hub.stop(3).await;
    std::fs::remove_file(hub.data_dir(3).join("raft.redb")).unwrap();
    let error = hub.start_error(3).await;
    assert!(error.contains("raft.redb is missing") && error.contains("hint:"), "{error}");
}
