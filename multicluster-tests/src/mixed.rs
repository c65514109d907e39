//! Mixed load: requests at a rate, streams of gRPC, bulk over TCP, and a connection that stays, each judged by what a fault may cost.

use std::time::Duration;

use bytes::Bytes;
use fleet::call::{Call, Speak, connect, parse_url};
use fleet::load::{Load, Record, Running};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

use crate::Scenario;

/// Requests per second.
const RATE: u32 = 100;
/// What one flow of bulk sends, and has echoed.
const BULK: usize = 2 * 1024 * 1024;
/// Whatever takes longer than this has failed.
const LONGEST: Duration = Duration::from_secs(15);
/// Between two flows, and between two pings.
const PAUSE: Duration = Duration::from_millis(50);

/// What a flow carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowKind {
    /// A call that streams its answers.
    Grpc,
    /// Two MiB there and back over TCP.
    Bulk,
    /// One TCP connection with a ping every 50 ms, for as long as the load lasts.
    Long,
    /// The same as messages of a WebSocket over HTTP/1.1.
    WebSocket,
}

impl FlowKind {
    /// It lasts as long as the load does.
    pub fn is_long(self) -> bool {
        matches!(self, Self::Long | Self::WebSocket)
    }
}

/// One flow; times since the start of the load.
#[derive(Debug, Clone)]
pub struct Flow {
    /// What it carried.
    pub kind: FlowKind,
    /// When it began.
    pub began: Duration,
    /// When it was over, or broke.
    pub ended: Duration,
    /// The longest wait for an answer in it.
    pub waited: Duration,
    /// Why it broke.
    pub error: Option<String>,
}

/// A running mixed load.
pub struct Mixed {
    http: Running,
    flows: Vec<JoinHandle<Vec<Flow>>>,
    stop: CancellationToken,
}

/// Everything that was sent.
#[derive(Debug)]
pub struct Sent {
    /// Requests over HTTP/1.1.
    pub http: Vec<Record>,
    /// All other flows.
    pub flows: Vec<Flow>,
}

#[derive(Clone)]
struct Client {
    call: Call,
    started: Instant,
    stop: CancellationToken,
}

impl Mixed {
    /// Loads `host` from a workload: HTTP on port 9080, gRPC on 9090, TCP on 9000.
    pub fn start(scenario: &Scenario, workload: &str, host: &str) -> Self {
        let proxy = scenario.proxy(workload);
        let url = parse_url(&format!("http://{host}:9080/")).expect("a URL");
        let http = Load { proxy, url, rate: RATE, duration: None, timeout: LONGEST }.start();
        let stop = CancellationToken::new();
        let started = Instant::now();
        let flow = |kind| {
            let (port, path) = match kind {
                FlowKind::Grpc => (9090, "/isthmus.echo.v1.Echo/ServerStream"),
                FlowKind::Bulk | FlowKind::Long => (9000, "/"),
                FlowKind::WebSocket => (9080, "/"),
            };
            let mut call = Call::get(proxy, &format!("http://{host}:{port}{path}")).expect("a URL");
            call.within = LONGEST;
            (call.speak, call.body) = match kind {
                FlowKind::Grpc => (Speak::Grpc, Bytes::from_static(b"mixed")),
                _ => (Speak::Tcp, Bytes::from(vec![b'b'; BULK])),
            };
            tokio::spawn(flows(kind, Client { call, started, stop: stop.clone() }))
        };
        let flows =
            [FlowKind::Grpc, FlowKind::Grpc, FlowKind::Bulk, FlowKind::Long, FlowKind::WebSocket].map(flow).into();
        Self { http, flows, stop }
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.http.elapsed()
    }

