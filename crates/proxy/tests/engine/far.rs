//! What a long way between clusters costs, in round trips.

use std::time::{Duration, Instant};

use mesh::{MTLS_PORT, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::world::*;

/// One direction; long, so that what this machine adds does not look like a round trip.
const WAY: Duration = Duration::from_millis(700);

/// A client in `east` of a server in `west`, which is far away.
struct Far {
    client: Client,
    _gateway: Gateway,
    _server: Server,
    _world: World,
}

impl Far {
    async fn new(protocol: Protocol, app: std::net::SocketAddr) -> Self {
        let world = World::new();
        let server = Server::of(&world, "west", "reviews", protocol, app).await;
        let behaviour = Behaviour::Far(WAY, (server.ip, MTLS_PORT).into());
        let gateway = Gateway::start(&world, "gateway-1", behaviour).await;
        let view = ViewOf::cluster("east").import("reviews", protocol).gateway("gateway-1", gateway.address);
        let client = Client::start(&world, view);
        Self { client, _gateway: gateway, _server: server, _world: world }
    }

    /// How many round trips the slowest of some requests took that were sent at once.
    async fn burst(&self, requests: usize) -> f64 {
        let at = self.client.capture("reviews").await;
        let begun = Instant::now();
        let one = |_| {
            tokio::spawn(async move {
                assert_eq!(collect(http1(at, get("/")).await).await.status(), 200);
                begun.elapsed()
            })
        };
        let mut slowest = Duration::ZERO;
        for took in (0..requests).map(one).collect::<Vec<_>>() {
            slowest = slowest.max(took.await.unwrap());
        }
        slowest.as_secs_f64() / (WAY * 2).as_secs_f64()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_first_requests_ever_pay_for_a_handshake() {
    let far = Far::new(Protocol::Http, http_app("west").await).await;
    let cold = far.burst(10).await;
    assert!((2.0..2.9).contains(&cold), "the inner handshake and the request: {cold} round trips");
    for _ in 0..3 {
        let warm = far.burst(10).await;
        assert!((1.0..1.9).contains(&warm), "{warm} round trips");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_beside_a_long_answer_finds_a_connection_that_is_ready() {
    let far = Far::new(Protocol::Http, http_app("west").await).await;
    far.burst(1).await;
    let at = far.client.capture("reviews").await;
    let _long = http1(at, post("/echo", vec![1; 4 << 20])).await;
    let beside = far.burst(1).await;
    assert!((1.0..1.9).contains(&beside), "{beside} round trips");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_opaque_flow_costs_before_its_first_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reading, mut writing) = stream.split();
                let _ = tokio::io::copy(&mut reading, &mut writing).await;
            });
        }
    });
    let far = Far::new(Protocol::Tcp, app).await;
    let at = far.client.capture("reviews").await;
    let begun = Instant::now();
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    stream.read_u8().await.unwrap();
    let took = begun.elapsed().as_secs_f64() / (WAY * 2).as_secs_f64();
    assert!((2.0..3.9).contains(&took), "{took} round trips");
}
