//! Probes: streams that the far gateway answers and carries no further.

use std::time::Instant;

use api::tunnel::{Header, Reply, reply};
use mesh::{Namespace, ServiceName, TunnelMode, TunnelRequest};
use proxy::tunnel;
use tokio::io::AsyncWriteExt;

use super::{Connection, Ground, Target};

/// Asks the far gateway for an answer; an error is the denial's reason or what broke.
pub(super) async fn probe(ground: &Ground, target: &Target, connection: &Connection) -> Result<(), String> {
    let header = probe_header(ground, target)?;
    let frame = tunnel::to_frame(&header).map_err(|error| error.to_string())?;
    let begun = Instant::now();
    let mut io = connection.open().await?;
    io.write_all(&frame).await.map_err(|error| error.to_string())?;
    io.shutdown().await.map_err(|error| error.to_string())?;
    let reply = tokio::select! {
        reply = tunnel::read_frame::<Reply, _>(&mut io) => reply.map_err(|error| error.to_string())?,
        reason = connection.closed() => return Err(reason),
    };
    connection.probed(begun.elapsed());
    match reply.reply {
        Some(reply::Reply::Accepted(_)) => Ok(()),
        Some(reply::Reply::Denied(denied)) => Err(denied.reason),
        None => Err("the answer is empty".to_owned()),
    }
}

fn probe_header(ground: &Ground, target: &Target) -> Result<Header, String> {
    let own = ground.credentials.svid().ok_or("there is no certificate yet")?;
    let namespace = Namespace::new(mesh::SYSTEM_NAMESPACE).map_err(|error| error.to_string())?;
    let service = ServiceName::new(namespace, "probe").map_err(|error| error.to_string())?;
    Ok(Header::from(&TunnelRequest {
        service,
        port: 1,
        udp: false,
        cluster: target.cluster.clone(),
        group: None,
        pod: None,
        mode: TunnelMode::Probe,
        source: own.id().clone(),
    }))
}
