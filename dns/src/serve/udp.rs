//! Datagrams.

use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::message::{Begun, Over};
use crate::shim::Shim;

/// Questions of clients that wait for upstreams; equal ones wait for one answer.
const WAITING: usize = 4096;
/// The longest question that is read; a client that needs more asks over TCP.
const QUESTION_MAX: usize = 4096;

/// Answers until the socket breaks.
pub(super) async fn listen(shim: Arc<Shim>, socket: Arc<UdpSocket>, tasks: TaskTracker) {
    let waiting = Arc::new(Semaphore::new(WAITING));
    let mut buffer = vec![0; QUESTION_MAX];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An ICMP error for an earlier answer is reported on the next call.
            Err(error) => {
                tracing::debug!(%error, "no datagram");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let answer = match shim.begin(&buffer[..length], Over::Udp) {
            Begun::Ignored => continue,
            Begun::Answered(answer) => answer,
            Begun::Waiting(question) => match Arc::clone(&waiting).try_acquire_owned() {
                Err(_) => shim.give_up(*question),
                Ok(place) => {
                    let (shim, socket) = (Arc::clone(&shim), Arc::clone(&socket));
                    tasks.spawn(async move {
                        let answer = shim.finish(*question).await;
                        if let Err(error) = socket.send_to(&answer, client).await {
                            tracing::debug!(%error, %client, "response not sent");
                        }
                        drop(place);
                    });
                    continue;
                }
            },
        };
        if let Err(error) = socket.send_to(&answer, client).await {
            tracing::debug!(%error, %client, "response not sent");
        }
    }
}
