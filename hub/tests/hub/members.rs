//! Nodes come and go while the hub runs.

use std::collections::BTreeMap;

use api::hub as pb;
use hub::{Config, Member};

use crate::support::{Hub, Setup, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_is_added_fed_and_another_removed() {
    let mut hub = Hub::start(Setup { nodes: 1, snapshot_every: 20, ..Setup::default() }).await;
    let east = hub.join("east").await;
    for at in 0..60 {
        east.write(&format!("w{at}"), vec![east.export(&format!("default/s{at}"), 1, &[])]).await.unwrap();
    }
    for id in [2, 3] {
        let member = hub.add_idle(id).await;
        let request = pb::AddMemberRequest { id, api_address: member.api.clone(), join_address: member.join.clone() };
        let members = hub.client.add_member(request).await.unwrap().members;
        assert!(members.iter().any(|member| member.id == id && member.voter));
    }
    hub.converged().await;
    // The watch tells clients where the hub is now.
    let message = east.client.watch(0).await.unwrap().next().await.unwrap();
    assert_eq!(message.hub_addresses.len(), 3);
    let members = hub.client.remove_member(1).await.unwrap().members;
    assert_eq!(members.iter().map(|member| member.id).collect::<Vec<_>>(), [2, 3]);
    hub.stop(1).await;
    eventually("a write without the first node", async || {
        east.write("last", vec![east.export("default/last", 1, &[])]).await.ok()
    })
    .await;
    hub.leader().await;
    hub.converged().await;
}

impl Hub {
    /// Starts a node that belongs to nothing yet.
    async fn add_idle(&mut self, id: u64) -> Member {
        let mut config: Config = self.nodes[&1].config.clone();
        let address = |mut address: std::net::SocketAddr| {
            address.set_port(0);
            address
        };
        let bound =
            crate::support::bind(address(config.listen_api), address(config.listen_join), address(config.listen_admin))
                .await;
        let member = Member {
            api: bound.api.local_addr().unwrap().to_string(),
            join: bound.join.local_addr().unwrap().to_string(),
        };
        hub_client::issue_node(self.directory.path(), &config.mesh_id, id).unwrap();
        config.node_id = id;
        config.data_dir = self.directory.path().join(format!("hub-{id}"));
        config.listen_api = bound.api.local_addr().unwrap();
        config.listen_join = bound.join.local_addr().unwrap();
        config.listen_admin = bound.admin.local_addr().unwrap();
        let first = self.nodes[&1].config.members[&1].clone();
        config.members = BTreeMap::from([(1, first), (id, member.clone())]);
        self.adopt(config, bound);
        member
    }
}
