//! What every story has: a fault that comes and goes under traffic, a budget, and a row of figures.

use std::time::Duration;

use fleet::load::{Record, summarize};
use multicluster_tests::{Scenario, step};
use tokio::time::{Instant, sleep};

use crate::traffic::Traffic;

/// A request that takes longer has noticed something; the round trip of the fleet is 80 ms.
const SLOW: Duration = Duration::from_secs(1);
/// How long traffic goes on after the last flow has recovered.
const CALM: Duration = Duration::from_secs(5);
/// How long recovery is waited for before the story fails as a whole.
const GIVE_UP: Duration = Duration::from_secs(90);

/// What a fault may cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// Requests that may fail of those that were under way when the fault began or due until recovery is over, in percent.
    pub(crate) failed_during: f64,
    /// From the fault on, until requests notice nothing any more although it lasts; `None` if they may all the time.
    pub(crate) avoided: Option<Duration>,
    /// From healing until the last disturbed request is over.
    pub(crate) requests: Duration,
    /// From healing until every long-lived flow has carried something.
    pub(crate) flows: Duration,
}

impl Budget {
    /// On a machine that makes requests wait which no fault touches.
    fn beside(self, machine: Duration) -> Self {
        Self {
            failed_during: self.failed_during,
            avoided: self.avoided.map(|avoided| avoided + machine),
            requests: self.requests + machine,
            flows: self.flows + machine,
        }
    }
}

/// A fault and what it cost.
#[derive(Debug)]
pub(crate) struct Cost {
    during: usize,
    failed_during: usize,
    failed_later: usize,
    failed_before: usize,
    avoided: Duration,
    requests: Duration,
    flows: Duration,
    errors: String,
}

/// Brings a fault on for a while, heals it, and holds what happened against the budget. No request that is due later than the
/// time for recovery after the healing may fail, and every flow must live.
pub(crate) async fn fault(
    name: &str,
    budget: Budget,
    traffic: Traffic<'_>,
    lasts: Duration,
    set: impl Fn(&Traffic<'_>, Phase),
) {
    step(&format!("{name}: begins"));
    let begun = Instant::now();
    set(&traffic, Phase::Fault);
    sleep(lasts).await;
    set(&traffic, Phase::Healed);
    let healed = Instant::now();
    step(&format!("{name}: healed"));
    traffic.level("every flow goes on", GIVE_UP, |flow| flow.first_after(healed).is_some()).await;
    let flows = traffic.flows.iter().filter_map(|flow| flow.first_after(healed));
    let each: Vec<_> =
        traffic.flows.iter().map(|flow| (flow.name, flow.first_after(healed).unwrap_or_default())).collect();
    println!("{name}: flows went on after {each:?}");
    let flows = flows.max().unwrap_or_default();
    sleep(CALM).await;
    traffic.assert_alive();
    let scenario = traffic.scenario;
    let (begun, healed) = (traffic.due(begun), traffic.due(healed));
    let (records, machine) = traffic.judged().await;
    let budget = budget.beside(machine);
    let cost = cost(&records, &Story { begun, healed, flows, slow: SLOW + machine }, budget);
    println!("{name}: {}", cost.errors);
    let refused = records.iter().filter(|it| it.is_failed()).take(5);
    refused.for_each(|it| println!("{name}: failed: {it:?}, {:?} after the beginning", it.due.saturating_sub(begun)));
    if cost.failed_during > 0 {
        println!("{}", denied(scenario));
    }
    cost.hold(name, budget);
}

/// What the client's sidecar wrote down of requests that it failed itself.
fn denied(scenario: &Scenario) -> String {
    let log = std::fs::read_to_string(scenario.fleet.layout.log("east/web-1/sidecar")).unwrap_or_default();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("\"status\":503")).take(5).collect();
    lines.join("\n")
}

/// What is done to the WAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Fault,
    Healed,
}

/// When the fault began and was healed, how long flows took from then on, and how long a request may take that notices nothing.
struct Story {
    begun: Duration,
    healed: Duration,
    flows: Duration,
    slow: Duration,
}

fn cost(records: &[Record], story: &Story, budget: Budget) -> Cost {
    let Story { begun, healed, flows, slow } = *story;
    // One that was under way when the fault began counts with those due in it.
    let met = |it: &&Record| it.due + it.latency >= begun && it.due < healed + budget.requests;
    let during: Vec<_> = records.iter().filter(met).collect();
    let failed = |it: &&Record| it.is_failed();
    let disturbed = records.iter().filter(|it| it.due >= begun && (it.is_failed() || it.latency > slow));
    let disturbed: Vec<_> = disturbed.collect();
    let over = disturbed.iter().map(|it| it.due + it.latency).max().unwrap_or_default();
    let last = disturbed.iter().map(|it| it.due).max().unwrap_or_default();
    Cost {
        failed_during: during.iter().copied().filter(failed).count(),
        during: during.len(),
        failed_later: records.iter().filter(|it| it.due >= healed + budget.requests).filter(failed).count(),
        failed_before: records.iter().filter(|it| it.due + it.latency < begun).filter(failed).count(),
        avoided: last.saturating_sub(begun),
        requests: over.saturating_sub(healed),
        flows,
        errors: format!("{:?}", summarize(records)),
    }
}

impl Cost {
    /// Prints the row of docs/benchmarks.md, then fails where the budget is overdrawn.
    fn hold(&self, name: &str, budget: Budget) {
        println!(
            "| {name} | {:.0} % fail{}; requests {} s, flows {} s | {} of {} fail; last disturbed {:.1} s after the beginning; requests {:.1} s, flows {:.1} s |",
            budget.failed_during,
            budget.avoided.map(|avoided| format!(", avoided in {} s", avoided.as_secs())).unwrap_or_default(),
            budget.requests.as_secs(),
            budget.flows.as_secs(),
            self.failed_during,
            self.during,
            self.avoided.as_secs_f64(),
            self.requests.as_secs_f64(),
            self.flows.as_secs_f64(),
        );
        let allowed = self.during as f64 * budget.failed_during / 100.0;
        assert_eq!(self.failed_before, 0, "{name}: requests failed before the fault: {self:?}");
        assert!(self.failed_during as f64 <= allowed, "{name}: more requests failed than allowed: {self:?}");
        let avoided = budget.avoided.unwrap_or(Duration::MAX);
        assert!(self.avoided <= avoided, "{name}: requests still notice the fault: {self:?}");
        assert!(self.requests <= budget.requests, "{name}: requests recovered too late: {self:?}");
        assert!(self.flows <= budget.flows, "{name}: flows recovered too late: {self:?}");
        assert_eq!(self.failed_later, 0, "{name}: requests failed after the recovery: {self:?}");
    }
}
