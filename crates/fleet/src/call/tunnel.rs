//! `CONNECT host:port` through a sidecar's explicit proxy.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Bytes to and from the destination. Buffered, because a server that speaks first may do so in the segment of the
/// proxy's answer.
pub type Tunnel = BufReader<TcpStream>;

/// The longest answer head that is read, in bytes.
const HEAD_MAX: usize = 16 * 1024;

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The sidecar does not accept.
    #[error("cannot connect to the sidecar {proxy}")]
    Proxy {
        /// The sidecar.
        proxy: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The sidecar broke off.
    #[error("the sidecar {proxy} broke off")]
    Broken {
        /// The sidecar.
        proxy: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The sidecar refused.
    #[error("the sidecar refused CONNECT {authority}: {answer}")]
    Refused {
        /// What was asked for.
        authority: String,
        /// Its status line and reason.
        answer: String,
    },
}

/// Opens a tunnel to `host:port` through the explicit proxy at `proxy`.
pub async fn connect(proxy: SocketAddr, host: &str, port: u16) -> Result<Tunnel, ConnectError> {
    let stream = TcpStream::connect(proxy).await.map_err(|source| ConnectError::Proxy { proxy, source })?;
    let broken = |source| ConnectError::Broken { proxy, source };
    let _ = stream.set_nodelay(true);
    let mut tunnel = BufReader::new(stream);
    let authority = format!("{host}:{port}");
    let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    tunnel.write_all(request.as_bytes()).await.map_err(broken)?;
    let mut head = String::new();
    loop {
        let mut line = String::new();
        let read = tunnel.read_line(&mut line).await.map_err(broken)?;
        if read == 0 || head.len() + line.len() > HEAD_MAX {
            return Err(broken(std::io::ErrorKind::UnexpectedEof.into()));
        }
        if line.trim_end().is_empty() {
            break;
        }
        head.push_str(&line);
    }
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse::<u16>().ok());
    match status {
        Some(200..=299) => Ok(tunnel),
        _ => {
            let answer = head.lines().map(str::trim).collect::<Vec<_>>().join("; ");
            Err(ConnectError::Refused { authority, answer })
        }
    }
}
