//! A local port that leads to a workload's view of a service: each connection is a CONNECT through its sidecar.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::call::connect;

/// A running forward.
#[derive(Debug)]
pub struct Forward {
    /// Where it listens.
    pub local: SocketAddr,
    shutdown: CancellationToken,
}

impl Forward {
    /// Forwards every connection of `listener` to `host:port` through the sidecar at `proxy`. A connection that the sidecar
    /// refuses is closed and reported to `on_error`. Must be called in a tokio runtime.
    pub fn start(
        listener: TcpListener,
        proxy: SocketAddr,
        target: (String, u16),
        on_error: impl Fn(String) + Clone + Send + 'static,
    ) -> Result<Self> {
        let local = listener.local_addr()?;
        let shutdown = CancellationToken::new();
        let ended = shutdown.clone();
        tokio::spawn(ended.run_until_cancelled_owned(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (host, port) = target.clone();
                let on_error = on_error.clone();
                tokio::spawn(async move {
                    if let Err(error) = carry(stream, proxy, &host, port).await {
                        on_error(format!("{error:#}"));
                    }
                });
            }
        }));
        Ok(Self { local, shutdown })
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn carry(mut client: TcpStream, proxy: SocketAddr, host: &str, port: u16) -> Result<()> {
    let mut tunnel = connect(proxy, host, port).await?;
    // Half-closes pass through in both directions.
    tokio::io::copy_bidirectional(&mut client, &mut tunnel).await.context("the connection broke")?;
    Ok(())
}

/// Parses `host:port`. `<service>.<namespace>` names a service of the mesh and stands for its clusterset host; the short
/// host of the same spelling, which stays in the cluster, is written `<service>.<namespace>.svc`.
pub fn parse_target(text: &str) -> Result<(String, u16)> {
    let full = |host: &str| match host.split('.').count() {
        2 if host.parse::<std::net::IpAddr>().is_err() => format!("{host}.svc.clusterset.local"),
        _ => host.to_owned(),
    };
    let parsed = text.rsplit_once(':').and_then(|(host, port)| Some((full(host), port.parse().ok()?)));
    parsed
        .filter(|(host, _)| !host.is_empty())
        .ok_or_else(|| crate::hint::Hint::error(format!("{text:?} is no target"), "write <service>.<namespace>:<port>"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_labels_name_a_service_of_the_mesh() {
        for (text, host) in [
            ("reviews.default:9080", "reviews.default.svc.clusterset.local"),
            ("reviews.default.svc:9080", "reviews.default.svc"),
            ("reviews:9080", "reviews"),
            ("127.0.0.1:9080", "127.0.0.1"),
        ] {
            assert_eq!(parse_target(text).expect("a target"), (host.to_owned(), 9080));
        }
        for bad in ["reviews.default", ":9080", "reviews.default:http"] {
            assert!(parse_target(bad).is_err(), "{bad}");
        }
    }
}
