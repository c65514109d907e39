//! Flows over an in-memory connection: data before the answer, ends, resets, drain, limits.

use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_util::sync::CancellationToken;

use super::*;

/// A connection whose server runs `handler` for every stream.
async fn connection<H, F>(drain: CancellationToken, handler: H) -> Outer
where
    H: Fn(Incoming) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (client, server) = pipe();
    tokio::spawn(async move { serve(server, &Settings::default(), drain, handler).await });
    Outer::handshake(client, &Settings::default()).await.unwrap()
}

fn pipe() -> (DuplexStream, DuplexStream) {
    duplex(1 << 16)
}

async fn echo(incoming: Incoming) {
    let mut io = incoming.accept(Vec::new()).unwrap();
    let mut bytes = Vec::new();
    if io.read_to_end(&mut bytes).await.is_ok() {
        io.write_all(&bytes).await.unwrap();
        io.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn data_arrives_before_the_answer() {
    let outer = connection(CancellationToken::new(), |incoming: Incoming| async move {
        let (request, mut body, responder) = incoming.split();
        assert_eq!(request.uri().authority().unwrap().as_str(), "reviews.default:9080");
        assert_eq!(request.headers()["x-isthmus-port"], "9080");
        // The answer depends on the data: it could never come if the data waited for it.
        let mut first = [0; 5];
        body.read_exact(&mut first).await.unwrap();
        let mut io = H2Io::join(body, responder.accept(Vec::new()).unwrap());
        io.write_all(&first).await.unwrap();
        io.shutdown().await.unwrap();
    })
    .await;
    let header = (http::HeaderName::from_static("x-isthmus-port"), http::HeaderValue::from_static("9080"));
    let Connecting { mut io, answer } = outer.connect("reviews.default:9080", vec![header]).await.unwrap();
    io.write_all(b"early").await.unwrap();
    assert_eq!(answer.await.unwrap().status, StatusCode::OK);
    let mut seen = String::new();
    io.read_to_string(&mut seen).await.unwrap();
    assert_eq!(seen, "early");
}

#[tokio::test]
async fn each_direction_ends_on_its_own() {
    let outer = connection(CancellationToken::new(), echo).await;
    // The answer is not asked for: the flow works nevertheless.
    let mut io = outer.connect("a:1", Vec::new()).await.unwrap().io;
    assert_eq!(outer.active_streams(), 1);
    io.write_all(b"half closed").await.unwrap();
    io.shutdown().await.unwrap();
    let mut seen = String::new();
    io.read_to_string(&mut seen).await.unwrap();
    assert_eq!(seen, "half closed");
    drop(io);
    assert_eq!(outer.active_streams(), 0);
}

#[tokio::test]
async fn a_refusal_carries_its_headers_and_fails_reads() {
    let outer = connection(CancellationToken::new(), |incoming: Incoming| async move {
        let header = (http::HeaderName::from_static("x-why"), http::HeaderValue::from_static("not-exported"));
        incoming.refuse(StatusCode::SERVICE_UNAVAILABLE, vec![header]);
    })
    .await;
    let Connecting { mut io, answer } = outer.connect("a:1", Vec::new()).await.unwrap();
    let Err(AnswerError::Refused(parts)) = answer.await else { panic!("not refused") };
    assert_eq!((parts.status.as_u16(), &parts.headers["x-why"]), (503, &"not-exported".parse().unwrap()));
    assert!(io.read_u8().await.is_err());
}

#[tokio::test]
async fn a_dropped_flow_is_reset_and_never_looks_ended() {
    let (seen_tx, mut seen) = tokio::sync::mpsc::channel(1);
    let outer = connection(CancellationToken::new(), move |incoming: Incoming| {
        let seen_tx = seen_tx.clone();
        async move {
            let mut io = incoming.accept(Vec::new()).unwrap();
            let mut bytes = Vec::new();
            seen_tx.send(io.read_to_end(&mut bytes).await).await.unwrap();
        }
    })
    .await;
    let Connecting { mut io, answer } = outer.connect("a:1", Vec::new()).await.unwrap();
    answer.await.unwrap();
    io.write_all(b"half a message").await.unwrap();
    drop(io);
    assert_eq!(seen.recv().await.unwrap().unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_flow_dropped_before_its_answer_is_reset_too() {
    let (seen_tx, mut seen) = tokio::sync::mpsc::channel(1);
    let outer = connection(CancellationToken::new(), move |incoming: Incoming| {
        let seen_tx = seen_tx.clone();
        async move {
            let (_, _body, mut responder) = incoming.split();
            responder.abandoned().await;
            seen_tx.send(()).await.unwrap();
        }
    })
    .await;
    let mut connecting = outer.connect("a:1", Vec::new()).await.unwrap();
    // Even when the sending direction ended cleanly.
    connecting.io.shutdown().await.unwrap();
    drop(connecting);
    seen.recv().await.unwrap();
}

#[tokio::test]
async fn bulk_respects_flow_control_both_ways() {
    let outer = connection(CancellationToken::new(), |incoming: Incoming| async move {
        let io = incoming.accept(Vec::new()).unwrap();
        let (mut reader, mut writer) = io.split();
        tokio::io::copy(&mut reader, &mut writer).await.unwrap();
        writer.shutdown().await.unwrap();
    })
    .await;
    let io = outer.connect("a:1", Vec::new()).await.unwrap().io;
    let (mut reader, mut writer) = io.split();
    let sent: Vec<u8> = (0..8_000_000u32).map(|i| (i % 251) as u8).collect();
    let expected = sent.clone();
    let sending = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut seen = Vec::new();
    reader.read_to_end(&mut seen).await.unwrap();
    sending.await.unwrap();
    assert!(seen == expected);
}

#[tokio::test]
async fn draining_refuses_new_flows_and_finishes_open_ones() {
    let drain = CancellationToken::new();
    let outer = connection(drain.clone(), echo).await;
    let Connecting { mut io, answer } = outer.connect("a:1", Vec::new()).await.unwrap();
    answer.await.unwrap();
    assert!(outer.is_usable());
    drain.cancel();
    while outer.is_usable() {
        tokio::task::yield_now().await;
    }
    assert!(outer.connect("a:1", Vec::new()).await.is_err());
    io.write_all(b"still here").await.unwrap();
    io.shutdown().await.unwrap();
    let mut seen = String::new();
    io.read_to_string(&mut seen).await.unwrap();
    assert_eq!(seen, "still here");
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_fails_the_connection() {
    let (client, server) = pipe();
    let outer = Outer::handshake(client, &Settings::default()).await.unwrap();
    let mut io = outer.connect("a:1", Vec::new()).await.unwrap().io;
    let begun = tokio::time::Instant::now();
    assert!(io.read_u8().await.is_err());
    assert!(begun.elapsed() <= Duration::from_secs(8), "{:?}", begun.elapsed());
    assert!(!outer.is_usable());
    drop(server);
}

#[tokio::test]
async fn a_get_streams_its_body() {
    let outer = connection(CancellationToken::new(), |incoming: Incoming| async move {
        assert_eq!(incoming.request.uri().path(), "/isthmus/paths");
        let mut io = incoming.accept(Vec::new()).unwrap();
        io.write_all(b"event").await.unwrap();
        io.shutdown().await.unwrap();
    })
    .await;
    let mut body = outer.get("/isthmus/paths").await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), &b"event"[..]);
}

#[tokio::test]
async fn what_is_not_http2_fails_the_handshake() {
    let (mut client, server) = pipe();
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let served = serve(server, &Settings::default(), CancellationToken::new(), |_| async {}).await;
    assert!(matches!(served, Err(HandshakeError::Http2(_))));
}
