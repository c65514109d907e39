//! Whom every listener refuses: each mTLS port of a live fleet against each credential that must not get in.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "whatever fails here is a failed test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use identity::{Credentials, PeerPolicy, connect_tls};
use mesh::{Namespace, SpiffeId, TrustDomain};
use multicluster_tests::{BadCredential, Fakes, SMALL, Scenario};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

const PATIENCE: Duration = Duration::from_secs(10);
/// Seconds that a short certificate is good for: enough to connect with it.
const LIFE: i64 = 8;
/// The HTTP/2 client preface and an empty SETTINGS frame: every TCP listener of the mesh speaks HTTP/2.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A listener, and who may use it.
struct Door {
    name: &'static str,
    address: SocketAddr,
    fakes: Fakes,
    /// What HTTP/2 is called there.
    alpn: &'static [u8],
}

fn workload(trust_domain: &str, account: &str) -> SpiffeId {
    SpiffeId::new(TrustDomain::new(trust_domain).unwrap(), Namespace::new("default").unwrap(), account).unwrap()
}

fn system(trust_domain: &str, account: &str) -> SpiffeId {
    SpiffeId::system(TrustDomain::new(trust_domain).unwrap(), account).unwrap()
}

fn doors(scenario: &Scenario) -> Vec<Door> {
    let plan = scenario.fleet.plan();
    let west = plan.cluster("west").unwrap();
    let reviews = west.pods.iter().find(|pod| pod.workload == "reviews").unwrap();
    let door = |name, ip: std::net::Ipv4Addr, port, id| Door {
        name,
        address: SocketAddr::from((ip, port)),
        fakes: scenario.fakes(id),
        alpn: b"h2",
    };
    vec![
        door("hub api", plan.hub[0].ip, 7443, system("hub.demo", "operator")),
        door("agent discovery", west.agent, 15010, workload("west.demo", "reviews")),
        door("gateway hbone", west.gateways[0].ip, 15008, workload("west.demo", "reviews")),
        door("sidecar mtls", reviews.ip, 15008, workload("east.demo", "web")),
        Door {
            alpn: api::TUNNEL_TCP_ALPN,
            ..door("gateway tunnel over TCP", west.gateways[0].ip, 15443, system("east.demo", "gateway"))
        },
    ]
}

/// Whether the listener speaks to this credential: its HTTP/2 SETTINGS come only after the client was verified.
async fn gets_in(address: SocketAddr, alpn: &[u8], credentials: &Credentials) -> bool {
    let config = credentials.client_config(PeerPolicy::AnyKnown, &[alpn]).expect("a configuration");
    let tcp = TcpStream::connect(address).await.expect("the port is open");
    let Ok((mut stream, _)) = connect_tls(config, tcp, PATIENCE).await else { return false };
    if stream.write_all(PREFACE).await.is_err() {
        return false;
    }
    let mut byte = [0];
    let read = timeout(PATIENCE, stream.read(&mut byte)).await.expect("the listener says yes or no in time");
    matches!(read, Ok(1))
}

fn quic_endpoint() -> quinn::Endpoint {
    quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).expect("a socket")
}

fn quic_config(credentials: &Credentials) -> quinn::ClientConfig {
    let crypto = credentials.quic_client_config(PeerPolicy::AnyKnown, &[api::TUNNEL_ALPN]).expect("a configuration");
    quinn::ClientConfig::new(crypto)
}

/// Whether the QUIC listener answers a stream of this credential.
async fn gets_in_by_quic(address: SocketAddr, credentials: &Credentials) -> bool {
    let endpoint = quic_endpoint();
    let connecting = endpoint.connect_with(quic_config(credentials), address, "isthmus.invalid").expect("it starts");
    let Ok(connection) = timeout(PATIENCE, connecting).await.expect("the listener says yes or no in time") else {
        return false;
    };
    // TLS 1.3 has the client finish first: whether the server believes us shows a moment later.
    timeout(PATIENCE, probe(&connection)).await.expect("the listener says yes or no in time").is_ok()
}

