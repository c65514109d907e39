//! The two steps on the wire: find a node that proves to be the hub, then send the request over such a connection.

use std::future::Future;
use std::io;
use std::sync::Mutex;
use std::time::Duration;

use api::hub::join_client::JoinClient;
use api::hub::{JoinRequest, JoinResponse};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Uri;

use super::{JoinConfig, JoinError};
use crate::connection::endpoint;
use crate::error::is_worth_another_node;
use crate::pinned::{self, ContactError, HubConnection, PinnedHub};

/// Joining keeps trying for this long: longer than an election takes.
const DEADLINE: Duration = Duration::from_secs(15);
/// One node gets this long to answer.
const TRY: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(200);

/// What one node made of a try.
enum Failure {
    /// Another node, or the same one later, may do better.
    Passing(String),
    /// No repetition helps.
    Final(JoinError),
}

/// Shows that there is a hub behind the addresses, and which one.
pub(super) async fn find_hub(config: &JoinConfig) -> Result<PinnedHub, JoinError> {
    at_some_node(&config.hub, async |address| contact(config, address).await.map(|connection| connection.hub)).await
}

/// Sends the request to some node of *this* hub.
pub(super) async fn join(
    config: &JoinConfig,
    hub: &PinnedHub,
    request: JoinRequest,
) -> Result<JoinResponse, JoinError> {
    at_some_node(&config.hub, async |address| {
        let connection = contact(config, address).await?;
        if connection.hub != *hub {
            let why = "it shows another identity than the node asked before".to_owned();
            return Err(Failure::Final(JoinError::NotTheHub { address: address.to_owned(), why }));
        }
        match tokio::time::timeout(TRY, send(address, connection, request.clone())).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(status)) if is_worth_another_node(&status) => Err(Failure::Passing(status.to_string())),
            Ok(Err(status)) => {
                let message = status.message().to_owned();
                Err(Failure::Final(JoinError::Refused { code: status.code(), message }))
            }
            Err(_) => Err(Failure::Passing("no answer in time".to_owned())),
        }
    })
    .await
}

async fn at_some_node<T>(
    addresses: &[String],
    attempt: impl AsyncFn(&str) -> Result<T, Failure>,
) -> Result<T, JoinError> {
    let end = Instant::now() + DEADLINE;
    let mut turn = 0;
    loop {
        let address = &addresses[turn % addresses.len()];
        turn += 1;
        let why = match attempt(address).await {
            Ok(done) => return Ok(done),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Passing(why)) => why,
        };
        tracing::debug!(%address, %why, "hub node did not answer");
        let pause = PAUSE.mul_f64(rand::random_range(0.5..1.5));
        if Instant::now() + pause >= end {
            return Err(JoinError::Unreachable { address: address.clone(), within: DEADLINE, why });
        }
        if turn % addresses.len() == 0 {
            tokio::time::sleep(pause).await;
        }
    }
}

async fn contact(config: &JoinConfig, address: &str) -> Result<HubConnection, Failure> {
    pinned::contact(address, &config.ca_hash).await.map_err(|error| match error {
        ContactError::Passing(why) => Failure::Passing(why),
        ContactError::NotTheHub(why) => Failure::Final(JoinError::NotTheHub { address: address.to_owned(), why }),
    })
}

/// One gRPC call over a connection that exists already.
fn send(
    address: &str,
    connection: HubConnection,
    request: JoinRequest,
) -> impl Future<Output = Result<JoinResponse, Status>> {
    let once = Mutex::new(Some(connection.io));
    let connector = tower::service_fn(move |_: Uri| {
        let io = once.lock().ok().and_then(|mut io| io.take());
        async move { io.map(TokioIo::new).ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
    });
    let endpoint = endpoint(address);
    async move {
        let endpoint = endpoint.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let channel = endpoint.connect_with_connector_lazy(connector);
        JoinClient::new(channel).join(request).await.map(tonic::Response::into_inner)
    }
}
