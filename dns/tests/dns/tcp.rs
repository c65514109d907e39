//! The TCP listener keeps its bounds.

use std::sync::Arc;

use crate::support::*;
use dns::TcpLimits;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::a::A;
use hickory_proto::rr::{RData, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

fn framed(message: &Message) -> Vec<u8> {
    let bytes = message.to_vec().unwrap();
    let mut framed = (bytes.len() as u16).to_be_bytes().to_vec();
    framed.extend(bytes);
    framed
}

async fn next(stream: &mut TcpStream) -> Message {
    let mut buffer = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut buffer).await.unwrap();
    Message::from_vec(&buffer).unwrap()
}

#[tokio::test]
async fn a_client_has_so_many_connections_and_no_more() {
    let limits = TcpLimits { connections: 100, per_client: 2 };
    let shim = start_with(view(1, [host("reviews", &["243.0.0.1"])]), vec![], Default::default(), limits).await;
    let asked = framed(&question(REVIEWS, RecordType::A));
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(shim.address).await.unwrap();
        stream.write_all(&asked).await.unwrap();
        assert_eq!(addresses(&next(&mut stream).await), ["243.0.0.1"]);
        held.push(stream);
    }
    let mut third = TcpStream::connect(shim.address).await.unwrap();
    let _may_fail = third.write_all(&asked).await;
    assert!(third.read_u8().await.is_err(), "closed without an answer");
    assert!(shim.registry.encode().contains("isthmus_dns_refused_connections_total 1"));
    // A place that is given back is free again.
    drop(held.pop());
    wait_for_async(|| async {
        let mut again = TcpStream::connect(shim.address).await.unwrap();
        let _may_fail = again.write_all(&asked).await;
        again.read_u8().await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_question_that_is_too_long_ends_the_connection() {
    let shim = start(view(1, []), Vec::new()).await;
    let mut stream = TcpStream::connect(shim.address).await.unwrap();
    stream.write_u16(u16::MAX).await.unwrap();
    assert!(stream.read_u8().await.is_err());
}

#[tokio::test]
async fn answers_overtake_those_that_wait_for_upstream() {
    let gate = Arc::new(Semaphore::new(0));
    let server = slow_upstream(Arc::clone(&gate), |asked| {
        response(asked, ResponseCode::NoError, vec![RData::A(A::new(192, 0, 2, 1))])
    })
    .await;
    let shim = start(view(1, [host("reviews", &["243.0.0.1"])]), vec![server]).await;
    let mut stream = TcpStream::connect(shim.address).await.unwrap();
    let mut both = framed(&question("www.example.", RecordType::A));
    both.extend(framed(&question(REVIEWS, RecordType::A)));
    stream.write_all(&both).await.unwrap();
    assert_eq!(addresses(&next(&mut stream).await), ["243.0.0.1"]);
    gate.add_permits(1);
    assert_eq!(addresses(&next(&mut stream).await), ["192.0.2.1"]);
    // The client's end of the conversation ends ours.
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn answers_are_never_answered_and_garbage_is_a_format_error() {
    let shim = start(view(1, [host("reviews", &["243.0.0.1"])]), Vec::new()).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut reflected = question(REVIEWS, RecordType::A).to_vec().unwrap();
    reflected[2] |= 0x80;
    socket.send_to(&reflected, shim.address).await.unwrap();
    socket.send_to(&[1, 2, 3], shim.address).await.unwrap();
    let mut garbage = question(REVIEWS, RecordType::A).to_vec().unwrap();
    garbage.truncate(20);
    socket.send_to(&garbage, shim.address).await.unwrap();
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).await.unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr, "the first answer is to the garbage");
    assert_eq!(answer.metadata.id.to_be_bytes(), garbage[..2]);
}