/// Sends a probe header and waits for the reply.
async fn probe(connection: &quinn::Connection) -> Result<(), Box<dyn std::error::Error>> {
    let header = api::tunnel::Header {
        version: 1,
        namespace: "default".into(),
        service: "reviews".into(),
        port: 9080,
        cluster: "west".into(),
        mode: api::tunnel::Mode::Probe.into(),
        source: "spiffe://east.demo/ns/isthmus-system/sa/gateway".into(),
        ..Default::default()
    };
    let encoded = prost::Message::encode_to_vec(&header);
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(&u16::try_from(encoded.len())?.to_be_bytes()).await?;
    send.write_all(&encoded).await?;
    let mut length = [0; 2];
    receive.read_exact(&mut length).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_listener_lets_a_bad_credential_in() {
    let scenario = Scenario::up(SMALL).await;
    for door in doors(&scenario) {
        assert!(
            gets_in(door.address, door.alpn, &door.fakes.good()).await,
            "{}: a good credential was refused",
            door.name
        );
        for bad in BadCredential::ALL {
            assert!(!gets_in(door.address, door.alpn, &door.fakes.bad(bad)).await, "{}: {bad:?} got in", door.name);
        }
    }
    let quic = SocketAddr::from((scenario.fleet.plan().cluster("west").unwrap().gateways[0].ip, 15443));
    let fakes = scenario.fakes(system("east.demo", "gateway"));
    assert!(gets_in_by_quic(quic, &fakes.good()).await, "quic: a good credential was refused");
    for bad in BadCredential::ALL {
        assert!(!gets_in_by_quic(quic, &fakes.bad(bad)).await, "quic: {bad:?} got in");
    }
    let hbone = SocketAddr::from((scenario.fleet.plan().cluster("west").unwrap().gateways[0].ip, 15008));
    let stranger = scenario.fakes(workload("east.demo", "web"));
    assert!(
        !gets_in(hbone, b"h2", &stranger.good()).await,
        "a workload of another cluster got into the gateway's HBONE port"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_end_within_five_seconds_of_the_certificate() {
    let scenario = Arc::new(Scenario::up(SMALL).await);
    let mut checks = tokio::task::JoinSet::new();
    for door in doors(&scenario) {
        checks.spawn(async move {
            let credentials = door.fakes.good_for(LIFE);
            let expires = Instant::now() + Duration::from_secs(LIFE.unsigned_abs());
            let config = credentials.client_config(PeerPolicy::AnyKnown, &[door.alpn]).unwrap();
            let tcp = TcpStream::connect(door.address).await.unwrap();
            let (mut stream, _) = connect_tls(config, tcp, PATIENCE).await.unwrap();
            stream.write_all(PREFACE).await.unwrap();
            let ended = timeout(Duration::from_secs(30), drain(&mut stream)).await;
            assert!(ended.is_ok(), "{}: the connection outlived its certificate", door.name);
            let late = Instant::now().saturating_duration_since(expires);
            assert!(late <= Duration::from_secs(5), "{}: it ended {late:?} after the certificate", door.name);
        });
    }
    let quic = SocketAddr::from((scenario.fleet.plan().cluster("west").unwrap().gateways[0].ip, 15443));
    let fakes = scenario.fakes(system("east.demo", "gateway"));
    checks.spawn(async move {
        let expires = Instant::now() + Duration::from_secs(LIFE.unsigned_abs());
        let endpoint = quic_endpoint();
        let config = quic_config(&fakes.good_for(LIFE));
        let connection = endpoint.connect_with(config, quic, "isthmus.invalid").unwrap().await.expect("it connects");
        let ended = timeout(Duration::from_secs(30), connection.closed()).await;
        assert!(ended.is_ok(), "quic: the connection outlived its certificate");
        let late = Instant::now().saturating_duration_since(expires);
        assert!(late <= Duration::from_secs(5), "quic: it ended {late:?} after the certificate");
    });
    checks.join_all().await;
}

/// Reads until the peer ends the connection, politely or not.
async fn drain(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut buffer = [0; 1024];
    while matches!(stream.read(&mut buffer).await, Ok(read) if read > 0) {}
}
