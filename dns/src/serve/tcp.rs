//! Connections: bounded in number, for each client too, in time, and in what they may ask at once.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::message::{Begun, Over};
use crate::shim::Shim;

/// The bounds of the TCP listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpLimits {
    /// Connections at once.
    pub connections: usize,
    /// Connections of one address at once.
    pub per_client: usize,
}

impl Default for TcpLimits {
    fn default() -> Self {
        Self { connections: 512, per_client: 64 }
    }
}

/// A connection that asks nothing for this long is closed (RFC 7766 wants seconds).
const IDLE: Duration = Duration::from_secs(10);
/// A question that has begun must be there by then: a byte now and then keeps no connection open.
const QUESTION: Duration = Duration::from_secs(5);
/// A client that takes no bytes for this long is given up.
const WRITE: Duration = Duration::from_secs(5);
/// The longest question. Real ones have some hundred bytes.
const QUESTION_MAX: usize = 4096;
/// Answers that wait for their client, and questions of one connection that wait for upstreams.
const PIPELINE: usize = 16;

/// Accepts until the listener breaks.
pub(super) async fn listen(
    shim: Arc<Shim>,
    listener: TcpListener,
    limits: TcpLimits,
    tasks: TaskTracker,
    ended: CancellationToken,
) {
    let places = Places { taken: Arc::default(), limits };
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // No more file descriptors, mostly: others will be closed.
                tracing::warn!(%error, "no connection accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(place) = places.enter(client.ip()) else {
            shim.metrics.refused_connection();
            continue;
        };
        let (shim, ended) = (Arc::clone(&shim), ended.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = converse(shim, stream) => {}
                () = ended.cancelled() => {}
            }
            drop(place);
        });
    }
}

/// Reads questions and writes answers, each as soon as it is there (RFC 7766, section 6.2.1.1).
async fn converse(shim: Arc<Shim>, stream: TcpStream) {
    let (mut reader, writer) = stream.into_split();
    let (answers, queue) = mpsc::channel::<Vec<u8>>(PIPELINE);
    let writing = write(writer, queue);
    let reading = async {
        let mut waiting = tokio::task::JoinSet::new();
        while let Ok(Some(question)) = read(&mut reader).await {
            let sent = match shim.begin(&question, Over::Tcp) {
                Begun::Ignored => break,
                Begun::Answered(answer) => answers.send(answer).await,
                Begun::Waiting(question) => {
                    if waiting.len() >= PIPELINE {
                        let _done = waiting.join_next().await;
                    }
                    let (shim, answers) = (Arc::clone(&shim), answers.clone());
                    waiting.spawn(async move {
                        let answer = shim.finish(*question).await;
                        let _gone = answers.send(answer).await;
                    });
                    Ok(())
                }
            };
            while waiting.try_join_next().is_some() {}
            if sent.is_err() {
                break;
            }
        }
        while waiting.join_next().await.is_some() {}
        drop(answers);
    };
    tokio::pin!(writing);
    tokio::select! {
        () = &mut writing => {}
        () = reading => writing.await,
    }
}

/// The next question; `None` when the client has no more.
async fn read(reader: &mut OwnedReadHalf) -> io::Result<Option<Vec<u8>>> {
    let mut first = [0; 1];
    if timeout(IDLE, reader.read(&mut first)).await?? == 0 {
        return Ok(None);
    }
    let rest = async {
        let length = usize::from(u16::from_be_bytes([first[0], reader.read_u8().await?]));
        if length > QUESTION_MAX {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        let mut question = vec![0; length];
        reader.read_exact(&mut question).await?;
        Ok(question)
    };
    timeout(QUESTION, rest).await?.map(Some)
}

async fn write(mut writer: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(answer) = queue.recv().await {
        let Ok(length) = u16::try_from(answer.len()) else { return };
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&answer);
        match timeout(WRITE, writer.write_all(&framed)).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
}

/// Who is connected.
struct Places {
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
    limits: TcpLimits,
}

struct Place {
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
    client: IpAddr,
}

impl Places {
    fn enter(&self, client: IpAddr) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, own) = (taken.values().sum::<usize>(), taken.get(&client).copied().unwrap_or(0));
        if all >= self.limits.connections || own >= self.limits.per_client {
            return None;
        }
        *taken.entry(client).or_default() += 1;
        Some(Place { taken: Arc::clone(&self.taken), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.client);
            }
        }
    }
}
