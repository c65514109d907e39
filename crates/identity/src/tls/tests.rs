use std::net::{Ipv4Addr, SocketAddr};
use std::time::SystemTime;

use mesh::SpiffeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;

use super::*;
use crate::testing::{HOUR, TestCa, bundles, domain, id};
use crate::{Credentials, EndReason, PeerPolicy, TrustBundles, pinned_client_config, root_hash};

const LIMIT: Duration = Duration::from_secs(20);
const ALPN: &[&[u8]] = &[b"test/1"];
const WEB: &str = "spiffe://east.demo/ns/default/sa/web";
const API: &str = "spiffe://west.demo/ns/default/sa/api";

type Ended<S> = Result<(S, PeerIdentity), TlsError>;

/// Both ends of a handshake; the server's verdict counts, so the client goes on to read what it sends.
async fn shake(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
) -> (Ended<server::TlsStream<DuplexStream>>, Ended<client::TlsStream<DuplexStream>>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    tokio::join!(accept_tls(server, near, LIMIT), connect_tls(client, far, LIMIT))
}

/// A handshake of `client` with `server`, both believing anybody known: what each made of the other.
async fn meet(server: &Credentials, client: &Credentials) -> (Result<SpiffeId, TlsError>, Result<SpiffeId, TlsError>) {
    let any = PeerPolicy::AnyKnown;
    let server = server.server_config(any.clone(), ALPN).unwrap();
    let client = client.client_config(any, ALPN).unwrap();
    let (server, client) = shake(server, client).await;
    (server.map(|(_, peer)| peer.id), client.map(|(_, peer)| peer.id))
}

struct World {
    east: TestCa,
    west: TestCa,
    known: TrustBundles,
}

impl World {
    fn new() -> Self {
        let (east, west) = (TestCa::new("east.demo"), TestCa::new("west.demo"));
        let known = bundles([&east, &west]);
        Self { east, west, known }
    }

    fn web(&self) -> Credentials {
        self.east.credentials(WEB, &self.known)
    }

    fn api(&self) -> Credentials {
        self.west.credentials(API, &self.known)
    }
}

#[tokio::test]
async fn both_ends_learn_whom_they_speak_with() {
    let world = World::new();
    let server = world.api().server_config(PeerPolicy::trust_domain(domain("east.demo")), ALPN).unwrap();
    let client = world.web().client_config(PeerPolicy::only(id(API)), ALPN).unwrap();
    let (server, client) = shake(server, client).await;
    let ((mut server, web), (mut client, api)) = (server.unwrap(), client.unwrap());
    assert_eq!((web.id, api.id), (id(WEB), id(API)));
    assert_eq!(client.get_ref().1.alpn_protocol(), Some(ALPN[0]));
    client.write_all(b"hello").await.unwrap();
    let mut text = [0; 5];
    server.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"hello");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let world = World::new();
    let nobody = Credentials::anonymous(world.known.clone());
    let (server, _) = meet(&world.api(), &nobody).await;
    assert!(matches!(server, Err(TlsError::Peer(PeerError::NoCertificate))), "{server:?}");
}

#[tokio::test]
async fn a_server_without_a_certificate_yet_fails_the_handshake_cleanly() {
    let world = World::new();
    let (server, client) = meet(&Credentials::anonymous(world.known.clone()), &world.web()).await;
    assert!(matches!(server, Err(TlsError::Handshake(_))), "{server:?}");
    assert!(matches!(client, Err(TlsError::Refused(_))), "{client:?}");
}