    /// Lets it run.
    pub async fn run_for(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Starts nothing any more, and waits for what is under way.
    pub async fn stop(self) -> Sent {
        self.stop.cancel();
        let http = self.http.stop().await;
        let mut flows = Vec::new();
        for task in self.flows {
            flows.extend(task.await.expect("a flow's task ends"));
        }
        Sent { http, flows }
    }
}

async fn flows(kind: FlowKind, client: Client) -> Vec<Flow> {
    let mut flows = Vec::new();
    while !client.stop.is_cancelled() {
        let began = client.started.elapsed();
        let ended = match kind {
            FlowKind::Grpc | FlowKind::Bulk => once(kind, &client.call).await.map(|()| Duration::ZERO),
            FlowKind::Long => pings(&client).await,
            FlowKind::WebSocket => messages(&client).await,
        };
        let over = client.started.elapsed();
        let waited = ended.as_ref().copied().unwrap_or_default().max(match kind {
            FlowKind::Long | FlowKind::WebSocket => Duration::ZERO,
            FlowKind::Grpc | FlowKind::Bulk => over - began,
        });
        flows.push(Flow { kind, began, ended: over, waited, error: ended.err() });
        tokio::time::sleep(PAUSE).await;
    }
    flows
}

async fn once(kind: FlowKind, call: &Call) -> Result<(), String> {
    let reply = call.send().await.map_err(|error| format!("{error:#}"))?;
    match (kind, &reply.grpc_status) {
        (FlowKind::Grpc, Some((0, _))) => Ok(()),
        (FlowKind::Grpc, status) => Err(format!("gRPC status {status:?}")),
        _ if reply.body == call.body => Ok(()),
        _ => Err(format!("{} of {BULK} bytes came back", reply.body.len())),
    }
}

/// Pings until the end of the load; the longest wait for an answer.
async fn pings(client: &Client) -> Result<Duration, String> {
    let (host, port) = client.call.authority().map_err(|error| error.to_string())?;
    let opened = timeout(LONGEST, connect(client.call.proxy, &host, port)).await;
    let mut tunnel = opened.map_err(|_| "no connection in time")?.map_err(|error| error.to_string())?;
    let mut longest = Duration::ZERO;
    while !client.stop.is_cancelled() {
        let sent = Instant::now();
        let exchange = async {
            tunnel.write_all(b"ping").await?;
            tunnel.read_exact(&mut [0; 4]).await
        };
        timeout(LONGEST, exchange).await.map_err(|_| "no answer to a ping")?.map_err(|error| error.to_string())?;
        longest = longest.max(sent.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    Ok(longest)
}

/// Messages of a WebSocket until the end of the load; the longest wait for one to come back.
async fn messages(client: &Client) -> Result<Duration, String> {
    let (host, port) = client.call.authority().map_err(|error| error.to_string())?;
    let opening = async {
        let tunnel = connect(client.call.proxy, &host, port).await.map_err(|error| error.to_string())?;
        let url = format!("ws://{host}:{port}/");
        tokio_tungstenite::client_async(url, tunnel).await.map_err(|error| format!("no WebSocket: {error}"))
    };
    let (mut socket, _) = timeout(LONGEST, opening).await.map_err(|_| "no WebSocket in time")??;
    let mut longest = Duration::ZERO;
    let mut number = 0_u64;
    while !client.stop.is_cancelled() {
        let (sent, message) = (Instant::now(), Message::text(format!("message {number}")));
        number += 1;
        let exchange = async {
            socket.send(message.clone()).await.map_err(|error| error.to_string())?;
            match socket.next().await {
                Some(Ok(echoed)) if echoed == message => Ok(()),
                other => Err(format!("{other:?} came back")),
            }
        };
        timeout(LONGEST, exchange).await.map_err(|_| "no answer to a message")??;
        longest = longest.max(sent.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    let _ = socket.close(None).await;
    Ok(longest)
}

impl Sent {
    /// Flows that broke although they were not under way between `from` and `until`.
    pub fn broken_outside(&self, from: Duration, until: Duration) -> Vec<&Flow> {
        let inside = |flow: &Flow| flow.began <= until && flow.ended >= from;
        self.flows.iter().filter(|flow| flow.error.is_some() && !inside(flow)).collect()
    }

    /// How many flows broke.
    pub fn broken(&self) -> usize {
        self.flows.iter().filter(|flow| flow.error.is_some()).count()
    }

    /// Requests that were due in a span and failed.
    pub fn failed_between(&self, from: Duration, until: Duration) -> usize {
        self.http.iter().filter(|record| record.due >= from && record.due < until && record.is_failed()).count()
    }

    /// The longest wait of a request that was due from `from` on.
    pub fn longest(&self, from: Duration) -> Duration {
        self.http.iter().filter(|record| record.due >= from).map(|record| record.latency).max().unwrap_or_default()
    }
}
