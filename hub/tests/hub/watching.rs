//! Watches: snapshot, deltas, resume at another replica, compaction, and the privacy of projections.

use std::collections::BTreeMap;

use api::hub as pb;
use hub_client::{HubClient, Watch};

use crate::support::{Hub, Setup, words};

/// What a client holds after applying messages.
#[derive(Default)]
struct Mirror {
    revision: u64,
    resources: BTreeMap<String, (u64, Vec<u8>)>,
}

impl Mirror {
    fn apply(&mut self, message: pb::WatchResponse) {
        if message.snapshot {
            self.resources.clear();
        }
        for key in message.deleted {
            self.resources.remove(&words(&key));
        }
        for resource in message.put {
            self.resources.insert(words(resource.key.as_ref().unwrap()), (resource.revision, resource.value));
        }
        assert!(message.revision >= self.revision, "revisions never go back");
        self.revision = message.revision;
    }

    async fn follow(&mut self, watch: &mut Watch, revision: u64) {
        while self.revision < revision {
            let message = tokio::time::timeout(crate::support::PATIENCE, watch.next()).await;
            self.apply(message.expect("a message in time").unwrap());
        }
    }

    async fn check(&self, client: &HubClient) {
        let read = client.read(pb::ReadRequest::default()).await.unwrap();
        let read: BTreeMap<_, _> = read
            .resources
            .into_iter()
            .map(|resource| (words(resource.key.as_ref().unwrap()), (resource.revision, resource.value)))
            .collect();
        assert_eq!(read, self.resources);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_watch_resumes_at_another_replica_after_the_leader_died() {
    let mut hub = Hub::start(Setup::default()).await;
    let east = hub.join("east").await;
    let west = hub.join("west").await;
    let leader = hub.leader().await;
    west.client.set_addresses(vec![hub.api(leader)]).unwrap();
    let mut watch = west.client.watch(0).await.unwrap();
    let first = watch.next().await.unwrap();
    assert!(first.snapshot);
    assert_eq!(first.hub_addresses.len(), 3);
    let mut mirror = Mirror::default();
    mirror.apply(first);
    let revision = east.write("1", vec![east.export("default/web", 1, &["west"])]).await.unwrap();
    mirror.follow(&mut watch, revision).await;

    hub.stop(leader).await;
    while watch.next().await.is_ok() {}
    // Things happen while nobody watches.
    let operations = vec![
        east.export("default/api", 1, &[]),
        crate::support::delete(crate::support::export_key("east", "default/web")),
    ];
    let revision = east.write("2", operations).await.unwrap();
    let other = hub.leader().await;
    west.client.set_addresses(vec![hub.api(other)]).unwrap();
    let mut watch = west.client.watch(mirror.revision).await.unwrap();
    let message = watch.next().await.unwrap();
    assert!(!message.snapshot, "the revision is in the ring of the other replica");
    mirror.apply(message);
    mirror.follow(&mut watch, revision).await;
    assert!(mirror.resources.contains_key("export east default/api"));
    assert!(!mirror.resources.contains_key("export east default/web"));
    mirror.check(&west.client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_revision_from_before_a_restart_is_compacted_into_a_snapshot() {
    let mut hub = Hub::start(Setup { nodes: 1, ..Setup::default() }).await;
    let east = hub.join("east").await;
    let old = east.write("1", vec![east.export("default/web", 1, &[])]).await.unwrap();
    let new = east.write("2", vec![east.export("default/api", 1, &[])]).await.unwrap();
    hub.stop(1).await;
    hub.restart(1).await;
    hub.leader().await;
    let message = east.client.watch(old).await.unwrap().next().await.unwrap();
    assert!(message.snapshot);
    let message = east.client.watch(new).await.unwrap().next().await.unwrap();
    assert!(!message.snapshot && message.put.is_empty(), "nothing was missed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_unexported_service_is_invisible_and_what_belongs_to_an_export_comes_and_goes_with_it() {
    let hub = Hub::start(Setup { nodes: 1, ..Setup::default() }).await;
    let (east, west) = (hub.join("east").await, hub.join("west").await);
    assert_eq!(west.sees().await, ["cluster west", "bundle west", "lease west"]);
    let mut watch = west.client.watch(0).await.unwrap();
    let mut mirror = Mirror::default();
    mirror.apply(watch.next().await.unwrap());

    let revision = east.write("1", vec![east.export("default/web", 1, &["north"])]).await.unwrap();
    mirror.follow(&mut watch, revision).await;
    assert_eq!(mirror.resources.len(), 3, "exported to somebody else");
    let revision = east.write("2", vec![east.export("default/web", 2, &["west"])]).await.unwrap();
    mirror.follow(&mut watch, revision).await;
    let seen: Vec<&str> = mirror.resources.keys().map(String::as_str).collect();
    assert_eq!(
        seen,
        [
            "address default/web",
            "bundle east",
            "bundle west",
            "cluster east",
            "cluster west",
            "export east default/web",
            "lease east",
            "lease west"
        ]
    );
    // The exporter sees the importer, whose calls it must verify.
    assert!(east.sees().await.contains(&"bundle west".to_owned()));
    let revision = east.write("3", vec![east.export("default/web", 3, &["north"])]).await.unwrap();
    mirror.follow(&mut watch, revision).await;
    assert_eq!(mirror.resources.keys().collect::<Vec<_>>(), ["bundle west", "cluster west", "lease west"]);
    mirror.check(&west.client).await;
}