#[tokio::test]
async fn clients_that_prove_nothing_are_refused_and_told_so() {
    let world = World::new();
    let now = SystemTime::now();
    let past = now - 3 * HOUR;
    let ca = &world.east.ca;
    let wrong_root = TestCa::new("east.demo").svid(WEB);
    let foreign = ca.issue_with_validity(&id(API), past, now + HOUR).unwrap();
    let expired = ca.issue_with_validity(&id(WEB), past, now - HOUR).unwrap();
    let early = ca.issue_with_validity(&id(WEB), now + HOUR, now + 2 * HOUR).unwrap();
    let unknown = TestCa::new("north.demo").svid("spiffe://north.demo/ns/default/sa/web");
    for (svid, why) in [
        (wrong_root, PeerError::NotVouched { id: id(WEB) }),
        (foreign, PeerError::NotVouched { id: id(API) }),
        (expired, PeerError::Expired { id: id(WEB) }),
        (early, PeerError::NotYetValid { id: id(WEB) }),
        (unknown, PeerError::UnknownTrustDomain { id: id("spiffe://north.demo/ns/default/sa/web") }),
    ] {
        let client = Credentials::fixed(svid.clone(), world.known.clone());
        let (refused, _) = meet(&world.api(), &client).await;
        assert!(matches!(&refused, Err(TlsError::Peer(error)) if *error == why), "{refused:?} instead of {why:?}");

        // The same as a server: the client finds it out, and the server is told.
        let (told, refused) = meet(&client, &world.api()).await;
        assert!(matches!(&refused, Err(TlsError::Peer(error)) if *error == why), "{refused:?} instead of {why:?}");
        assert!(matches!(told, Err(TlsError::Refused(_))), "{told:?}");
    }
}

#[tokio::test]
async fn a_proven_peer_that_is_not_expected_is_refused() {
    let world = World::new();
    let gateway = PeerPolicy::System { account: "gateway", trust_domain: Some(domain("east.demo")) };
    let server = world.api().server_config(gateway.clone(), ALPN).unwrap();
    let client = world.web().client_config(PeerPolicy::AnyKnown, ALPN).unwrap();
    let (refused, _) = shake(server.clone(), client).await;
    let refused = refused.map(|_| ());
    assert!(matches!(refused, Err(TlsError::Peer(PeerError::NotExpected { .. }))), "{refused:?}");

    let system = world.east.credentials("spiffe://east.demo/ns/isthmus-system/sa/gateway", &world.known);
    let client = system.client_config(PeerPolicy::AnyKnown, ALPN).unwrap();
    assert!(shake(server.clone(), client).await.0.is_ok());
    let other = world.west.credentials("spiffe://west.demo/ns/isthmus-system/sa/gateway", &world.known);
    let client = other.client_config(PeerPolicy::AnyKnown, ALPN).unwrap();
    assert!(shake(server, client).await.0.is_err());
}

#[tokio::test]
async fn the_next_handshake_sees_a_new_bundle_and_a_new_certificate() {
    let world = World::new();
    let (publish_svid, svid) = watch::channel(None);
    let (publish, trusted) = watch::channel(Arc::new(bundles([&world.west])));
    let live = Credentials::new(svid, trusted);
    let server = live.server_config(PeerPolicy::AnyKnown, ALPN).unwrap();
    let web = world.web();
    let client = || web.client_config(PeerPolicy::AnyKnown, ALPN).unwrap();

    assert!(shake(server.clone(), client()).await.0.is_err(), "there is no certificate yet");
    publish_svid.send_replace(Some(Arc::new(world.west.svid(API))));
    live.ready().await;
    assert!(shake(server.clone(), client()).await.0.is_err(), "east is not known yet");
    publish.send_replace(Arc::new(world.known.clone()));
    let (accepted, connected) = shake(server.clone(), client()).await;
    assert_eq!(accepted.unwrap().1.id, id(WEB));
    let first = connected.unwrap().1;

    publish_svid.send_replace(Some(Arc::new(world.west.svid(API))));
    let second = shake(server.clone(), client()).await.1.unwrap().1;
    assert_ne!(first.fingerprint, second.fingerprint);
    publish.send_replace(Arc::new(bundles([&world.west])));
    assert!(shake(server, client()).await.0.is_err(), "east was withdrawn");
}

