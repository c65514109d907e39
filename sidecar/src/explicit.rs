//! Explicit capture: the workload is told to use this listener as its proxy.
//!
//! One listener speaks SOCKS5 (with names: `socks5h`) and HTTP forward proxying, told apart by the first byte.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioIo, TokioTimer};
use proxy::body::{self, Body};
use proxy::detect::Rewind;
use proxy::listen::{self, Accepted, Lifecycle, Limits};
use proxy::outbound::{Dialled, Outbound};
use proxy::reply;
use proxy::serve::{Unreadable, why_shed};
use tokio::net::{TcpListener, TcpStream};

use crate::association::Association;
use crate::socks::{self, Asked, Destination};

/// The listener's handler; clones share the engine.
#[derive(Clone)]
pub struct Explicit {
    outbound: Outbound,
    life: Lifecycle,
    limits: Limits,
    own: IpAddr,
}

impl Explicit {
    /// Hands what is captured to `outbound`. `own` is the workload's address.
    pub fn new(outbound: Outbound, life: Lifecycle, own: IpAddr) -> Self {
        Self { outbound, life, limits: Limits::for_own_workload(), own }
    }

    /// Who a connection comes from, as others see the workload: it dials this listener over loopback, as all do.
    fn source(&self, peer: SocketAddr) -> SocketAddr {
        let hidden = peer.ip().is_loopback() && !self.own.is_unspecified();
        if hidden { SocketAddr::new(self.own, peer.port()) } else { peer }
    }

    /// Serves until draining.
    pub async fn serve(&self, listener: TcpListener) {
        listen::accept(listener, &self.limits, &self.life, |accepted| {
            let explicit = self.clone();
            async move { explicit.connection(accepted).await }
        })
        .await;
    }

    async fn connection(self, accepted: Accepted) {
        let Accepted { stream, permit, peer } = accepted;
        let source = self.source(peer);
        let mut first = [0];
        match tokio::time::timeout(self.limits.header_timeout, stream.peek(&mut first)).await {
            Ok(Ok(1)) if first[0] == socks::VERSION => self.socks(stream, source).await,
            Ok(Ok(1)) => self.http(stream, source).await,
            // The client went away, or said nothing.
            _ => {}
        }
        drop(permit);
    }

    async fn socks(self, mut stream: TcpStream, source: SocketAddr) {
        match tokio::time::timeout(self.limits.header_timeout, socks::accept(&mut stream)).await {
            Ok(Ok(Asked::Connect(Destination { host, port }))) => {
                let dialled = Dialled { host, port, source: Some(source), transparent: false, udp: false };
                self.outbound.stream(stream, dialled).await;
            }
            Ok(Ok(Asked::Associate)) => {
                let Self { outbound, life, .. } = self;
                if let Err(error) = Box::pin(Association { outbound, life, source }.run(stream)).await {
                    tracing::debug!(%error, "a SOCKS5 association failed");
                }
            }
            Ok(Err(error)) => tracing::debug!(%error, "a SOCKS5 client was refused"),
            Err(_) => tracing::debug!("a SOCKS5 client took too long"),
        }
    }

    async fn http(self, stream: TcpStream, source: SocketAddr) {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_buf_size(self.limits.header_bytes)
            .half_close(true);
        let (draining, outbound) = (self.life.draining.clone(), self.outbound.clone());
        let service = service_fn(move |request| {
            let explicit = self.clone();
            async move { Ok::<_, Infallible>(explicit.request(request, source).await) }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
        tokio::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = draining.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(error = body::chain(&error), "a connection of the workload failed");
            if let Some(reason) = why_shed(&error) {
                telemetry::shed("outbound", reason);
            }
            if let Some(why) = Unreadable::of(&error) {
                outbound.unreadable(Some(source), why);
            }
        }
    }

    async fn request(self, request: Request<Incoming>, source: SocketAddr) -> Response<Body> {
        if request.method() == Method::CONNECT {
            return self.connect(request, source);
        }
        // Without a host in the request line this listener would be asked for itself.
        if request.uri().authority().is_none() {
            return reply::text(StatusCode::BAD_REQUEST, "this is a forward proxy; hint: set http_proxy to it");
        }
        self.outbound.request(request, source).await
    }

    /// Answers at once; whether the server can be reached shows in the flow.
    fn connect(self, request: Request<Incoming>, source: SocketAddr) -> Response<Body> {
        let authority = request.uri().authority();
        let named = authority.and_then(|authority| mesh::checked_authority(authority.clone()).ok());
        let Some((host, port)) = named.and_then(|named| Some((named.host().to_owned(), named.port_u16()?))) else {
            return reply::text(StatusCode::BAD_REQUEST, "CONNECT needs host:port");
        };
        let outbound = self.outbound;
        self.life.spawn(async move {
            match hyper::upgrade::on(request).await.map(Upgraded::downcast::<TokioIo<TcpStream>>) {
                Ok(Ok(parts)) => {
                    let io = Rewind::new(parts.read_buf, parts.io.into_inner());
                    outbound
                        .stream(io, Dialled { host, port, source: Some(source), transparent: false, udp: false })
                        .await;
                }
                Ok(Err(_)) => tracing::error!("a captured connection is of an unexpected type"),
                Err(error) => tracing::debug!(error = body::chain(&error), "a CONNECT broke off"),
            }
        });
        Response::new(body::empty())
    }
}
