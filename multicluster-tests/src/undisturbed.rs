//! What a busy machine makes requests wait that no fault touches: by it those are judged that one does.

use std::net::SocketAddr;
use std::time::Duration;

use fleet::call::parse_url;
use fleet::load::{Load, Running, summarize};

/// Requests per second.
const RATE: u32 = 20;
/// Those between clusters pass twice as many processes.
const TIMES: u32 = 2;

/// Requests to a service of the client's own cluster, beside a load between clusters. They share the client, its sidecar and the
/// machine with it, and nothing that a test breaks.
#[derive(Debug)]
pub struct Undisturbed(Running);

impl Undisturbed {
    /// Starts asking `host`, on port 9080.
    pub fn start(proxy: SocketAddr, host: &str) -> Self {
        let url = parse_url(&format!("http://{host}:9080/")).expect("a URL");
        Self(Load { proxy, url, rate: RATE, duration: None, timeout: Duration::from_secs(30) }.start())
    }

    /// Ends them; none may have failed. Tells how much of a wait between clusters the machine alone may be the reason for: some
    /// milliseconds on one that has nothing else to do.
    pub async fn stop(self) -> Duration {
        let summary = summarize(&self.0.stop().await);
        assert_eq!(summary.failed, 0, "what no fault touches: {:?}", summary.errors);
        let machine = Duration::from_secs_f64(summary.longest_ms / 1e3) * TIMES;
        println!("what no fault touches took {:.0} ms at most", summary.longest_ms);
        machine
    }
}
