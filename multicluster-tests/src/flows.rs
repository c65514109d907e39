//! Very many flows at once: opened at a rate, all held, and asked at the end whether they live.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// What to open.
#[derive(Debug, Clone)]
pub struct Flows {
    /// The sidecar's explicit proxy.
    pub proxy: SocketAddr,
    /// A server that echoes bytes, as `host:port`.
    pub target: String,
    /// How many.
    pub count: usize,
    /// New ones per second.
    pub rate: u32,
}

/// What came of them. Times in milliseconds, from when a flow was due to its first echo.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FlowReport {
    /// That were never answered.
    pub failed: usize,
    /// That still echoed when all were open.
    pub alive: usize,
    /// Median.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// From the first to the last echo, in seconds.
    pub opened_in_s: f64,
    /// One of the failures.
    pub why: Option<String>,
}

/// How long one flow may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

impl Flows {
    /// Opens all of them, and asks each once more when they are open.
    pub async fn run(&self) -> FlowReport {
        let begun = Instant::now();
        let mut opening = JoinSet::new();
        for n in 0..self.count {
            let due = begun + Duration::from_secs(1) * u32::try_from(n).unwrap_or(u32::MAX) / self.rate.max(1);
            let (proxy, target) = (self.proxy, self.target.clone());
            opening.spawn(async move {
                tokio::time::sleep_until(due).await;
                let opened = timeout(PATIENCE, open(proxy, &target)).await;
                (opened.unwrap_or_else(|_| Err("it took too long".to_owned())), due.elapsed())
            });
        }
        let (mut flows, mut latencies, mut report) = (Vec::new(), Vec::new(), FlowReport::default());
        for (opened, took) in opening.join_all().await {
            match opened {
                Ok(flow) => {
                    flows.push(flow);
                    latencies.push(took.as_secs_f64() * 1e3);
                }
                Err(why) => {
                    report.failed += 1;
                    report.why = Some(why);
                }
            }
        }
        report.opened_in_s = begun.elapsed().as_secs_f64();
        latencies.sort_by(f64::total_cmp);
        let at = |percent: usize| latencies.get(latencies.len() * percent / 100).copied().unwrap_or_default();
        (report.p50_ms, report.p99_ms) = (at(50), at(99));
        for flow in &mut flows {
            if matches!(timeout(PATIENCE, echo(flow)).await, Ok(Ok(()))) {
                report.alive += 1;
            }
        }
        report
    }
}

async fn open(proxy: SocketAddr, target: &str) -> Result<TcpStream, String> {
    let mut stream = TcpStream::connect(proxy).await.map_err(|error| error.to_string())?;
    let request = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.map_err(|error| error.to_string())?);
    }
    echo(&mut stream).await.map_err(|error| error.to_string())?;
    Ok(stream)
}

/// A line there and back.
async fn echo(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"are you there?\n").await?;
    loop {
        if stream.read_u8().await? == b'\n' {
            return Ok(());
        }
    }
}
