//! Dialling a gateway, over either transport.

use std::net::SocketAddr;

use identity::DUMMY_SERVER_NAME;
use mesh::Transport;

use super::connection::{Dialled, Wire};
use super::lane::Lane;
use super::tcp::TcpTunnel;
use super::{Ground, Target};
use crate::transport::{client_config, share_memory};

/// Connects a lane to its gateway, whose TCP port is the same as its UDP port.
pub(super) async fn dial(ground: &Ground, target: &Target, lane: &Lane) -> Result<Dialled, String> {
    ground.credentials.ready().await;
    let mut addresses =
        tokio::net::lookup_host(&target.gateway.quic_address).await.map_err(|error| error.to_string())?;
    let address = addresses.next().ok_or("the name has no address")?;
    match lane.transport {
        Transport::Quic => quic(ground, target, lane, address).await,
        Transport::Tcp => {
            let dialled = TcpTunnel::dial(address, &ground.credentials, &target.trust_domain).await;
            dialled.map(|(tunnel, peer)| Dialled { wire: Wire::Tcp(tunnel), peer })
        }
    }
}

async fn quic(ground: &Ground, target: &Target, lane: &Lane, address: SocketAddr) -> Result<Dialled, String> {
    let config = client_config(&ground.credentials, &target.trust_domain, &ground.tunnel, &ground.trips)
        .map_err(|error| error.to_string())?;
    // Every lane has a socket, and so a UDP source port, of its own.
    let endpoint = ground.endpoints.get(lane.index % ground.endpoints.len().max(1)).ok_or("there is no endpoint")?;
    let connecting = endpoint.connect_with(config, address, DUMMY_SERVER_NAME).map_err(|error| error.to_string())?;
    let connection = connecting.await.map_err(|error| error.to_string())?;
    share_memory(&connection, ground.open_connections());
    let peer = identity::quic_peer(&connection).map_err(|error| error.to_string())?;
    Ok(Dialled { wire: Wire::Quic(connection), peer })
}
