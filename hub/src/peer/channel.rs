//! One lazy channel per address, shared by everything that talks to that node.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::hub::Blob;
use api::hub::hub_peer_client::HubPeerClient;
use hyper_util::rt::TokioIo;
use identity::{Credentials, PeerPolicy, TlsConfigError};
use mesh::TrustDomain;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};

use super::{MESSAGE_MAX, To, decode, encode};
use crate::bounded::Bounded;
use crate::node::{Answer, Request as NodeRequest};
use crate::raft_types::NodeId;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEP_ALIVE: Duration = Duration::from_secs(2);

pub(super) type Client = HubPeerClient<Channel>;

/// Channels to the other nodes; clones share them.
#[derive(Clone)]
pub(crate) struct Peers {
    config: Arc<ClientConfig>,
    credentials: Credentials,
    channels: Arc<Mutex<BTreeMap<String, Client>>>,
}

impl Peers {
    pub(crate) fn new(credentials: Credentials, hub: TrustDomain) -> Result<Self, TlsConfigError> {
        let peers = PeerPolicy::System { account: "hub", trust_domain: Some(hub) };
        let config = credentials.client_config(peers, &[b"h2"])?;
        Ok(Self { config, credentials, channels: Arc::default() })
    }

    /// A client for the node at `address`; it connects when it is used, and again when the connection was lost.
    pub(super) fn client(&self, address: &str) -> Result<Client, Status> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = channels.get(address) {
            return Ok(client.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|_| Status::unavailable(format!("{address} is no address")))?
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        let (config, credentials, target) = (Arc::clone(&self.config), self.credentials.clone(), address.to_owned());
        let connector =
            tower::service_fn(move |_: Uri| connect(Arc::clone(&config), credentials.clone(), target.clone()));
        let channel = endpoint.connect_with_connector_lazy(connector);
        let client =
            HubPeerClient::new(channel).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX);
        channels.insert(address.to_owned(), client.clone());
        Ok(client)
    }

    /// Asks another node.
    pub(crate) async fn forward(
        &self,
        node: NodeId,
        address: &str,
        request: &NodeRequest,
        timeout: Duration,
    ) -> Result<Answer, Status> {
        let data = encode(&To { node, message: request })?;
        let mut client = self.client(address)?;
        let call = client.forward(Request::new(Blob { data }));
        let reply = tokio::time::timeout(timeout, call)
            .await
            .map_err(|_| Status::unavailable(format!("{address} did not answer in time")))??;
        decode(&reply.into_inner().data)
    }
}

/// Connects; the connection breaks when its peer is no longer to be believed.
async fn connect(
    config: Arc<ClientConfig>,
    credentials: Credentials,
    target: String,
) -> io::Result<TokioIo<Bounded<TlsStream<TcpStream>>>> {
    let tcp = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&target)).await??;
    tcp.set_nodelay(true)?;
    let (stream, peer) = identity::connect_tls(config, tcp, CONNECT_TIMEOUT).await.map_err(io::Error::other)?;
    let end = Box::pin(async move { credentials.expiry(&peer).await.to_string() });
    Ok(TokioIo::new(Bounded::new(stream, end)))
}
