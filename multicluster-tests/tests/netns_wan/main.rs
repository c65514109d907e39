//! What a bad WAN costs: stories over a fleet on the ground `netns`, each with a budget that is held and figures that are
//! printed as rows of docs/benchmarks.md.
//!
//! `cargo test -p isthmus-multicluster-tests --test netns_wan -- --nocapture --test-threads 1`, as root; CI runs those whose
//! names begin with `quick_`. The emulator's seed is printed; the same seed makes the same decisions for the same packets.

#![expect(clippy::expect_used, clippy::panic, reason = "whatever fails here is a failed test")]

mod gateways;
mod holes;
mod loss;
mod shares;
mod story;
mod traffic;
mod udp;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use multicluster_tests::{Scenario, on_netns};

/// Two clusters with two gateways each; 80 ms there and back at 100 Mbit/s.
const FILE: &str = "
name: bad-wan
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    gateways: 2
    workloads:
      - {name: web, labels: {app: web, version: v1}}
      - {name: near, labels: {app: near, version: v1}, ports: [{name: http, port: 9080, protocol: http}]}
  - name: west
    gateways: 2
    workloads:
      - name: reviews
        labels: {app: reviews, version: v1}
        export: true
        ports:
          - {name: http, port: 9080, protocol: http}
          - {name: grpc, port: 9090, protocol: grpc}
          - {name: tcp, port: 9000, protocol: tcp}
wan:
  - {between: [east, west], delay: 40ms, rate: 100mbit, queue: 1mb}
";

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// One story at a time: what is measured must not share the machine with another story.
fn alone(story: impl FnOnce()) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    story();
}

/// A story over the fleet of [`FILE`].
fn on_wan(test: impl AsyncFnOnce(&Scenario) + Send) {
    alone(|| {
        on_netns(FILE, async |scenario| {
            say_seed(scenario);
            test(scenario).await;
        });
    });
}

fn say_seed(scenario: &Scenario) {
    let link = scenario.fleet.wan("east", "west").expect("there is a link");
    let status = scenario.fleet.ask_wan(link, &wan::Request::Show {}).expect("the emulator answers");
    println!("seed of the emulator: {}", status.seed);
}
