//! The forward proxy: absolute-form requests are carried one by one, CONNECT opens a stream to whatever the host is.

use std::convert::Infallible;

use http::uri::Authority;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use proxy::body::{self, Body};
use proxy::detect::Rewind;
use proxy::listen::{Lifecycle, Limits};
use proxy::outbound::Outbound;
use proxy::reply;
use tokio::net::TcpStream;

/// Serves one connection of the workload.
pub(super) async fn serve(stream: TcpStream, outbound: Outbound, limits: &Limits, life: &Lifecycle) {
    let service = service_fn(|request| {
        let (outbound, life) = (outbound.clone(), life.clone());
        async move { Ok::<_, Infallible>(answer(request, outbound, &life).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.header_bytes)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = life.draining.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(error = body::chain(&error), "the workload's connection failed");
    }
}

async fn answer(request: Request<Incoming>, outbound: Outbound, life: &Lifecycle) -> Response<Body> {
    if request.method() == Method::CONNECT {
        return connect(request, outbound, life);
    }
    Box::pin(outbound.request(request)).await
}

/// Accepts at once; where the stream goes is decided with the port's protocol, and a failure ends it.
fn connect(request: Request<Incoming>, outbound: Outbound, life: &Lifecycle) -> Response<Body> {
    let target = request.uri().authority().and_then(host_and_port);
    let Some((host, port)) = target else {
        return reply::text(StatusCode::BAD_REQUEST, "CONNECT needs <host>:<port>");
    };
    life.spawn(async move {
        match hyper::upgrade::on(request).await {
            Ok(upgraded) => match upgraded.downcast::<TokioIo<TcpStream>>() {
                Ok(parts) => outbound.stream(Rewind::new(parts.read_buf, parts.io.into_inner()), host, port).await,
                Err(_) => tracing::error!("a tunnel is not the TCP connection that it was"),
            },
            Err(error) => tracing::debug!(%error, "the workload gave its tunnel up"),
        }
    });
    Response::new(reply::text(StatusCode::OK, "").into_body())
}

fn host_and_port(authority: &Authority) -> Option<(String, u16)> {
    Some((authority.host().to_owned(), authority.port_u16()?))
}
