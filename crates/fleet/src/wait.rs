//! Waits for processes on a level — "it says that it is ready" — with a deadline, and explains what is missing.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::hint::Hint;
use crate::http;
use crate::layout::Layout;
use crate::plan::{ProcessPlan, Ready};
use crate::process::PidRecord;

/// Between two looks at a level.
pub const POLL: Duration = Duration::from_millis(40);
/// One look takes no longer than this.
const LOOK: Duration = Duration::from_secs(2);

/// Whether a process serves; `Err` says what it lacks.
pub async fn is_ready(layout: &Layout, process: &ProcessPlan) -> Result<(), String> {
    match &process.ready {
        Ready::Admin(address) => match http::get(*address, "/readyz", LOOK).await {
            Ok((status, _)) if status.is_success() => Ok(()),
            Ok((_, body)) => Err(blockers(&body)),
            Err(error) => Err(error.to_string()),
        },
        Ready::Holds => match PidRecord::load(&layout.pid(&process.name)) {
            Some(record) if record.holds() => Ok(()),
            _ => Err("its namespace is not set up".to_owned()),
        },
        Ready::Controls => match std::os::unix::net::UnixStream::connect(layout.control(&process.name)) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("its control socket does not accept: {error}")),
        },
        Ready::Listens(ports) => {
            let listening = PidRecord::load(&layout.pid(&process.name)).map(|record| record.listening());
            match ports.iter().find(|port| !listening.as_ref().is_some_and(|listening| listening.contains(port))) {
                Some(port) => Err(format!("nothing listens on port {port}")),
                None => Ok(()),
            }
        }
        Ready::Accepts(addresses) => {
            for address in addresses {
                let connected = tokio::time::timeout(LOOK, TcpStream::connect(address)).await;
                if !matches!(connected, Ok(Ok(_))) {
                    return Err(format!("nothing accepts on {address}"));
                }
            }
            Ok(())
        }
    }
}

/// What the body of `/readyz` says is missing, in words; a body of another form as it is.
fn blockers(body: &[u8]) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let listed = parsed.as_ref().and_then(|value| value["blockers"].as_array());
    let words: Vec<_> = listed.into_iter().flatten().filter_map(|blocker| blocker.as_str()).collect();
    if words.is_empty() { String::from_utf8_lossy(body).trim().to_owned() } else { words.join(", ") }
}

/// Waits until a process serves. Fails at once if it ends, and at the deadline; both with the end of its log.
pub async fn until_ready(layout: &Layout, process: &ProcessPlan, deadline: Instant) -> Result<()> {
    loop {
        let lacking = match is_ready(layout, process).await {
            Ok(()) => return Ok(()),
            Err(lacking) => lacking,
        };
        let alive = PidRecord::load(&layout.pid(&process.name)).is_some_and(|record| record.is_alive());
        let log = layout.log(&process.name);
        if !alive {
            let message = format!("{} ended during its start{}", process.name, tail(&log));
            return Err(Hint::error(message, format!("its log is {}", log.display())));
        }
        if Instant::now() >= deadline {
            let message = format!("{} is not ready in time: {lacking}{}", process.name, tail(&log));
            return Err(Hint::error(message, format!("its log is {}", log.display())));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until all serve, reporting each as it becomes ready.
pub async fn until_all_ready(layout: &Layout, processes: &[ProcessPlan], deadline: Instant) -> Result<()> {
    let mut waiting = tokio::task::JoinSet::new();
    for process in processes {
        let (layout, process) = (layout.clone(), process.clone());
        waiting.spawn(async move { until_ready(&layout, &process, deadline).await });
    }
    while let Some(done) = waiting.join_next().await {
        done??;
    }
    Ok(())
}

/// The last lines of a log, indented for an error message.
pub fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().rev().take(8).collect();
    lines.iter().rev().map(|line| format!("\n  | {line}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_lacks_is_told_in_words() {
        assert_eq!(blockers(br#"{"ready":false,"blockers":["draining","no view"]}"#), "draining, no view");
        assert_eq!(blockers(b"not ready\n"), "not ready");
    }
}
