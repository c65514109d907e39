//! Views from the agent, asked for on demand.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use discovery::Client;
use mesh::{ServiceName, View};
use proxy::outbound::Directory;

/// How long a request waits for the agent to say whether a service exists.
const DEMAND_TIMEOUT: Duration = Duration::from_secs(2);

/// The discovery client, as the engine sees it.
pub(super) struct Discovered(pub(super) Client);

impl Directory for Discovered {
    fn view(&self) -> Arc<View> {
        self.0.view().borrow().clone()
    }

    fn demand<'a>(&'a self, service: &'a ServiceName) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            // What it answers shows in the view.
            let _ = self.0.service(service, DEMAND_TIMEOUT).await;
        })
    }
}
