//! Asks a DNS shim one question: enough of RFC 1035 for an A record over UDP, so that probes need no resolver of the host.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;

/// Response code "no such name".
pub const NXDOMAIN: u8 = 3;

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Response code; 0 is success.
    pub code: u8,
    /// The A records.
    pub addresses: Vec<Ipv4Addr>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The name does not fit into a question.
    #[error("{0:?} is no domain name")]
    Name(String),
    /// The socket failed.
    #[error("cannot ask the DNS server {server}")]
    Socket {
        /// The server.
        server: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// No answer came.
    #[error("the DNS server {server} did not answer within {} ms", within.as_millis())]
    Timeout {
        /// The server.
        server: SocketAddr,
        /// The deadline.
        within: Duration,
    },
    /// Something came that is no answer.
    #[error("the DNS server {server} sent a malformed answer")]
    Malformed {
        /// The server.
        server: SocketAddr,
    },
}

/// Asks `server` for the A records of `name`.
pub async fn ask(server: SocketAddr, name: &str, within: Duration) -> Result<Answer, AskError> {
    let id: u16 = rand::random();
    let question = question(id, name).ok_or_else(|| AskError::Name(name.to_owned()))?;
    let failed = |source| AskError::Socket { server, source };
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.map_err(failed)?;
    socket.connect(server).await.map_err(failed)?;
    socket.send(&question).await.map_err(failed)?;
    let mut buffer = vec![0; 4096];
    let received = tokio::time::timeout(within, socket.recv(&mut buffer)).await;
    let length = received.map_err(|_| AskError::Timeout { server, within })?.map_err(failed)?;
    parse(id, &buffer[..length]).ok_or(AskError::Malformed { server })
}

/// A question with this id for the A records of `name`; `None` if it is no domain name.
pub fn question(id: u16, name: &str) -> Option<Vec<u8>> {
    let mut message = id.to_be_bytes().to_vec();
    // Recursion desired, one question.
    message.extend([0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        message.push(length);
        message.extend(label.as_bytes());
    }
    // Root label, type A, class IN.
    message.extend([0, 0, 1, 0, 1]);
    Some(message)
}

/// Reads the answer to the question with this id.
pub fn parse(id: u16, message: &[u8]) -> Option<Answer> {
    let short = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    if short(0)? != id {
        return None;
    }
    let mut at = 12;
    for _ in 0..short(4)? {
        at = skip_name(message, at)? + 4;
    }
    let mut addresses = Vec::new();
    for _ in 0..short(6)? {
        at = skip_name(message, at)?;
        let (kind, length) = (short(at)?, usize::from(short(at + 8)?));
        let data = message.get(at + 10..at + 10 + length)?;
        if let (1, Ok(octets)) = (kind, <[u8; 4]>::try_from(data)) {
            addresses.push(Ipv4Addr::from(octets));
        }
        at += 10 + length;
    }
    Some(Answer { code: message[3] & 0x0f, addresses })
}

/// The position behind a name: labels, or a pointer that ends it.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xc0 == 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_with_a_compressed_name_is_read() {
        let mut message = question(7, "web.default.svc.clusterset.local").expect("a name");
        message[3] = 0x80;
        message[7] = 1;
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 240, 0, 0, 9]);
        let expected = Answer { code: 0, addresses: vec![Ipv4Addr::new(240, 0, 0, 9)] };
        assert_eq!(parse(7, &message), Some(expected));
        assert_eq!(parse(8, &message), None, "another question's answer");
        assert_eq!(parse(7, &message[..message.len() - 1]), None, "cut short");
    }

    #[test]
    fn what_is_no_name_is_not_asked() {
        assert_eq!(question(1, "a..b"), None);
        assert_eq!(question(1, &"x".repeat(64)), None);
    }
}
