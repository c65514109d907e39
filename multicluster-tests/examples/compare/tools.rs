//! The load generators and what the processes cost.

use std::collections::BTreeMap;
use std::time::Duration;

use multicluster_tests::Scenario;

/// Runs a command in a workload; its output, whether or not it succeeded.
async fn exec(scenario: &Scenario, workload: &str, command: &[&str]) -> String {
    let output = scenario.hubctl(&[&["fleet", "exec", workload, "--"], command].concat()).await;
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A run in a closed loop.
pub(crate) struct Closed {
    pub(crate) rps: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) errors: f64,
    pub(crate) requests: f64,
}

/// wrk with one thread.
pub(crate) async fn wrk(scenario: &Scenario, client: &str, url: &str, connections: u32, seconds: u64) -> Closed {
    let (connections, duration) = (format!("-c{connections}"), format!("-d{seconds}s"));
    let said = exec(scenario, client, &["wrk", "-t1", &connections, &duration, "--latency", url]).await;
    let after = |what: &str| {
        let line = said.lines().find(|line| line.trim_start().starts_with(what));
        line.and_then(|line| line.trim_start().strip_prefix(what)).map(|rest| rest.trim().to_owned())
    };
    let milliseconds = |what: &str| after(what).map_or(f64::NAN, |text| to_ms(&text));
    let requests = said.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok()).unwrap_or(0.0);
    assert!(requests > 0.0, "wrk {url}: {said}");
    let bad = after("Non-2xx or 3xx responses:").and_then(|count| count.parse::<f64>().ok()).unwrap_or(0.0);
    let broken: f64 = after("Socket errors:")
        .map_or(0.0, |text| text.split([' ', ',']).filter_map(|word| word.parse::<f64>().ok()).sum());
    Closed {
        rps: after("Requests/sec:").and_then(|text| text.parse().ok()).unwrap_or(0.0),
        p50_ms: milliseconds("50%"),
        p99_ms: milliseconds("99%"),
        errors: bad + broken,
        requests,
    }
}

/// `1.79ms`, `850.00us`, `1.2s`.
fn to_ms(text: &str) -> f64 {
    let units = [("us", 0.001), ("ms", 1.0), ("s", 1000.0)];
    let found = units.iter().find_map(|(unit, factor)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor));
    found.unwrap_or(f64::NAN)
}

/// Requests at a rate: each connection sends at its share of it, one at a time.
pub(crate) struct Paced {
    pub(crate) clients: u32,
    pub(crate) rate: u32,
    pub(crate) seconds: u64,
}

/// The requests of a paced run.
pub(crate) struct Requests {
    /// Microseconds from the request to the end of the answer, sorted.
    took: Vec<f64>,
    pub(crate) failed: f64,
}

/// h2load over HTTP/1.1. Not corrected for coordinated omission: a connection waits for its answer.
pub(crate) async fn h2load(scenario: &Scenario, client: &str, url: &str, paced: &Paced) -> Requests {
    let log = scenario.beside("h2load.log");
    let _none = std::fs::remove_file(&log);
    let rate = format!("{:.3}", f64::from(paced.rate) / f64::from(paced.clients));
    let (clients, log) = (paced.clients.to_string(), log.display().to_string());
    let seconds = paced.seconds.to_string();
    let command = ["h2load", "--h1", "-t1", "-c", &clients, "--rps", &rate, "-D", &seconds, "--log-file", &log, url];
    let said = exec(scenario, client, &command).await;
    let lines = std::fs::read_to_string(&log).unwrap_or_default();
    let (mut took, mut failed) = (Vec::new(), 0.0);
    for line in lines.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        match (fields.get(1), fields.get(2).and_then(|text| text.parse().ok())) {
            (Some(status), Some(time)) if status.starts_with('2') => took.push(time),
            _ => failed += 1.0,
        }
    }
    assert!(!took.is_empty(), "h2load {url}: {said}");
    took.sort_by(f64::total_cmp);
    Requests { took, failed }
}

impl Requests {
    #[expect(clippy::cast_precision_loss, reason = "counts of requests")]
    pub(crate) fn requests(&self) -> f64 {
        self.took.len() as f64
    }

    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let index = (self.took.len() * percent).div_ceil(100).saturating_sub(1);
        self.took[index] / 1000.0
    }

    pub(crate) fn add_to(&self, name: &str, figures: &mut Figures) {
        figures.add(name, "requests", self.requests());
        for percent in [50, 90, 99] {
            figures.add(name, &format!("p{percent} ms"), self.percentile(percent));
        }
        figures.add(name, "failed", self.failed);
    }
}

/// A download.
pub(crate) struct Bulk {
    pub(crate) mbit: f64,
    pub(crate) bytes: f64,
}

/// curl for so long.
pub(crate) async fn bulk(scenario: &Scenario, client: &str, url: &str, seconds: u64) -> Bulk {
    let seconds = seconds.to_string();
    let write = "%{size_download} %{time_total} %{http_code}\\n";
    let command = ["curl", "-s", "-o", "/dev/null", "--max-time", &seconds, "-w", write, url];
    let said = exec(scenario, client, &command).await;
    let mut words = said.split_whitespace().map(|word| word.parse::<f64>().unwrap_or(0.0));
    let (bytes, took) = (words.next().unwrap_or(0.0), words.next().unwrap_or(1.0));
    Bulk { mbit: bytes * 8.0 / 1e6 / took.max(0.001), bytes }
}

/// What the emulator has counted so far of packets from west to east.
pub(crate) struct Link {
    received: u64,
    queue_dropped: u64,
}

