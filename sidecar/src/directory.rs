//! Views from the agent, asked for on demand.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use discovery::{Client, Demand};
use mesh::{ServiceName, View};
use proxy::outbound::Directory;

/// How long a request waits for the agent to say whether a service exists. Later requests find the answer in the view.
const DEMAND_TIMEOUT: Duration = Duration::from_secs(2);

/// The discovery client, as the engine sees it.
pub(crate) struct Discovered(pub(crate) Client);

impl Directory for Discovered {
    fn view(&self) -> Arc<View> {
        self.0.view().borrow().clone()
    }

    fn demand<'a>(&'a self, service: &'a ServiceName) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            if self.0.service(service, DEMAND_TIMEOUT).await == Demand::Unknown {
                tracing::debug!(%service, "the agent did not say in time whether this service exists");
            }
        })
    }
}
