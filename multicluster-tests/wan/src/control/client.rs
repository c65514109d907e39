//! The asking end.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Answer, LINE_MAX, Request};
use crate::link::Status;
use crate::spec::Problems;

const PATIENCE: Duration = Duration::from_secs(15);

/// A request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens there.
    #[error("cannot reach a link at {path}\n    hint: is `isthmus-wan run --control {path}` running, and may this user write there?", path = path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("the link at {path} did not answer\n    hint: its log says more", path = path.display())]
    Talk {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The link refused; nothing has changed.
    #[error(transparent)]
    Refused(#[from] Problems),
}

/// Sends one request to the control socket `path` and waits for the answer. Blocks for at most 15 s.
///
/// # Errors
/// Nobody answers, or the request is refused.
pub fn ask(path: &Path, request: &Request) -> Result<Status, ControlError> {
    let connect = |source| ControlError::Connect { path: path.to_owned(), source };
    let talk = |source| ControlError::Talk { path: path.to_owned(), source };
    let stream = UnixStream::connect(path).map_err(connect)?;
    match converse(&stream, request).map_err(talk)? {
        Answer::Status(status) => Ok(*status),
        Answer::Refused { problems } => Err(Problems(problems).into()),
    }
}

fn converse(mut stream: &UnixStream, request: &Request) -> io::Result<Answer> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream.take(LINE_MAX as u64)).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}
