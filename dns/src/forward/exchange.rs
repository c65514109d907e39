//! One question to one name server: UDP first, TCP when the answer is cut short or smells of forgery.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::Name;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::{Flags, UDP_PAYLOAD};

/// Datagrams that do not belong to the question; more of them mean that somebody guesses.
const STRANGERS: usize = 16;

/// An answer, and whether it had to be fetched over TCP.
#[derive(Debug)]
pub(super) struct Exchanged {
    pub(super) answer: Message,
    pub(super) over_tcp: bool,
}

/// Asks. Each protocol gets `patience`.
pub(super) async fn exchange(
    server: SocketAddr,
    question: &Query,
    flags: Flags,
    patience: Duration,
) -> io::Result<Exchanged> {
    let mut asked = question.clone();
    asked.set_name(with_random_case(question.name(), &rand::random::<[u8; 32]>()));
    let mut message = request(asked, flags, true);
    let mut answer = within(patience, over_udp(server, &message)).await?;
    // Servers that know no EDNS say so (RFC 6891, section 7).
    let no_edns = matches!(answer.as_ref().map(|it| it.metadata.response_code), Some(ResponseCode::FormErr));
    if no_edns && answer.as_ref().is_some_and(|answer| answer.edns.is_none()) && !flags.dnssec_ok {
        message = request(message.queries[0].clone(), flags, false);
        answer = within(patience, over_udp(server, &message)).await?;
    }
    let over_tcp = answer.as_ref().is_none_or(|answer| answer.metadata.truncation);
    let answer = match answer {
        Some(answer) if !over_tcp => answer,
        _ => within(patience, self::over_tcp(server, &message)).await?,
    };
    Ok(Exchanged { answer: in_case_of(answer, question.name()), over_tcp })
}

fn request(question: Query, flags: Flags, edns: bool) -> Message {
    // The id is random.
    let mut message = Message::query();
    message.metadata.recursion_desired = flags.recursion_desired;
    message.metadata.checking_disabled = flags.checking_disabled;
    message.add_query(question);
    if edns {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD).set_version(0).set_dnssec_ok(flags.dnssec_ok);
        message.set_edns(edns);
    }
    message
}

/// The letters of a name in random case: servers repeat the question as it was written, and a forger has to guess it
/// (draft-vixie-dnsext-dns0x20).
fn with_random_case(name: &Name, bits: &[u8; 32]) -> Name {
    let mut position = 0_usize;
    let mut flip = |byte: &u8| {
        if !byte.is_ascii_alphabetic() {
            return *byte;
        }
        let upper = bits[(position / 8) % 32] >> (position % 8) & 1 == 1;
        position += 1;
        if upper { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() }
    };
    let labels: Vec<Vec<u8>> = name.iter().map(|label| label.iter().map(&mut flip).collect()).collect();
    match Name::from_labels(labels) {
        Ok(mut random) => {
            random.set_fqdn(true);
            random
        }
        Err(_) => name.clone(),
    }
}

/// The answer with the name as it was asked for before the game with its case.
fn in_case_of(mut answer: Message, name: &Name) -> Message {
    for query in &mut answer.queries {
        query.set_name(name.clone());
    }
    for record in answer.answers.iter_mut().chain(&mut answer.authorities).chain(&mut answer.additionals) {
        if record.name == *name {
            record.name = name.clone();
        }
    }
    answer
}

async fn within<T>(patience: Duration, exchange: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(patience, exchange).await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
}

/// A fresh socket for every question: its random port, the random id and the random case are what a forger who does not
/// see the question has to guess. `None`: better ask over TCP, which cannot be forged so.
async fn over_udp(server: SocketAddr, asked: &Message) -> io::Result<Option<Message>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(&asked.to_vec().map_err(io::Error::other)?).await?;
    let mut buffer = vec![0; usize::from(UDP_PAYLOAD).max(4096)];
    for _ in 0..STRANGERS {
        let length = socket.recv(&mut buffer).await?;
        let Ok(answer) = Message::from_vec(&buffer[..length]) else { continue };
        match belonging(&answer, asked) {
            Belonging::Exact => return Ok(Some(answer)),
            // A server that does not keep the case, or somebody who could not see it.
            Belonging::OtherCase => return Ok(None),
            // Noise or a forgery; the answer may still come.
            Belonging::None => {}
        }
    }
    Ok(None)
}

async fn over_tcp(server: SocketAddr, asked: &Message) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let bytes = asked.to_vec().map_err(io::Error::other)?;
    let mut framed = u16::try_from(bytes.len()).map_err(io::Error::other)?.to_be_bytes().to_vec();
    framed.extend_from_slice(&bytes);
    stream.write_all(&framed).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(io::Error::other)?;
    match belonging(&answer, asked) {
        Belonging::None => Err(io::Error::from(io::ErrorKind::InvalidData)),
        _ => Ok(answer),
    }
}

#[derive(Debug, PartialEq)]
enum Belonging {
    Exact,
    OtherCase,
    None,
}

fn belonging(answer: &Message, asked: &Message) -> Belonging {
    let same = answer.metadata.id == asked.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.queries == asked.queries;
    let exact = answer.queries.iter().zip(&asked.queries).all(|(own, asked)| own.name().eq_case(asked.name()));
    match (same, exact) {
        (true, true) => Belonging::Exact,
        (true, false) => Belonging::OtherCase,
        (false, _) => Belonging::None,
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use hickory_proto::rr::RecordType;

    use super::*;

    #[test]
    fn the_case_of_a_question_is_random_and_is_taken_back() {
        let name = Name::from_str("www.Example-1.org.").unwrap();
        let random = with_random_case(&name, &[0b1010_1010; 32]);
        assert_eq!(random, name);
        assert!(!random.eq_case(&name), "{random}");
        assert!(with_random_case(&name, &[0; 32]).eq_case(&name.to_lowercase()));
        let asked = request(Query::query(random.clone(), RecordType::A), Flags::default(), true);
        let mut answer = Message::response(asked.metadata.id, asked.metadata.op_code);
        answer.add_queries(asked.queries.iter().cloned());
        assert_eq!(belonging(&answer, &asked), Belonging::Exact);
        answer.queries[0].set_name(name.to_lowercase());
        assert_eq!(belonging(&answer, &asked), Belonging::OtherCase);
        assert!(in_case_of(answer.clone(), &name).queries[0].name().eq_case(&name));
        answer.metadata.id = answer.metadata.id.wrapping_add(1);
        assert_eq!(belonging(&answer, &asked), Belonging::None);
    }
}
