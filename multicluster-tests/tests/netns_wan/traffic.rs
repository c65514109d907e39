//! Mixed traffic from inside `east/web` to `west/reviews`, as an application sends it: no proxy is named anywhere.

use std::net::SocketAddr;
use std::time::Duration;

use fleet::call::parse_url;
use fleet::load::{Load, Record, Running};
use multicluster_tests::{Inside, LongFlow, NEAR, REVIEWS, Scenario, Undisturbed};
use tokio::time::{Instant, sleep};

/// Requests per second.
const RATE: u32 = 50;
/// After this long a request has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often levels are looked at.
const LOOK: Duration = Duration::from_millis(20);

/// What runs beside the small requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beside {
    /// Two TCP flows, a gRPC stream, and an endless download.
    FlowsAndBulk,
    /// A download only.
    Bulk,
    Nothing,
}

/// Traffic under way.
pub(crate) struct Traffic<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) flows: Vec<LongFlow>,
    /// Where all of it runs.
    inside: Inside,
    /// The service, for HTTP.
    address: SocketAddr,
    requests: Running,
    undisturbed: Undisturbed,
    started: Instant,
}

impl<'a> Traffic<'a> {
    /// Starts everything and waits until all flows carry something.
    pub(crate) async fn start(scenario: &'a Scenario, beside: Beside) -> Self {
        let inside = Inside::of(&scenario.fleet, "east/web-1");
        let address = scenario.resolve("east/web", REVIEWS, 9080).await;
        let on = inside.handle();
        let to = |port| SocketAddr::new(address.ip(), port);
        let mut flows = Vec::new();
        if beside == Beside::FlowsAndBulk {
            flows.push(LongFlow::tcp(on, to(9000)));
            flows.push(LongFlow::lockstep(on, to(9000)));
            flows.push(LongFlow::grpc(on, to(9090), REVIEWS));
        }
        if matches!(beside, Beside::Bulk | Beside::FlowsAndBulk) {
            flows.push(LongFlow::bulk(on, address, REVIEWS));
        }
        let url = parse_url(&format!("http://{REVIEWS}:9080/small")).expect("a URL");
        let load = Load { proxy: address, url, rate: RATE, duration: None, timeout: PATIENCE };
        let near = scenario.resolve("east/web", NEAR, 9080).await;
        let (requests, undisturbed) = {
            let _on = on.enter();
            (load.start(), Undisturbed::start(near, NEAR))
        };
        let traffic = Self { scenario, flows, inside, address, requests, undisturbed, started: Instant::now() };
        traffic.level("every flow carries something", PATIENCE * 4, |flow| flow.arrivals() >= 2).await;
        traffic
    }

    /// Begins one more endless download.
    pub(crate) fn download(&mut self) {
        self.flows.push(LongFlow::bulk(self.inside.handle(), self.address, REVIEWS));
    }

    /// Waits until something holds for every flow; a flow that ended fails the test.
    pub(crate) async fn level(&self, what: &str, within: Duration, holds: impl Fn(&LongFlow) -> bool) {
        let deadline = Instant::now() + within;
        loop {
            self.assert_alive();
            let waiting: Vec<_> = self.flows.iter().filter(|flow| !holds(flow)).map(|flow| flow.name).collect();
            if waiting.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "not within {within:?}: {what}: {waiting:?}\n{}", self.scenario.logs());
            sleep(LOOK).await;
        }
    }

    /// Fails the test if a flow has ended.
    pub(crate) fn assert_alive(&self) {
        for flow in &self.flows {
            if let Some(why) = flow.ended() {
                panic!(
                    "{} ended {:?} after the start: {why}\n{}",
                    flow.name,
                    self.started.elapsed(),
                    self.scenario.logs()
                );
            }
        }
    }

    /// Changes the WAN between east and west.
    pub(crate) fn wan(&self, words: &str) {
        wan(self.scenario, words);
    }

    /// When a moment was on the clock of the records.
    pub(crate) fn due(&self, moment: Instant) -> Duration {
        // Both clocks began within microseconds of each other.
        moment.duration_since(self.started)
    }

    /// Ends the requests and gives their records, and how much of a wait may be the machine's.
    pub(crate) async fn judged(self) -> (Vec<Record>, Duration) {
        (self.requests.stop().await, self.undisturbed.stop().await)
    }

    /// Ends the requests and gives their records.
    pub(crate) async fn finish(self) -> Vec<Record> {
        self.requests.stop().await
    }
}

/// Changes the WAN between east and west.
pub(crate) fn wan(scenario: &Scenario, words: &str) {
    let changed = scenario.fleet.set_wan("east", "west", words.split_whitespace());
    changed.unwrap_or_else(|error| panic!("{words}: {error:#}"));
}
