//! Sending the beginning of a flow until a gateway of the other cluster accepts it.
//!
//! The header and up to 16 KiB of first bytes are kept. When the connection dies or is ejected before the answer, the
//! same bytes go over another one. That is safe because the far end dials only once it has a header, and no byte of an
//! answer has been seen: what an endpoint may have received over the dead connection it received without an end (the inner
//! TLS handshake cannot have finished).
//!
//! A stream that is reset while its connection lives is not sent again: the far gateway may have accepted the flow and its
//! endpoint have reset it, for a reset discards the answer that is still on its way.

use std::sync::Arc;
use std::time::Duration;

use api::tunnel::{Accepted, Header, Reply, reply};
use bytes::{Bytes, BytesMut};
use mesh::Denial;
use proxy::hbone::{H2Reader, Responder};
use proxy::tunnel;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::paths::{Connection, InUse};
use crate::stream::{TunnelIo, is_reset};

/// How many first bytes are kept.
const PREFIX_MAX: usize = 16 * 1024;
/// How long the far gateway may take to answer: its dial attempts and a round trip.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// How long after a stream the connection below it may turn out to be the one that failed.
const CONNECTION_GRACE: Duration = Duration::from_millis(250);

/// Why a flow was not accepted over a connection.
#[derive(Debug)]
pub(crate) enum AttemptError {
    /// The client is gone.
    Abandoned,
    /// The far gateway said no.
    Denied { denial: Denial, message: String, by: String },
    /// The connection failed; another one may do.
    Connection(String),
    /// The stream ended without an answer on a connection that lives.
    Reset(String),
}

/// A flow that was accepted.
pub(crate) struct Opened {
    pub(crate) io: TunnelIo,
    pub(crate) accepted: Accepted,
    pub(crate) in_use: InUse,
}

/// A flow that is not accepted yet.
pub(crate) struct Attempt {
    frame: Bytes,
    reader: H2Reader,
    responder: Responder,
    /// The first bytes, whether sent or not.
    prefix: BytesMut,
    /// The client has ended its direction.
    client_ended: bool,
}

impl Attempt {
    /// Begins; gives the responder back if the header is too long for a frame.
    pub(crate) fn new(header: &Header, reader: H2Reader, responder: Responder) -> Result<Self, (Responder, String)> {
        match tunnel::to_frame(header) {
            Ok(frame) => Ok(Self { frame, reader, responder, prefix: BytesMut::new(), client_ended: false }),
            Err(error) => Err((responder, error.to_string())),
        }
    }

    /// Ends the flow as the far side did.
    pub(crate) fn reset(self) {
        self.responder.reset(h2::Reason::CANCEL);
    }

    /// For a denial.
    pub(crate) fn into_responder(self) -> Responder {
        self.responder
    }

    /// For the copy that follows; the bytes are those that were sent already.
    pub(crate) fn into_parts(self) -> (H2Reader, Responder, Bytes) {
        (self.reader, self.responder, self.prefix.freeze())
    }

    /// Opens a stream on `connection`, sends header and first bytes at once, and waits for the answer.
    pub(crate) async fn open(&mut self, connection: &Arc<Connection>) -> Result<Opened, AttemptError> {
        let mut io = connection.open().await.map_err(AttemptError::Connection)?;
        let in_use = connection.enter();
        let answered = tokio::select! {
            answered = timeout(ANSWER_TIMEOUT, self.exchange(&mut io)) => answered,
            why = connection.until_unusable() => return Err(AttemptError::Connection(why)),
        };
        let reply = match answered {
            Ok(Ok(reply)) => reply,
            Ok(Err(Unanswered::Abandoned)) => return Err(AttemptError::Abandoned),
            Ok(Err(Unanswered::Reset(why))) => return Err(AttemptError::Reset(why)),
            Ok(Err(Unanswered::Failed(why))) => {
                return Err(match timeout(CONNECTION_GRACE, connection.closed()).await {
                    Ok(_) => AttemptError::Connection(why),
                    Err(_) => AttemptError::Reset(why),
                });
            }
            Err(_) => return Err(AttemptError::Reset("no answer came".to_owned())),
        };
        match reply.reply {
            Some(reply::Reply::Accepted(accepted)) => Ok(Opened { io, accepted, in_use }),
            Some(reply::Reply::Denied(denied)) => {
                // A reason of a newer gateway that has no name here is passed on as the closest one.
                let denial = Denial::from_wire(&denied.reason).unwrap_or(Denial::Policy);
                Err(AttemptError::Denied { denial, message: denied.message, by: denied.by })
            }
            None => Err(AttemptError::Reset("the answer is empty".to_owned())),
        }
    }

    async fn exchange(&mut self, io: &mut TunnelIo) -> Result<Reply, Unanswered> {
        let (mut recv, mut send) = tokio::io::split(io);
        let written = send.write_all(&self.frame).await;
        let reply = tunnel::read_frame::<Reply, _>(&mut recv);
        if written.is_err() {
            // A gateway that has too many streams answers without reading.
            return reply.await.map_err(undecoded);
        }
        tokio::pin!(reply);
        let (mut sent, mut finished) = (0, false);
        loop {
            let unsent = sent < self.prefix.len();
            if self.client_ended && !unsent && !finished {
                finished = true;
                let _ = send.shutdown().await;
            }
            let more = !self.client_ended && self.prefix.len() < PREFIX_MAX;
            let (prefix, reader) = (&mut self.prefix, &mut self.reader);
            let step = async {
                if unsent {
                    Step::Wrote(send.write(&prefix[sent..]).await)
                } else if more {
                    // `read_buf` is bounded by what is reserved.
                    prefix.reserve(PREFIX_MAX - prefix.len());
                    Step::Read(reader.read_buf(prefix).await)
                } else {
                    std::future::pending().await
                }
            };
            tokio::select! {
                reply = &mut reply => {
                    let reply = reply.map_err(undecoded)?;
                    // What was read but not sent must not be lost: it goes before the copy begins.
                    if unsent && matches!(reply.reply, Some(reply::Reply::Accepted(_))) {
                        send.write_all(&self.prefix[sent..]).await.map_err(|error| unanswered(&error))?;
                    }
                    return Ok(reply);
                }
                step = step => match step {
                    Step::Wrote(Ok(count)) => sent += count,
                    // The far gateway stops reading when it denies: its answer follows. On a connection that has
                    // failed there is none.
                    Step::Wrote(Err(_)) => return reply.await.map_err(undecoded),
                    Step::Read(Ok(0)) => self.client_ended = true,
                    Step::Read(Ok(_)) => {}
                    Step::Read(Err(_)) => return Err(Unanswered::Abandoned),
                },
                () = self.responder.abandoned() => return Err(Unanswered::Abandoned),
            }
        }
    }
}

/// What moved while the answer was awaited.
enum Step {
    Wrote(std::io::Result<usize>),
    Read(std::io::Result<usize>),
}

/// Why a stream gave no answer.
enum Unanswered {
    /// The client is gone.
    Abandoned,
    /// The far gateway reset the stream, or answered what is none.
    Reset(String),
    /// It failed; so may have its connection.
    Failed(String),
}

fn undecoded(error: tunnel::DecodeError) -> Unanswered {
    match error {
        tunnel::DecodeError::Io(error) => unanswered(&error),
        error => Unanswered::Reset(error.to_string()),
    }
}

fn unanswered(error: &std::io::Error) -> Unanswered {
    let why = error.to_string();
    if is_reset(error) { Unanswered::Reset(why) } else { Unanswered::Failed(why) }
}
