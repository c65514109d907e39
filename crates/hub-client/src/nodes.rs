//! The nodes that a client knows, and which of them to try next.

use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::connection::Since;

/// A node's address and its channel.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) address: String,
    pub(crate) channel: Channel,
    pub(crate) since: Since,
    /// Cancelled when another channel has taken the place of this one.
    pub(crate) replaced: CancellationToken,
}

impl Node {
    pub(crate) fn new(address: String, (channel, since): (Channel, Since)) -> Self {
        Self { address, channel, since, replaced: CancellationToken::new() }
    }
}

/// All known nodes; `first` is the one that answered last.
pub(crate) struct Nodes {
    all: Vec<Node>,
    first: usize,
}

impl Nodes {
    pub(crate) fn new(all: Vec<Node>) -> Self {
        Self { all, first: 0 }
    }

    /// The node to try as the `attempt`-th, from 0: the last good one, then the others in turn, round and round.
    pub(crate) fn at(&self, attempt: usize) -> Option<Node> {
        let count = self.all.len();
        (count > 0).then(|| self.all[(self.first + attempt) % count].clone())
    }

    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn find(&self, address: &str) -> Option<Node> {
        self.all.iter().find(|node| node.address == address).cloned()
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.all.iter().map(|node| node.address.clone()).collect()
    }

    /// This node answered: begin with it from now on.
    pub(crate) fn prefer(&mut self, address: &str) {
        if let Some(index) = self.all.iter().position(|node| node.address == address) {
            self.first = index;
        }
    }

    /// This node failed: begin with the next, unless another has become the first meanwhile.
    pub(crate) fn avoid(&mut self, address: &str) {
        if self.all.get(self.first).is_some_and(|node| node.address == address) {
            self.first = (self.first + 1) % self.all.len();
        }
    }

    /// Puts a new channel in the place of one that is silent, unless that was done before. Whatever still waits on the old
    /// one is told.
    pub(crate) fn renew(&mut self, silent: &Node, renewed: Node) {
        if silent.replaced.is_cancelled() {
            return;
        }
        silent.replaced.cancel();
        if let Some(node) = self.all.iter_mut().find(|node| node.address == silent.address) {
            *node = renewed;
        }
    }

    /// Replaces the set; the preferred node stays preferred if it is still one.
    pub(crate) fn replace(&mut self, all: Vec<Node>) {
        let preferred = self.all.get(self.first).map(|node| node.address.clone());
        *self = Self::new(all);
        if let Some(address) = preferred {
            self.prefer(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::transport::Endpoint;

    use super::*;

    fn node(name: &str) -> Node {
        Node::new(name.to_owned(), (Endpoint::from_static("http://127.0.0.1:1").connect_lazy(), Since::default()))
    }

    fn nodes(names: &[&str]) -> Vec<Node> {
        names.iter().map(|name| node(name)).collect()
    }

    fn order(nodes: &Nodes) -> Vec<String> {
        (0..nodes.count()).filter_map(|attempt| nodes.at(attempt)).map(|node| node.address).collect()
    }

    #[tokio::test]
    async fn the_last_good_node_comes_first_and_a_failed_one_last() {
        let mut known = Nodes::new(nodes(&["a", "b", "c"]));
        known.prefer("b");
        assert_eq!(order(&known), ["b", "c", "a"]);
        known.avoid("b");
        assert_eq!(order(&known), ["c", "a", "b"]);
        known.avoid("a");
        assert_eq!(order(&known), ["c", "a", "b"], "only the first node can be moved away from");
        known.replace(nodes(&["x", "c"]));
        assert_eq!(order(&known), ["c", "x"]);
        known.replace(Vec::new());
        assert!(known.at(0).is_none());
    }

    #[tokio::test]
    async fn a_silent_channel_is_replaced_once() {
        let mut known = Nodes::new(nodes(&["a", "b"]));
        let silent = known.find("b").unwrap();
        known.renew(&silent, node("b"));
        assert!(silent.replaced.is_cancelled());
        let renewed = known.find("b").unwrap();
        known.renew(&silent, node("b"));
        assert!(!renewed.replaced.is_cancelled(), "another call had found it silent before");
        assert!(!known.find("a").unwrap().replaced.is_cancelled());
    }
}
