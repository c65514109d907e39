//! Who gets at a host that asks its clients for more than others on the same port.

use super::*;

/// A server for many hosts that asks for nothing, and one for one of them that asks for a certificate.
fn lax_and_strict() -> [Value; 2] {
    [
        server(&["*.a.example", "must.a.example"], tls("simple", "ns/a"), "leaked"),
        server(&["must.a.example"], tls("mutual", "ns/a"), "proven"),
    ]
}

#[tokio::test]
async fn a_host_that_asks_for_proof_is_not_reached_by_the_name_of_another() {
    let ca = Ca::new();
    let mut servers = lax_and_strict();
    // As compiled: the wildcard server has the routes of the narrower host, too.
    servers[0]["hosts"] = json!([{"host": "*.a.example"}]);
    let world = World::new(&ca, view(&[listener(443, &servers)], &[ca.secret("ns/a", "*.a.example")]));
    assert_eq!(world.get(443, "must.a.example", "must.a.example", true).await.unwrap(), "200 proven");
    assert_eq!(world.get(443, "x.a.example", "x.a.example", false).await.unwrap(), "200 leaked");
    for host in ["must.a.example", "MUST.a.example:443", "must.a.example."] {
        let answer = world.get(443, "x.a.example", host, false).await.unwrap();
        assert!(answer.starts_with("421"), "{host}: {answer}");
    }
}

#[tokio::test]
async fn what_a_server_asks_for_later_is_asked_of_open_connections() {
    let ca = Ca::new();
    let secrets = [ca.secret("ns/a", "must.a.example")];
    let of = |mode| view(&[listener(443, &[server(&["must.a.example"], tls(mode, "ns/a"), "here")])], &secrets);
    let world = World::new(&ca, of("simple"));
    let open = world.dial(443, "must.a.example", false).await.unwrap();
    world.views.send_replace(Arc::new(of("mutual")));
    let answer = ask(open, "must.a.example").await.unwrap();
    assert!(answer.starts_with("421"), "{answer}");
}

#[tokio::test]
async fn peers_of_the_mesh_prove_what_servers_ask_for() {
    let ca = Ca::new();
    let narrow = json!({"mode": "istio-mutual", "subject_alt_names": ["spiffe://east.demo/ns/default/sa/other"]});
    let listeners = [
        listener(80, &[server(&["a.example"], Value::Null, "plain")]),
        listener(443, &[server(&["a.example"], narrow, "never")]),
    ];
    let world = World::new(&ca, view(&listeners, &[]));
    let mtls = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = mtls.local_addr().unwrap();
    tokio::spawn(world.edge.clone().serve_mesh(mtls));
    let web = outer(address, &world.trust.web()).await.unwrap();
    let connecting = web.connect("egress.istio-system:443", Vec::new()).await.unwrap();
    connecting.answer.await.unwrap();
    let answer = ask(connecting.io, "a.example").await.unwrap();
    assert!(answer.starts_with("421"), "not one of the names: {answer}");

    let foreign = world.trust.credentials(&world.trust.west, "spiffe://west.demo/ns/default/sa/web");
    let foreign = outer(address, &foreign).await.unwrap();
    let connecting = foreign.connect("egress.istio-system:80", Vec::new()).await.unwrap();
    assert!(connecting.answer.await.is_err(), "nothing is exported to west");
}

#[tokio::test]
async fn a_connection_ends_with_its_peers_certificate() {
    let ca = Ca::new();
    let listeners = [listener(443, &[server(&["*"], json!({"mode": "istio-mutual"}), "mesh")])];
    let world = World::new(&ca, view(&listeners, &[]));
    let now = std::time::SystemTime::now();
    let hour = Duration::from_secs(3600);
    let name = "spiffe://east.demo/ns/default/sa/web";
    let brief = world.trust.with_validity(&world.trust.east, name, now - hour, now + Duration::from_secs(2));
    let config = brief.client_config(identity::PeerPolicy::AnyKnown, &[b"http/1.1"]).unwrap();
    let stream = TcpStream::connect(world.at(443).await).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(config);
    let name = tokio_rustls::rustls::pki_types::ServerName::try_from("a.example").unwrap();
    let mut open = connector.connect(name, stream).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, open.read(&mut [0; 1])).await;
    assert!(ended.is_ok(), "it is still open");
}
