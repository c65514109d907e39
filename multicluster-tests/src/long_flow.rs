//! Long-lived flows that remember when something came back, so that a test can tell what a fault cost them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fleet::echo::pb::EchoRequest;
use fleet::echo::pb::echo_client::EchoClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, sleep};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::IntervalStream;
use tonic::transport::Endpoint;

/// Between two messages of a flow that sends whatever comes back.
const PACE: Duration = Duration::from_millis(50);
/// What arrives within this time counts as one arrival.
const GRAIN: Duration = Duration::from_millis(10);

/// One flow under way. Dropping it ends it.
#[derive(Debug)]
pub struct LongFlow {
    /// What it is, for messages.
    pub name: &'static str,
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    /// When something came back, and how many bytes.
    arrivals: Vec<(Instant, u64)>,
    /// Why it ended, if it did.
    ended: Option<String>,
}

impl LongFlow {
    /// TCP to an echo server: a numbered message every 50 ms, which must come back in order.
    pub fn tcp(on: &Handle, to: SocketAddr) -> Self {
        Self::start(on, "TCP, every 50 ms", |seen| async move {
            let mut stream = dial(to).await?;
            let (mut reading, mut writing) = stream.split();
            let send = async {
                let mut ticks = interval(PACE);
                for number in 0_u64.. {
                    ticks.tick().await;
                    writing.write_u64(number).await.map_err(|error| format!("sending: {error}"))?;
                }
                Ok(())
            };
            let receive = async {
                for number in 0_u64.. {
                    let echoed = reading.read_u64().await.map_err(|error| format!("receiving: {error}"))?;
                    if echoed != number {
                        return Err(format!("{echoed} came back in place of {number}"));
                    }
                    seen.arrived(8);
                }
                Ok(())
            };
            tokio::try_join!(send, receive).map(|_| ())
        })
    }

    /// TCP to an echo server, in lockstep: the next message is sent 50 ms after the last one came back, so that nothing new
    /// reminds anybody of a flow that waits.
    pub fn lockstep(on: &Handle, to: SocketAddr) -> Self {
        Self::start(on, "TCP in lockstep", |seen| async move {
            let mut stream = dial(to).await?;
            for number in 0_u64.. {
                stream.write_u64(number).await.map_err(|error| format!("sending: {error}"))?;
                let echoed = stream.read_u64().await.map_err(|error| format!("receiving: {error}"))?;
                if echoed != number {
                    return Err(format!("{echoed} came back in place of {number}"));
                }
                seen.arrived(8);
                sleep(PACE).await;
            }
            Ok(())
        })
    }

    /// A gRPC stream in both directions, a message every 50 ms.
    pub fn grpc(on: &Handle, to: SocketAddr, host: &str) -> Self {
        let origin = format!("http://{host}:{}", to.port());
        Self::start(on, "gRPC stream", |seen| async move {
            let origin = origin.parse().map_err(|error| format!("{error}"))?;
            let endpoint = Endpoint::from_shared(format!("http://{to}")).map_err(|error| error.to_string())?;
            let channel = endpoint.origin(origin).connect().await.map_err(|error| format!("connecting: {error:?}"))?;
            let message = EchoRequest { message: "ping".to_owned(), count: 1 };
            let messages = IntervalStream::new(interval(PACE)).map(move |_| message.clone());
            let answer = EchoClient::new(channel).bidi_stream(messages).await;
            let mut answers = answer.map_err(|status| status.to_string())?.into_inner();
            while let Some(message) = answers.next().await {
                message.map_err(|status| status.to_string())?;
                seen.arrived(1);
            }
            Err("the server ended the stream".to_owned())
        })
    }

    /// An endless download over HTTP/1.1, as fast as it comes.
    pub fn bulk(on: &Handle, to: SocketAddr, host: &str) -> Self {
        let request = format!("GET /bytes/{} HTTP/1.1\r\nHost: {host}:{}\r\n\r\n", 16_u64 << 30, to.port());
        Self::start(on, "bulk", |seen| async move {
            let mut stream = dial(to).await?;
            stream.write_all(request.as_bytes()).await.map_err(|error| format!("sending: {error}"))?;
            let mut buffer = vec![0; 64 << 10];
            loop {
                match stream.read(&mut buffer).await {
                    Ok(0) => return Err("the server ended the download".to_owned()),
                    Ok(count) => seen.arrived(count as u64),
                    Err(error) => return Err(format!("receiving: {error}")),
                }
            }
        })
    }

    fn start<F>(on: &Handle, name: &'static str, flow: impl FnOnce(Notes) -> F) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (running, noted) = (flow(Notes(Arc::clone(&seen))), Arc::clone(&seen));
        let task = on.spawn(async move {
            let outcome = running.await;
            lock(&noted).ended = Some(outcome.err().unwrap_or_default());
        });
        Self { name, seen, task }
    }

    /// Why it has ended; `None` while it lives.
    pub fn ended(&self) -> Option<String> {
        lock(&self.seen).ended.clone()
    }

    /// How many times something came back.
    pub fn arrivals(&self) -> usize {
        lock(&self.seen).arrivals.len()
    }

    /// From a moment until something came back; `None` if nothing has.
    pub fn first_after(&self, moment: Instant) -> Option<Duration> {
        let first = |(at, _): &(Instant, u64)| (*at >= moment).then(|| at.duration_since(moment));
        lock(&self.seen).arrivals.iter().find_map(first)
    }

    /// The longest time between two arrivals since a moment.
    pub fn longest_gap(&self, since: Instant) -> Duration {
        let seen = lock(&self.seen);
        let mut times: Vec<Instant> = seen.arrivals.iter().map(|(at, _)| *at).filter(|at| *at >= since).collect();
        times.insert(0, since);
        times.push(Instant::now());
        times.windows(2).map(|pair| pair[1].duration_since(pair[0])).max().unwrap_or_default()
    }

    /// Megabits per second of what came back between two moments.
    pub fn goodput(&self, from: Instant, to: Instant) -> f64 {
        let seen = lock(&self.seen);
        let bytes: u64 = seen.arrivals.iter().filter(|(at, _)| *at >= from && *at < to).map(|(_, bytes)| bytes).sum();
        bytes as f64 * 8.0 / 1e6 / to.duration_since(from).as_secs_f64()
    }
}

impl Drop for LongFlow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a flow writes down.
struct Notes(Arc<Mutex<Seen>>);

impl Notes {
    fn arrived(&self, bytes: u64) {
        let now = Instant::now();
        let mut seen = lock(&self.0);
        match seen.arrivals.last_mut() {
            Some((at, sum)) if now.duration_since(*at) < GRAIN => *sum += bytes,
            _ => seen.arrivals.push((now, bytes)),
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn dial(to: SocketAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(to).await.map_err(|error| format!("connecting: {error}"))?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    Ok(stream)
}
