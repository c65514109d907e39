//! Views from the agent, asked for on demand.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use discovery::{Client, Demand};
use mesh::{ServiceName, View};
use proxy::outbound::Directory;

/// How long a request waits for the agent to say whether a service exists. Later requests find the answer in the view.
const DEMAND_TIMEOUT: Duration = Duration::from_secs(2);
/// Who has an address is not waited for once the agent is out of reach for this long: most addresses that a workload dials
/// for the first time are outside of the mesh.
const AGENT_PATIENCE: Duration = Duration::from_secs(10);

/// The discovery client, as the engine sees it.
pub(crate) struct Discovered {
    pub(crate) client: Client,
    /// With transparent capture addresses are all that a connection tells.
    pub(crate) by_address: bool,
}

impl Directory for Discovered {
    fn view(&self) -> Arc<View> {
        self.client.view().borrow().clone()
    }

    fn demand<'a>(&'a self, service: &'a ServiceName) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            if self.client.service(service, DEMAND_TIMEOUT).await == Demand::Unknown {
                tracing::debug!(%service, "the agent did not say in time whether this service exists");
            }
        })
    }

    fn demand_address(&self, address: IpAddr) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            if !self.by_address {
                return;
            }
            let lost = self.client.lost_for().is_some_and(|lost| lost > AGENT_PATIENCE);
            let timeout = if lost { Duration::ZERO } else { DEMAND_TIMEOUT };
            if self.client.address(address, timeout).await == Demand::Unknown {
                tracing::debug!(%address, "the agent did not say in time who has this address");
            }
        })
    }
}
