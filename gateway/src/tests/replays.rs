//! When the beginning of a flow is sent again over another connection, and when it must not be.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use api::tunnel::{Accepted, Header, Mode};
use identity::PeerPolicy;
use proxy::tunnel;
use tokio::io::AsyncReadExt;

use super::world::*;

/// What a gateway of `west` does with a flow whose header it has read.
#[derive(Clone, Copy)]
enum Does {
    /// Accepts, and resets the stream before the answer has left.
    Reset,
    /// Ends the stream without an answer.
    End,
    /// Answers what is no answer.
    Garbage,
    /// Closes the connection.
    Close,
}

/// A gateway that treats flows so, but accepts probes; counts the flows.
fn west(trust: &Trust, does: Does) -> (quinn::Endpoint, Arc<AtomicUsize>) {
    let peers = PeerPolicy::System { account: "gateway", trust_domain: None };
    let config = trust.west_gateway().quic_server_config(peers, &[api::TUNNEL_ALPN]).unwrap();
    let config = quinn::ServerConfig::with_crypto(config);
    let endpoint = quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let (flows, listening) = (Arc::new(AtomicUsize::new(0)), endpoint.clone());
    let counted = Arc::clone(&flows);
    tokio::spawn(async move {
        while let Some(incoming) = listening.accept().await {
            let flows = Arc::clone(&counted);
            tokio::spawn(async move {
                let connection = incoming.await.unwrap();
                while let Ok((send, recv)) = connection.accept_bi().await {
                    tokio::spawn(stream(connection.clone(), send, recv, does, Arc::clone(&flows)));
                }
            });
        }
    });
    (endpoint, flows)
}

async fn stream(
    connection: quinn::Connection,
    mut send: quinn::SendStream,
    mut recv: quinn::RecvStream,
    does: Does,
    flows: Arc<AtomicUsize>,
) {
    let Ok(header) = tunnel::read_frame::<Header, _>(&mut recv).await else { return };
    if header.mode == i32::from(Mode::Probe) {
        let _ = send.write_all(&tunnel::to_frame(&crate::flow::accepted(Accepted::default())).unwrap()).await;
        let _ = send.finish();
        return;
    }
    flows.fetch_add(1, Ordering::SeqCst);
    match does {
        Does::Reset => {
            let _ = send.write_all(&tunnel::to_frame(&crate::flow::accepted(Accepted::default())).unwrap()).await;
            let _ = send.reset(1u8.into());
        }
        Does::End => {
            let _ = send.finish();
        }
        Does::Garbage => {
            let _ = send.write_all(&[0, 3, 0xff, 0xff, 0xff]).await;
            let _ = send.finish();
        }
        Does::Close => connection.close(9u8.into(), b"gone"),
    }
}

/// A flow to such a gateway fails; it was begun so many times.
async fn check(does: Does, expected: std::ops::RangeInclusive<usize>) {
    let trust = Trust::new();
    let (west, flows) = west(&trust, does);
    let view = east_view(&[west.local_addr().unwrap()]);
    let east = gateway_with("east.demo", trust.east_gateway(), view, "127.0.0.1:9".parse().unwrap(), |parts, _| {
        parts.tunnel.fallback = false;
    });
    let east = east.await;
    // All connections of the path, so that there is another one to go over.
    let mut states = east.running.context.paths.states();
    let three = states.wait_for(|states| states.values().filter(|state| state.usable).count() == 3);
    tokio::time::timeout(std::time::Duration::from_secs(20), three).await.expect("three connections").unwrap();
    let outer = outer(east.hbone(), &trust.web()).await.unwrap();
    let mut flow = open(&outer, &request("reviews")).await;
    let error = flow.io.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let begun = flows.load(Ordering::SeqCst);
    assert!(expected.contains(&begun), "begun {begun} times, not {expected:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_reset_on_a_living_connection_is_not_sent_again() {
    check(Does::Reset, 1..=1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_without_a_readable_answer_is_not_sent_again() {
    check(Does::End, 1..=1).await;
    check(Does::Garbage, 1..=1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flow_on_a_connection_that_dies_is_sent_again() {
    check(Does::Close, 2..=4).await;
}
