use std::time::Duration;

use api::hub::{TransactRequest, WatchResponse};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::*;
use crate::testing::{FakeNode, Files, files};

fn client(files: &Files, addresses: &[&String]) -> HubClient {
    let credentials = files.operator.to_credentials().unwrap();
    let addresses = addresses.iter().map(|address| (*address).clone()).collect();
    let client = HubClient::new(addresses, credentials, files.operator.hub_trust_domain.clone()).unwrap();
    client.with_deadline(Duration::from_secs(3))
}

/// An address at which nobody listens: a port that is given to nobody who asks for any.
const NOBODY: &str = "127.0.0.1:9";

fn transaction() -> TransactRequest {
    TransactRequest { request_id: "r1".to_owned(), compare: Vec::new(), operations: Vec::new() }
}

#[tokio::test]
async fn a_call_goes_on_to_the_next_node_and_begins_there_afterwards() {
    let files = files();
    let busy = FakeNode::new(|| Err(Status::unavailable("no leader")));
    let good = FakeNode::new(|| Ok(()));
    let (busy_address, _) = busy.serve(files.node()).await;
    let (good_address, _) = good.serve(files.node()).await;
    let client = client(&files, &[&NOBODY.to_owned(), &busy_address, &good_address]);
    client.transact(transaction()).await.unwrap();
    client.status().await.unwrap();
    assert_eq!(busy.asked().len(), 1, "the good node is asked first from then on");
    assert_eq!(good.asked().len(), 2);
    assert_eq!(busy.asked()[0], good.asked()[0], "the same request id everywhere");
    client.status_of(&good_address).await.unwrap();
    assert!(matches!(client.status_of(&busy_address).await, Err(HubError::Unreachable { .. })));
}

#[tokio::test]
async fn a_refusal_is_final() {
    let files = files();
    let refusing = FakeNode::new(|| Err(Status::permission_denied("agents only")));
    let good = FakeNode::new(|| Ok(()));
    let (refusing_address, _) = refusing.serve(files.node()).await;
    let (good_address, _) = good.serve(files.node()).await;
    let error = client(&files, &[&refusing_address, &good_address]).renew_lease().await.unwrap_err();
    assert_eq!(error.code(), Some(Code::PermissionDenied));
    assert_eq!(error.to_string(), "the hub refused: agents only");
    assert_eq!((refusing.asked().len(), good.asked().len()), (1, 0));
}

#[tokio::test]
async fn who_is_not_the_hub_is_told_nothing() {
    let files = files();
    let stranger = crate::testing::files();
    for credentials in [files.account("operator"), stranger.node()] {
        let node = FakeNode::new(|| Ok(()));
        let (address, _) = node.serve(credentials).await;
        let client = client(&files, &[&address]).with_deadline(Duration::from_millis(300));
        let error = client.transact(transaction()).await.unwrap_err();
        assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
        assert!(node.asked().is_empty());
    }
}

#[tokio::test]
async fn nobody_answers_within_the_deadline() {
    let files = files();
    let client = client(&files, &[&NOBODY.to_owned()]).with_deadline(Duration::from_millis(200));
    let error = client.status().await.unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
    assert!(matches!(client.set_addresses(Vec::new()), Err(HubError::NoAddress)));
    assert!(matches!(client.set_addresses(vec!["a b".to_owned()]), Err(HubError::Address { .. })));
    assert_eq!(client.addresses().len(), 1, "a bad set changes nothing");
}

#[tokio::test]
async fn a_watch_delivers_learns_addresses_and_ends_so_that_it_can_be_resumed() {
    let files = files();
    let (messages, receiver) = mpsc::channel(2);
    let first = FakeNode::new(|| Ok(())).watching(receiver);
    let (later, later_receiver) = mpsc::channel(1);
    let second = FakeNode::new(|| Ok(())).watching(later_receiver);
    let (first_address, _) = first.serve(files.node()).await;
    let (second_address, _) = second.serve(files.node()).await;
    let client = client(&files, &[&first_address]);

    let mut watch = client.watch(0).await.unwrap();
    let hub_addresses = vec![first_address.clone(), second_address.clone()];
    messages.send(Ok(WatchResponse { revision: 5, hub_addresses, ..Default::default() })).await.unwrap();
    assert_eq!(watch.next().await.unwrap().revision, 5);
    assert_eq!(client.addresses(), [first_address, second_address.clone()]);
    messages.send(Err(Status::unavailable("stopping"))).await.unwrap();
    assert!(matches!(watch.next().await, Err(HubError::WatchEnded { .. })));

    let mut watch = client.watch(5).await.unwrap();
    assert_eq!(watch.address(), second_address, "the node that failed is not the first to be tried");
    assert_eq!(second.asked(), ["watch 5"]);
    drop(later);
    assert!(matches!(watch.next().await, Err(HubError::WatchEnded { source: None })));
}

/// A way to a node that carries whatever is sent on it; the connections that are open when `frozen` is cancelled carry
/// nothing any more and stay open, as after a partition.
async fn relay(to: String, frozen: CancellationToken) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (to, frozen) = (to.clone(), frozen.clone());
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                if frozen.is_cancelled() {
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                } else if frozen.run_until_cancelled(copy_bidirectional(&mut near, &mut far)).await.is_none() {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    address
}

/// A way to a node on which every byte takes so long.
async fn far_away(to: String, delay: Duration) -> String {
    async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, delay: Duration) {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let reading = async move {
            let mut chunk = [0; 4096];
            while let Ok(read @ 1..) = from.read(&mut chunk).await {
                let _ = sender.send((Instant::now() + delay, chunk[..read].to_vec()));
            }
        };
        let writing = async {
            while let Some((due, chunk)) = receiver.recv().await {
                tokio::time::sleep_until(due).await;
                if to.write_all(&chunk).await.is_err() {
                    return;
                }
            }
        };
        tokio::join!(reading, writing);
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let (near_read, near_write) = near.into_split();
            let (far_read, far_write) = TcpStream::connect(&to).await.unwrap().into_split();
            tokio::spawn(carry(near_read, far_write, delay));
            tokio::spawn(carry(far_read, near_write, delay));
        }
    });
    address
}

#[tokio::test]
async fn a_node_two_seconds_away_is_reached() {
    let files = files();
    let node = FakeNode::new(|| Ok(()));
    let (address, _) = node.serve(files.node()).await;
    let address = far_away(address, Duration::from_millis(1_050)).await;
    let client = client(&files, &[&address]).with_deadline(DEADLINE);
    let begun = Instant::now();
    client.renew_lease().await.unwrap();
    assert!(begun.elapsed() >= TRY, "handshake and answer took more than one try");
}

#[tokio::test]
async fn a_silent_connection_is_left_and_its_watch_ends() {
    let files = files();
    let (_messages, receiver) = mpsc::channel(1);
    let node = FakeNode::new(|| Ok(())).watching(receiver);
    let (address, _) = node.serve(files.node()).await;
    let frozen = CancellationToken::new();
    let client = client(&files, &[&relay(address, frozen.clone()).await]).with_deadline(TRY * 2);
    let mut watch = client.watch(0).await.unwrap();
    client.renew_lease().await.unwrap();
    frozen.cancel();
    let begun = Instant::now();
    client.renew_lease().await.unwrap();
    assert!(begun.elapsed() >= TRY, "the first try was on the silent connection");
    assert!(matches!(watch.next().await, Err(HubError::WatchEnded { source: None })));
    client.renew_lease().await.unwrap();
}
