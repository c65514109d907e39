//! One watch on the hub: the changes after a revision, until it breaks.

use api::hub::WatchResponse;
use tonic::Streaming;

use crate::client::HubClient;
use crate::error::HubError;
use crate::nodes::Node;

/// A running watch. When [`next`](Watch::next) fails, watch again from the revision of the last message: the client
/// begins with another node then, and the hub answers with what was missed, or with a snapshot if that is compacted.
pub struct Watch {
    client: HubClient,
    node: Node,
    stream: Streaming<WatchResponse>,
}

impl Watch {
    pub(crate) fn new(client: HubClient, node: Node, stream: Streaming<WatchResponse>) -> Self {
        Self { client, node, stream }
    }

    /// The node that serves this watch.
    pub fn address(&self) -> &str {
        &self.node.address
    }

    /// The next message. Addresses that it carries are learnt before it is returned. Ends when a call finds the node silent,
    /// too. Cancel safe.
    pub async fn next(&mut self) -> Result<WatchResponse, HubError> {
        let message = tokio::select! {
            biased;
            message = self.stream.message() => message,
            () = self.node.replaced.cancelled() => Ok(None),
        };
        match message {
            Ok(Some(message)) => {
                self.client.learn(&message.hub_addresses);
                Ok(message)
            }
            Ok(None) => {
                self.client.avoid(&self.node.address);
                Err(HubError::WatchEnded { source: None })
            }
            Err(status) if crate::error::is_worth_another_node(&status) => {
                self.client.avoid(&self.node.address);
                Err(HubError::WatchEnded { source: Some(Box::new(status)) })
            }
            Err(status) => Err(HubError::refused(&status)),
        }
    }
}
