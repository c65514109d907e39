//! Datagrams of UDP flows between two gateways.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use mesh::TunnelRequest;
use proxy::capsule::{Capsule, Capsules, DATAGRAM, TLS, put_capsule};
use proxy::hbone::{Connecting, H2Io};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::world::{World, open, request};

const LONG: Duration = Duration::from_secs(20);

/// A sidecar that sends every capsule back.
async fn mirror() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                tokio::io::copy(&mut reader, &mut writer).await
            });
        }
    });
    at
}

async fn send(io: &mut H2Io, kind: u64, value: &[u8]) {
    let mut bytes = bytes::BytesMut::new();
    put_capsule(kind, value, &mut bytes);
    io.write_all(&bytes).await.unwrap();
}

/// The next capsule, if one comes in time.
async fn next(io: &mut H2Io, capsules: &mut Capsules, within: Duration) -> Option<Capsule> {
    let mut chunk = vec![0; 4096];
    loop {
        if let Some(capsule) = capsules.next_capsule().unwrap() {
            return Some(capsule);
        }
        let count = tokio::time::timeout(within, io.read(&mut chunk)).await.ok()?.unwrap();
        assert!(count > 0, "no end");
        capsules.push(&chunk[..count]);
    }
}

/// How many datagrams of the source's gateway went which way.
fn carried(world: &World, direction: &str, by: &str) -> u64 {
    let text = world.east.registry.encode();
    let line = format!("isthmus_gateway_datagrams_total{{direction=\"{direction}\",carried=\"{by}\"}} ");
    text.lines().find_map(|found| found.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fits_is_a_datagram_of_quic_and_the_rest_is_on_the_stream() {
    let world = World::new(mirror().await).await;
    let web = world.web().await;
    let Connecting { mut io, answer } = open(&web, &TunnelRequest { udp: true, ..request("reviews") }).await;
    let mut capsules = Capsules::default();
    // First bytes leave before the answer, and half a capsule among them.
    let mut first = bytes::BytesMut::new();
    put_capsule(TLS, b"hello", &mut first);
    io.write_all(&first[..4]).await.unwrap();
    answer.await.unwrap();
    io.write_all(&first[4..]).await.unwrap();
    let hello = Capsule { kind: TLS, value: "hello".into() };
    assert_eq!(next(&mut io, &mut capsules, LONG).await, Some(hello.clone()));

    // Too long for a datagram of QUIC: none is lost.
    let long = vec![7; 20_000];
    send(&mut io, DATAGRAM, &long).await;
    assert_eq!(next(&mut io, &mut capsules, LONG).await, Some(Capsule { kind: DATAGRAM, value: long.into() }));
    assert_eq!((carried(&world, "sent", "stream"), carried(&world, "received", "stream")), (1, 1));

    // Short ones: nearly none is lost on loopback, and their order is not promised. Five are under way at a time, so that
    // no queue gets too long whatever the machine is busy with.
    let (mut seen, mut lost) = (BTreeSet::new(), 0);
    for number in 0..50_u8 {
        send(&mut io, DATAGRAM, &[number; 900]).await;
        let ahead = if number == 49 { 1 } else { 5 };
        while usize::from(number) + 1 >= seen.len() + lost + ahead {
            let Some(Capsule { kind, value }) = next(&mut io, &mut capsules, Duration::from_secs(2)).await else {
                lost = usize::from(number) + 1 - seen.len();
                continue;
            };
            assert_eq!((kind, &value[..]), (DATAGRAM, &[value[0]; 900][..]));
            seen.insert(value[0]);
        }
    }
    assert!(seen.len() >= 45, "{} of 50", seen.len());
    assert_eq!(carried(&world, "sent", "datagram"), 50);
    send(&mut io, TLS, b"hello").await;
    let mut answer = next(&mut io, &mut capsules, LONG).await;
    while answer.as_ref().is_some_and(|late| late.kind == DATAGRAM) {
        answer = next(&mut io, &mut capsules, LONG).await;
    }
    assert_eq!(answer, Some(hello));
    io.shutdown().await.unwrap();
    assert_eq!(tokio::time::timeout(LONG, io.read(&mut [0])).await.unwrap().unwrap(), 0, "the end is passed on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_are_no_capsules_ends_the_flow() {
    let world = World::new(mirror().await).await;
    let web = world.web().await;
    let Connecting { mut io, answer } = open(&web, &TunnelRequest { udp: true, ..request("reviews") }).await;
    answer.await.unwrap();
    io.write_all(&[0xff; 64]).await.unwrap();
    let ended = tokio::time::timeout(LONG, io.read(&mut [0])).await.unwrap();
    assert!(matches!(ended, Err(_) | Ok(0)), "{ended:?}");
}