#[tokio::test]
async fn nothing_is_resumed_and_no_name_is_sent() {
    let world = World::new();
    let server = world.api().server_config(PeerPolicy::AnyKnown, ALPN).unwrap();
    let client = world.web().client_config(PeerPolicy::AnyKnown, ALPN).unwrap();
    for _ in 0..2 {
        let (accepted, connected) = shake(server.clone(), client.clone()).await;
        let ((mut accepted, _), (mut connected, _)) = (accepted.unwrap(), connected.unwrap());
        // A ticket would arrive with the first bytes.
        accepted.write_all(b"x").await.unwrap();
        connected.read_exact(&mut [0; 1]).await.unwrap();
        let (session, client_session) = (accepted.get_ref().1, connected.get_ref().1);
        assert_eq!(session.server_name(), None);
        assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(client_session.tls13_tickets_received(), 0);
        for kind in [session.handshake_kind(), client_session.handshake_kind()] {
            assert_eq!(kind, Some(rustls::HandshakeKind::Full));
        }
    }
    assert_eq!(server.max_early_data_size, 0);
    assert!(!client.enable_early_data);
}

#[tokio::test]
async fn a_client_that_names_no_protocol_is_refused() {
    let world = World::new();
    let server = world.api().server_config(PeerPolicy::AnyKnown, ALPN).unwrap();
    let client = world.web().client_config(PeerPolicy::AnyKnown, &[]).unwrap();
    let (refused, _) = shake(server, client).await;
    assert!(matches!(refused.map(|_| ()), Err(TlsError::NoProtocol)));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_is_given_up() {
    let world = World::new();
    let server = world.api().server_config(PeerPolicy::AnyKnown, ALPN).unwrap();
    let (near, _far) = tokio::io::duplex(1024);
    let ended = accept_tls(server, near, Duration::from_secs(5)).await.map(|_| ());
    assert!(matches!(ended, Err(TlsError::Timeout(_))), "{ended:?}");
}

#[tokio::test]
async fn a_root_known_by_its_hash_vouches_for_its_own_server_only() {
    let hub = TestCa::new("hub.demo");
    let name = "spiffe://hub.demo/ns/isthmus-system/sa/hub";
    let server = hub.credentials(name, &bundles([&hub])).server_config_open(ALPN).unwrap();
    let policy = PeerPolicy::System { account: "hub", trust_domain: Some(domain("hub.demo")) };
    let meet = async |hash: &str, server: Arc<ServerConfig>| {
        let client = pinned_client_config(hash, policy.clone(), ALPN).unwrap();
        let (near, far) = tokio::io::duplex(64 * 1024);
        tokio::join!(accept_tls_open(server, near, LIMIT), connect_tls(client, far, LIMIT)).1.map(|(_, peer)| peer)
    };
    let hash = root_hash(hub.ca.root_der());
    let peer = meet(&hash, server.clone()).await.unwrap();
    assert_eq!(peer.id, id(name));
    assert!(peer.chain().iter().any(|der| root_hash(der) == hash), "the root was not sent");

    let other = TestCa::new("hub.demo");
    assert!(meet(&root_hash(other.ca.root_der()), server).await.is_err());
    // The right root in the chain does not help a certificate of another.
    let known = TrustBundles::from(hub.bundle());
    let forged = Credentials::fixed(other.svid(name), known).server_config_open(ALPN).unwrap();
    assert!(meet(&hash, forged).await.is_err());
}

#[tokio::test]
async fn a_connection_must_end_when_the_bundle_validates_its_peer_no_longer() {
    let world = World::new();
    let (publish, trusted) = watch::channel(Arc::new(world.known.clone()));
    let live = Credentials::new(watch::channel(None).1, trusted);
    let peer = peer_identity(world.east.svid(WEB).chain()).unwrap();
    let waiting = tokio::spawn(async move { live.expiry(&peer).await });
    // A bundle that still holds the root changes nothing for the peer.
    let mut more = world.known.clone();
    more.insert(TestCa::new("north.demo").bundle());
    publish.send_replace(Arc::new(more));
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    publish.send_replace(Arc::new(bundles([&world.west])));
    let reason = tokio::time::timeout(LIMIT, waiting).await.unwrap().unwrap();
    assert_eq!(reason, EndReason::NotTrusted(PeerError::UnknownTrustDomain { id: id(WEB) }));
}

#[tokio::test]
async fn a_connection_must_end_when_its_peers_certificate_expires() {
    let world = World::new();
    let now = SystemTime::now();
    let svid = world.east.ca.issue_with_validity(&id(WEB), now - HOUR, now + Duration::from_secs(2)).unwrap();
    let peer = peer_identity(svid.chain()).unwrap();
    let reason = tokio::time::timeout(LIMIT, world.api().expiry(&peer)).await.unwrap();
    assert_eq!(reason, EndReason::CertificateExpired);
    let late = SystemTime::now().duration_since(peer.not_after).unwrap();
    assert!(late < Duration::from_secs(4), "{late:?} late");
}

/// A QUIC handshake over loopback: what each end made of it.
async fn meet_quic(
    server: &Credentials,
    client: &Credentials,
) -> (Result<SpiffeId, quinn::ConnectionError>, Result<SpiffeId, quinn::ConnectionError>) {
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let config = server.quic_server_config(PeerPolicy::AnyKnown, ALPN).unwrap();
    let accepting = quinn::Endpoint::server(quinn::ServerConfig::with_crypto(config), here).unwrap();
    let dialling = quinn::Endpoint::client(here).unwrap();
    let config = client.quic_client_config(PeerPolicy::AnyKnown, ALPN).unwrap();
    let config = quinn::ClientConfig::new(config);
    let connecting = dialling.connect_with(config, accepting.local_addr().unwrap(), DUMMY_SERVER_NAME).unwrap();
    let accept = async {
        let connection = accepting.accept().await.unwrap().await?;
        let id = quic_peer(&connection).unwrap().id;
        let mut stream = connection.open_uni().await?;
        // The client's verdict on the server is known before, the server's on the client only with this stream.
        let _ = stream.write_all(b"x").await;
        let _ = stream.finish();
        connection.closed().await;
        Ok(id)
    };
    let connect = async {
        let connection = connecting.await?;
        let mut stream = connection.accept_uni().await?;
        let _ = stream.read_to_end(1).await;
        let id = quic_peer(&connection).unwrap().id;
        connection.close(0u32.into(), b"done");
        Ok(id)
    };
    tokio::time::timeout(LIMIT, async { tokio::join!(accept, connect) }).await.unwrap()
}

#[tokio::test]
async fn quic_proves_both_ends() {
    let world = World::new();
    let (server, client) = meet_quic(&world.api(), &world.web()).await;
    assert_eq!((server.unwrap(), client.unwrap()), (id(WEB), id(API)));
}

#[tokio::test]
async fn quic_refuses_whom_tls_refuses() {
    let world = World::new();
    let now = SystemTime::now();
    let expired = world.east.ca.issue_with_validity(&id(WEB), now - 2 * HOUR, now - HOUR).unwrap();
    let foreign = world.east.ca.issue_with_validity(&id(API), now - HOUR, now + HOUR).unwrap();
    let early = world.east.ca.issue_with_validity(&id(WEB), now + HOUR, now + 2 * HOUR).unwrap();
    let wrong_root = TestCa::new("east.demo").svid(WEB);
    for svid in [expired, foreign, early, wrong_root] {
        let (server, client) = meet_quic(&world.api(), &Credentials::fixed(svid, world.known.clone())).await;
        assert!(server.is_err() && client.is_err(), "{server:?} {client:?}");
    }
    let (server, client) = meet_quic(&world.api(), &Credentials::anonymous(world.known.clone())).await;
    assert!(server.is_err() && client.is_err(), "no certificate: {server:?} {client:?}");
    let stranger = Credentials::fixed(TestCa::new("west.demo").svid(API), world.known.clone());
    let (server, client) = meet_quic(&stranger, &world.web()).await;
    assert!(server.is_err() && client.is_err(), "wrong server: {server:?} {client:?}");
}
