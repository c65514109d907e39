//! The answering end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::{Answer, LINE_MAX, Request, from_error};
use crate::emulator::Handle;

/// Clients at a time; others wait.
const CLIENTS_MAX: usize = 16;
/// A client that says nothing for so long is sent away.
const IDLE: Duration = Duration::from_secs(60);

/// Answers clients until the listener fails or the future is dropped.
///
/// # Errors
/// What the listener says.
pub async fn serve(listener: UnixListener, handle: Handle) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
        let (stream, _) = listener.accept().await?;
        let handle = handle.clone();
        tokio::spawn(async move {
            if let Err(error) = attend(stream, handle).await {
                tracing::debug!(%error, "a client of the control socket left");
            }
            drop(place);
        });
    }
}

async fn attend(mut stream: UnixStream, handle: Handle) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = String::new();
        let limited = (&mut reader).take(LINE_MAX as u64);
        if tokio::time::timeout(IDLE, read_line(limited, &mut line)).await.map_err(io::Error::other)?? == 0 {
            return Ok(());
        }
        let answer = answer(&line, handle.clone()).await;
        let mut bytes = serde_json::to_vec(&answer)?;
        bytes.push(b'\n');
        tokio::time::timeout(IDLE, writer.write_all(&bytes)).await.map_err(io::Error::other)??;
        if !line.ends_with('\n') {
            return Ok(());
        }
    }
}

async fn read_line(mut reader: impl tokio::io::AsyncBufRead + Unpin, line: &mut String) -> io::Result<usize> {
    reader.read_line(line).await
}

async fn answer(line: &str, handle: Handle) -> Answer {
    let refused = |text: String| Answer::Refused { problems: vec![from_error("(request)", &text)] };
    match serde_json::from_str::<Request>(line) {
        Ok(request) => {
            let executed = tokio::task::spawn_blocking(move || request.execute(&handle)).await;
            executed.unwrap_or_else(|error| refused(error.to_string()))
        }
        Err(error) => {
            let form = r#"write one line such as {"command": "set", "change": {"both": {"delay": "40ms"}}}"#;
            refused(format!("not a request: {error}\n    hint: {form}"))
        }
    }
}
