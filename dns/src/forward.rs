//! Passes questions on: UDP first, TCP when the answer is truncated, the next server when one fails. The answer is
//! handed back as it came.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Questions that may wait for upstreams at the same time; more are answered SERVFAIL at once.
pub const MAX_FORWARDS: usize = 512;
/// The payload that is announced to upstreams and to clients: what passes every path unfragmented (DNS flag day 2020).
pub(crate) const UDP_PAYLOAD: u16 = 1232;
/// One server gets this long; clients wait 5 s for all of them.
const TRY: Duration = Duration::from_millis(1500);
/// Each server is asked this often before the question fails: a lost datagram is not an answer.
const ROUNDS: usize = 2;
/// The time for all tries together.
const DEADLINE: Duration = Duration::from_millis(4500);

/// Why a question was not answered from upstream.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// No server is configured.
    #[error("no name server to forward to")]
    NoUpstream,
    /// Too many questions wait already.
    #[error("{MAX_FORWARDS} questions wait for upstreams already")]
    Busy,
    /// No server answered.
    #[error("no name server answered")]
    Failed(#[source] Option<io::Error>),
}

/// What of the client's header goes upstream.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Flags {
    pub(crate) recursion_desired: bool,
    pub(crate) checking_disabled: bool,
    pub(crate) dnssec_ok: bool,
}

/// Asks the configured servers.
#[derive(Debug)]
pub struct Forwarder {
    upstreams: Vec<SocketAddr>,
    slots: Semaphore,
}

impl Forwarder {
    /// Servers are asked in this order.
    pub fn new(upstreams: Vec<SocketAddr>) -> Self {
        Self { upstreams, slots: Semaphore::new(MAX_FORWARDS) }
    }

    /// Waits until no question is on its way.
    pub(crate) async fn idle(&self) {
        // An error means that the semaphore is closed, which never happens.
        let _all = self.slots.acquire_many(MAX_FORWARDS as u32).await;
    }

    /// The first useful answer; if every server fails or refuses, the last refusal.
    pub(crate) async fn ask(&self, question: &Query, flags: Flags) -> Result<Message, ForwardError> {
        if self.upstreams.is_empty() {
            return Err(ForwardError::NoUpstream);
        }
        let _slot = self.slots.try_acquire().map_err(|_| ForwardError::Busy)?;
        let mut refusal = None;
        let asked = timeout(DEADLINE, self.ask_each(question, flags, &mut refusal)).await;
        match (asked, refusal) {
            (Ok(Ok(answer)), _) | (_, Some(answer)) => Ok(answer),
            (Ok(Err(error)), None) => Err(ForwardError::Failed(Some(error))),
            (Err(_), None) => Err(ForwardError::Failed(None)),
        }
    }

    async fn ask_each(&self, question: &Query, flags: Flags, refusal: &mut Option<Message>) -> io::Result<Message> {
        let mut last = io::Error::from(io::ErrorKind::TimedOut);
        for _ in 0..ROUNDS {
            for server in &self.upstreams {
                match exchange(*server, question, flags).await {
                    Ok(answer) if can_differ_elsewhere(answer.metadata.response_code) => *refusal = Some(answer),
                    Ok(answer) => return Ok(answer),
                    Err(error) => {
                        tracing::debug!(%server, %error, "name server did not answer");
                        last = error;
                    }
                }
            }
            if let Some(answer) = refusal.take() {
                return Ok(answer);
            }
        }
        Err(last)
    }
}

/// Codes that speak of the server and not of the name.
fn can_differ_elsewhere(code: ResponseCode) -> bool {
    matches!(code, ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp)
}

async fn exchange(server: SocketAddr, question: &Query, flags: Flags) -> io::Result<Message> {
    let mut message = Message::query();
    message.metadata.recursion_desired = flags.recursion_desired;
    message.metadata.checking_disabled = flags.checking_disabled;
    message.add_query(question.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD).set_version(0).set_dnssec_ok(flags.dnssec_ok);
    message.set_edns(edns);
    let bytes = message.to_vec().map_err(io::Error::other)?;
    let answer = within(over_udp(server, &message, &bytes)).await?;
    if answer.metadata.truncation { within(over_tcp(server, &message, &bytes)).await } else { Ok(answer) }
}

async fn within<T>(exchange: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(TRY, exchange).await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
}

/// A fresh socket for every question: its random port and the random id are what an off-path forger has to guess.
async fn over_udp(server: SocketAddr, asked: &Message, bytes: &[u8]) -> io::Result<Message> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; usize::from(UDP_PAYLOAD).max(4096)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What does not belong to the question is noise or a forgery; the answer may still come.
        if let Some(answer) = Message::from_vec(&buffer[..length]).ok().filter(|answer| belongs(answer, asked)) {
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, asked: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(bytes);
    stream.write_all(&framed).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(io::Error::other)?;
    if belongs(&answer, asked) { Ok(answer) } else { Err(io::Error::from(io::ErrorKind::InvalidData)) }
}

fn belongs(answer: &Message, asked: &Message) -> bool {
    answer.metadata.id == asked.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.queries == asked.queries
}