impl Link {
    pub(crate) fn now(scenario: &Scenario) -> Self {
        let link = scenario.fleet.wan("east", "west").expect("there is a link");
        let status = scenario.fleet.ask_wan(link, &wan::Request::Show {}).expect("the emulator answers");
        let side = if link.between[0].as_str() == "west" { wan::Side::Left } else { wan::Side::Right };
        let counters = status.counters(side);
        Self { received: counters.received.packets, queue_dropped: counters.dropped(wan::Drop::Queue).packets }
    }

    /// The share of packets since then that a full queue dropped, in percent.
    #[expect(clippy::cast_precision_loss, reason = "counts of packets")]
    pub(crate) fn queue_dropped(&self, scenario: &Scenario) -> f64 {
        let now = Self::now(scenario);
        let received = (now.received - self.received).max(1);
        (now.queue_dropped - self.queue_dropped) as f64 * 100.0 / received as f64
    }
}

/// What a process has used so far.
pub(crate) struct Cost {
    pub(crate) name: String,
    cpu: Duration,
    /// Voluntary context switches of all threads.
    switches: f64,
    pub(crate) rss_mib: f64,
}

/// Ticks of `/proc/<pid>/stat` a second: fixed on Linux.
const TICKS: f64 = 100.0;

pub(crate) fn costs(processes: &[(String, i32)]) -> Vec<Cost> {
    processes.iter().map(|(name, pid)| cost(name, *pid)).collect()
}

fn cost(name: &str, pid: i32) -> Cost {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_else(|error| panic!("{name}: {error}"));
    // The name of the program, in brackets, may have spaces.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<f64>().ok()).sum();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let resident =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().trim_end_matches(" kB").parse::<f64>().ok());
    Cost {
        name: name.to_owned(),
        cpu: Duration::from_secs_f64(ticks / TICKS),
        switches: switches(pid),
        rss_mib: resident.unwrap_or(0.0) / 1024.0,
    }
}

fn switches(pid: i32) -> f64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let counts = threads.filter_map(|thread| {
        let status = std::fs::read_to_string(thread.path().join("status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<f64>().ok())
    });
    counts.sum()
}

/// What processes used in a run, each.
pub(crate) struct Spent(Vec<Used>);

/// One process.
struct Used {
    name: String,
    seconds: f64,
    switches: f64,
}

impl Cost {
    pub(crate) fn since(before: &[Self], processes: &[(String, i32)]) -> Spent {
        let after = costs(processes);
        Spent(
            before
                .iter()
                .zip(after)
                .map(|(before, after)| Used {
                    name: after.name,
                    seconds: (after.cpu - before.cpu).as_secs_f64(),
                    switches: after.switches - before.switches,
                })
                .collect(),
        )
    }
}

impl Spent {
    pub(crate) fn seconds(&self) -> f64 {
        self.0.iter().map(|used| used.seconds).sum()
    }

    /// Microseconds a request, of all proxies and of each.
    pub(crate) fn per_request(&self, case: &str, requests: f64, figures: &mut Figures) {
        if self.0.is_empty() {
            return;
        }
        figures.add(case, "CPU µs/request", self.seconds() * 1e6 / requests.max(1.0));
        for (end, used) in ["client's", "server's"].iter().zip(&self.0) {
            figures.add(case, &format!("{end} proxy"), used.seconds * 1e6 / requests.max(1.0));
        }
    }

    /// Seconds a GB and context switches a MB, of all proxies; those of each under its own name.
    pub(crate) fn per_byte(&self, case: &str, bytes: f64, figures: &mut Figures) {
        figures.add(case, "CPU s/GB", self.seconds() / (bytes / 1e9));
        figures.add(case, "switches/MB", self.0.iter().map(|used| used.switches).sum::<f64>() / (bytes / 1e6));
        for used in &self.0 {
            let case = format!("{case}: {}", used.name);
            figures.add(&case, "CPU s/GB", used.seconds / (bytes / 1e9));
            figures.add(&case, "switches/MB", used.switches / (bytes / 1e6));
        }
    }
}

/// Figures of several rounds: by case, by column.
#[derive(Default)]
pub(crate) struct Figures {
    columns: Vec<String>,
    cases: Vec<String>,
    values: BTreeMap<(String, String), Vec<f64>>,
}

impl Figures {
    pub(crate) fn add(&mut self, case: &str, column: &str, value: f64) {
        for (list, word) in [(&mut self.cases, case), (&mut self.columns, column)] {
            if !list.iter().any(|known| known == word) {
                list.push(word.to_owned());
            }
        }
        self.values.entry((case.to_owned(), column.to_owned())).or_default().push(value);
    }

    /// A table of medians, with the least and the most.
    pub(crate) fn print(&self, title: &str) {
        println!("\n{title}:\n\n| case | {} |\n|---|{}", self.columns.join(" | "), "---|".repeat(self.columns.len()));
        for case in &self.cases {
            let cells = self.columns.iter().map(|column| self.cell(case, column));
            println!("| {case} | {} |", cells.collect::<Vec<_>>().join(" | "));
        }
    }

    fn cell(&self, case: &str, column: &str) -> String {
        let Some(values) = self.values.get(&(case.to_owned(), column.to_owned())) else { return String::new() };
        let mut values = values.clone();
        values.sort_by(f64::total_cmp);
        let digits = if values[values.len() / 2] >= 100.0 { 0 } else { 2 };
        let (median, least, most) = (values[values.len() / 2], values[0], values[values.len() - 1]);
        if least.total_cmp(&most).is_eq() {
            return format!("{median:.digits$}");
        }
        format!("{median:.digits$} ({least:.digits$}–{most:.digits$})")
    }
}
