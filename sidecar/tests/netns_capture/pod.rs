//! What runs in a namespace: applications, and the engines of a sidecar behind the real listeners of capture.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use dial::Dialer;
use mesh::Namespace;
use proxy::access::Recorder;
use proxy::guard::Guard;
use proxy::inbound::{Application, Inbound, InboundConfig};
use proxy::listen::{Lifecycle, Limits};
use proxy::metrics::Metrics;
use proxy::outbound::{Outbound, OutboundConfig};
use proxy::resolve::SystemResolver;
use sidecar::{Transparent, listen_everywhere};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

use super::ground::{Ground, Place, enter};
use super::mesh_of::Known;

type Records = Arc<Mutex<Vec<String>>>;

/// What an application says.
#[derive(Debug, Clone, Copy)]
enum Says {
    /// What it was asked, with the header that tells who asked.
    Request,
    /// One line, first, and goodbye.
    Banner,
    /// A fixed answer.
    Fixed(&'static str),
    /// A proxy that answers CONNECT and then plays the server.
    Proxy,
}

/// The applications of a pod, by port.
pub(crate) struct Apps(Vec<(u16, Says)>);

impl Apps {
    pub(crate) fn none() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn server() -> Self {
        let (request, banner) = (Says::Request, Says::Banner);
        Self(vec![
            (9080, request),
            (7777, request),
            (7778, request),
            (3306, banner),
            (7000, banner),
            (15020, Says::Fixed("admin")),
        ])
    }

    pub(crate) fn outside() -> Self {
        Self(vec![(8080, Says::Request), (80, Says::Request), (2525, Says::Banner), (3128, Says::Proxy)])
    }
}

/// Runs until it is dropped.
pub(crate) struct Pod {
    records: Records,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Pod {
    pub(crate) fn apps_only(ground: &Ground, place: Place, apps: Apps) -> Self {
        Self::start(ground, place, apps, None)
    }

    pub(crate) fn with_sidecar(ground: &Ground, place: Place, apps: Apps, known: Known) -> Self {
        Self::start(ground, place, apps, Some(known))
    }

    fn start(ground: &Ground, place: Place, apps: Apps, known: Option<Known>) -> Self {
        let records = Records::default();
        let (stop, stopped) = oneshot::channel();
        let (ready, started) = mpsc::channel();
        let (namespace, written) = (ground.namespace(place), records.clone());
        let thread = std::thread::spawn(move || {
            enter(&namespace);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                apps.0.into_iter().for_each(|(port, says)| serve(port, says));
                let keep = known.map(|known| sidecar(place, known, written));
                ready.send(()).unwrap();
                let _stopped = stopped.await;
                drop(keep);
            });
        });
        started.recv().unwrap();
        Self { records, stop: Some(stop), thread: Some(thread) }
    }

    /// What its sidecar recorded: `authority cluster mtls=… error`.
    pub(crate) fn records(&self) -> Vec<String> {
        self.records.lock().unwrap().clone()
    }

    /// The first record with this text, once it is written.
    pub(crate) fn record(&self, text: &str) -> String {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let records = self.records();
            if let Some(record) = records.iter().find(|record| record.contains(text)) {
                return record.clone();
            }
            assert!(Instant::now() < end, "no record with {text:?}: {records:#?}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        drop(self.stop.take());
        let panicked = self.thread.take().is_some_and(|thread| thread.join().is_err());
        assert!(!panicked || std::thread::panicking(), "a pod panicked");
    }
}

/// The engines of a sidecar, wired as its process wires them.
fn sidecar(place: Place, known: Known, records: Records) -> watch::Sender<Arc<mesh::View>> {
    let (keep, directory) = watch::channel(Arc::new(known.view));
    let recorder = Recorder::new(Metrics::default(), move |record| {
        let error = record.error.clone().unwrap_or_default();
        let text = format!("{} {} mtls={} {error}", record.authority, record.upstream_cluster, record.mutual_tls);
        records.lock().unwrap().push(text);
    });
    let (life, dialer) = (Lifecycle::default(), Dialer::marked(1337));
    let outbound = Outbound::start(OutboundConfig {
        directory: Arc::new(directory.clone()),
        credentials: known.credentials.clone(),
        resolver: Arc::new(SystemResolver),
        recorder: recorder.clone(),
        life: life.clone(),
        namespace: Namespace::new("default").unwrap(),
        dialer,
    });
    let address = IpAddr::from([10, 77, 0, place.number()]);
    let inbound = Inbound::start(InboundConfig {
        server: None,
        directory: Arc::new(directory),
        credentials: known.credentials,
        recorder,
        life: life.clone(),
        limits: Limits::default(),
        ports: Vec::new(),
        application: Some(Application { address, reserved: [15001, 15006, 15008, 15020, 15021].into() }),
        guard: Guard::new(outbound.clone()),
        dialer,
    });
    let transparent = Transparent::new(outbound, inbound.clone(), life);
    for listener in listen_everywhere(15001).unwrap() {
        let transparent = transparent.clone();
        tokio::spawn(async move { transparent.serve_outbound(listener).await });
    }
    for listener in listen_everywhere(15006).unwrap() {
        let transparent = transparent.clone();
        tokio::spawn(async move { transparent.serve_inbound(listener).await });
    }
    for listener in listen_everywhere(15008).unwrap() {
        let inbound = inbound.clone();
        tokio::spawn(async move { inbound.serve_mtls(listener).await });
    }
    keep
}

fn serve(port: u16, says: Says) {
    for listener in listen_everywhere(port).unwrap() {
        tokio::spawn(accept(listener, says));
    }
}

async fn accept(listener: TcpListener, says: Says) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            // A client that goes away is its own business.
            let _gone = answer(stream, says).await;
        });
    }
}

async fn answer(mut stream: TcpStream, says: Says) -> std::io::Result<()> {
    match says {
        Says::Banner => {
            stream.write_all(b"banner\n").await?;
            stream.shutdown().await?;
            // Until the client has read it.
            stream.read_to_end(&mut Vec::new()).await.map(drop)
        }
        Says::Request => loop {
            let Some(head) = head(&mut stream).await? else { return Ok(()) };
            if head.to_ascii_lowercase().contains("upgrade: websocket") {
                stream.write_all(b"HTTP/1.1 101 Go on\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await?;
                let (mut read, mut write) = stream.split();
                return tokio::io::copy(&mut read, &mut write).await.map(drop);
            }
            say(&mut stream, &head).await?;
        },
        Says::Fixed(text) => {
            head(&mut stream).await?;
            say(&mut stream, text).await
        }
        Says::Proxy => {
            let asked = head(&mut stream).await?.unwrap_or_default();
            assert!(asked.starts_with("CONNECT example.invalid:80 "), "{asked}");
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            head(&mut stream).await?;
            say(&mut stream, "tunnelled").await
        }
    }
}

async fn head(stream: &mut TcpStream) -> std::io::Result<Option<String>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) if head.is_empty() => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

async fn say(stream: &mut TcpStream, text: &str) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len());
    stream.write_all((head + text).as_bytes()).await
}
