//! Any node answers, a retry is applied once, and a leader that dies takes nothing along.

use api::hub as pb;
use tonic::Code;

use crate::support::{Hub, Setup, eventually, export_key, key, transaction, words};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn any_node_writes_and_any_node_reads_what_was_written() {
    let hub = Hub::start(Setup::default()).await;
    let east = hub.join("east").await;
    for (at, id) in [1, 2, 3].into_iter().enumerate() {
        let client = &east.client;
        client.set_addresses(vec![hub.api(id)]).unwrap();
        let service = format!("default/s{id}");
        let revision = east.write(&format!("w{id}"), vec![east.export(&service, 1, &[])]).await.unwrap();
        // Another node, immediately: linearizable.
        let reader = hub.operator_at(id % 3 + 1);
        let read = reader.read(pb::ReadRequest { kind: pb::Kind::Export.into(), ..Default::default() }).await.unwrap();
        assert!(read.revision >= revision);
        assert_eq!(read.resources.len(), at + 1);
        assert_eq!(read.resources.last().unwrap().revision, revision);
    }
    let addresses = hub.client.read(pb::ReadRequest { kind: pb::Kind::Address.into(), ..Default::default() }).await;
    assert_eq!(addresses.unwrap().resources.len(), 3);
    hub.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_retried_transaction_is_applied_once_also_at_another_node() {
    let mut hub = Hub::start(Setup::default()).await;
    let east = hub.join("east").await;
    let request = transaction("same-id", vec![east.export("default/web", 1, &[])]);
    let first = east.client.transact(request.clone()).await.unwrap().revision;
    let leader = hub.leader().await;
    hub.stop(leader).await;
    assert_eq!(east.client.transact(request.clone()).await.unwrap().revision, first);
    hub.restart(leader).await;
    east.client.set_addresses(vec![hub.api(leader)]).unwrap();
    assert_eq!(east.client.transact(request).await.unwrap().revision, first);
    let status = hub.converged().await;
    assert_eq!(status.revision, first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn compares_and_serials_are_refused_with_their_code() {
    let hub = Hub::start(Setup { nodes: 1, ..Setup::default() }).await;
    let east = hub.join("east").await;
    let revision = east.write("1", vec![east.export("default/web", 5, &[])]).await.unwrap();
    let older = east.write("2", vec![east.export("default/web", 4, &[])]).await.expect_err("older serial");
    assert_eq!(older.code(), Some(Code::FailedPrecondition));
    let compare = |revision| pb::Compare { key: Some(export_key("east", "default/web")), revision };
    let mut request = transaction("3", vec![east.export("default/web", 6, &[])]);
    request.compare = vec![compare(revision + 7)];
    let conflict = east.client.transact(request.clone()).await.expect_err("conflict");
    assert_eq!(conflict.code(), Some(Code::Aborted));
    request.compare = vec![compare(revision)];
    assert_eq!(east.client.transact(request).await.unwrap().revision, revision + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_acknowledged_write_is_lost_when_leaders_die_one_after_the_other() {
    let mut hub = Hub::start(Setup::default()).await;
    let east = hub.join("east").await;
    for round in 0..3 {
        let leader = hub.leader().await;
        let mut writes = tokio::task::JoinSet::new();
        for at in 0..40 {
            let operation = east.export(&format!("default/s{round}-{at}"), 1, &[]);
            let client = east.client.clone();
            writes.spawn(async move { client.transact(transaction(&format!("{round}-{at}"), vec![operation])).await });
        }
        hub.stop(leader).await;
        for written in writes.join_all().await {
            written.unwrap();
        }
        hub.restart(leader).await;
    }
    let request = pb::ReadRequest { kind: pb::Kind::Export.into(), ..Default::default() };
    assert_eq!(hub.client.read(request).await.unwrap().resources.len(), 120);
    hub.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writes_that_wait_together_share_log_entries() {
    let hub = Hub::start(Setup::default()).await;
    let east = hub.join("east").await;
    let before = hub.converged().await.last_log_index;
    let mut writes = tokio::task::JoinSet::new();
    for at in 0..200 {
        let operation = east.export(&format!("default/s{at}"), 1, &[]);
        let client = east.client.clone();
        writes.spawn(async move { client.transact(transaction(&format!("w{at}"), vec![operation])).await });
    }
    for written in writes.join_all().await {
        written.unwrap();
    }
    let entries = hub.converged().await.last_log_index - before;
    assert!(entries < 150, "200 writes made {entries} entries");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_minority_acknowledges_nothing() {
    let mut hub = Hub::start(Setup::default()).await;
    let east = hub.join("east").await;
    hub.stop(2).await;
    hub.stop(3).await;
    let error = east.write("alone", vec![east.export("default/web", 1, &[])]).await.expect_err("no quorum");
    assert_eq!(error.code(), None, "{error}");
    let request = pb::ReadRequest { stale: true, ..Default::default() };
    let read = hub.operator_at(1).read(request).await.unwrap();
    assert!(read.resources.iter().all(|resource| !words(resource.key.as_ref().unwrap()).starts_with("export")));
    hub.restart(2).await;
    hub.restart(3).await;
    east.write("together", vec![east.export("default/web", 2, &[])]).await.unwrap();
    hub.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_operator_removes_a_cluster_with_all_that_it_said_and_its_connections_end() {
    let hub = Hub::start(Setup { nodes: 1, ..Setup::default() }).await;
    let east = hub.join("east").await;
    east.write("1", vec![east.export("default/web", 1, &[])]).await.unwrap();
    let mut watch = east.client.watch(0).await.unwrap();
    watch.next().await.unwrap();
    let delete = crate::support::delete(key(pb::Kind::Cluster, "east", ""));
    hub.client.transact(transaction("gone", vec![delete])).await.unwrap();
    let left = hub.client.read(pb::ReadRequest::default()).await.unwrap().resources;
    let left: Vec<String> = left.iter().map(|resource| words(resource.key.as_ref().unwrap())).collect();
    assert_eq!(left, ["address default/web"]);
    // Messages may still be in the stream; then it breaks.
    let ended = tokio::time::timeout(std::time::Duration::from_secs(5), async { while watch.next().await.is_ok() {} });
    ended.await.expect("the connection of a removed cluster ends within 5 s");
    eventually("a new connection is refused", async || east.client.status_of(&hub.api(1)).await.err()).await;
}
