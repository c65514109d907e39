//! TCP: bytes come back; a server that speaks first greets with one line of JSON.

use tokio::io::{AsyncWriteExt, copy};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::answer::{Answer, Whoami};

pub(super) async fn serve(mut stream: TcpStream, greet: Option<Whoami>, shutdown: CancellationToken) {
    let echo = async {
        if let Some(whoami) = greet {
            let answer = Answer { whoami, protocol: "tcp".to_owned(), ..Answer::default() };
            let mut line = serde_json::to_vec(&answer).unwrap_or_default();
            line.push(b'\n');
            stream.write_all(&line).await?;
        }
        let (mut reading, mut writing) = stream.split();
        copy(&mut reading, &mut writing).await?;
        // The client's half-close is answered by ours, after everything it sent came back.
        writing.shutdown().await
    };
    // A client that breaks off is its own business; at shutdown long-lived connections end with the process.
    tokio::select! {
        _ = echo => {}
        () = shutdown.cancelled() => {}
    }
}
