//! gRPC to the echo server inside a CONNECT tunnel. The URL's path chooses the method; Unary by default.

use std::str::FromStr;

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use tokio_stream::StreamExt;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::{Call, Reply, connect};
use crate::echo::pb::echo_client::EchoClient;
use crate::echo::pb::{EchoRequest, EchoResponse};
use crate::hint::Hint;

pub(super) async fn send(call: &Call) -> Result<Reply> {
    let channel = channel(call).await?;
    let mut client = EchoClient::new(channel);
    let message = EchoRequest { message: String::from_utf8_lossy(&call.body).into_owned(), count: 3 };
    let metadata = MetadataMap::from_headers(call.headers.clone());
    let request = |message| Request::from_parts(metadata.clone(), Default::default(), message);
    let method = call.url.path().rsplit('/').next().unwrap_or_default();
    let answer = match method {
        "" | "Unary" => client.unary(request(message)).await.map(|response| {
            let (metadata, message, _) = response.into_parts();
            (metadata, vec![message])
        }),
        "ServerStream" => streamed(client.server_stream(request(message)).await).await,
        "BidiStream" => {
            let messages = tokio_stream::iter(vec![message.clone(), message.clone(), message]);
            let request = Request::from_parts(metadata.clone(), Default::default(), messages);
            streamed(client.bidi_stream(request).await).await
        }
        other => {
            let hint = "use /isthmus.echo.v1.Echo/Unary, …/ServerStream or …/BidiStream";
            return Err(Hint::error(format!("the echo server has no gRPC method {other:?}"), hint));
        }
    };
    Ok(reply(answer))
}

type Messages = Result<(MetadataMap, Vec<EchoResponse>), Status>;

async fn streamed(response: Result<tonic::Response<tonic::Streaming<EchoResponse>>, Status>) -> Messages {
    let (metadata, mut stream, _) = response?.into_parts();
    let mut messages = Vec::new();
    while let Some(message) = stream.next().await {
        messages.push(message?);
    }
    Ok((metadata, messages))
}

fn reply(answer: Messages) -> Reply {
    let (status, headers, messages) = match answer {
        Ok((metadata, messages)) => ((Code::Ok as i32, String::new()), metadata, messages),
        Err(status) => ((status.code() as i32, status.message().to_owned()), status.metadata().clone(), Vec::new()),
    };
    let line = |message: EchoResponse| {
        let answer = serde_json::Value::from_str(&message.answer_json).unwrap_or_default();
        let line = serde_json::json!({"message": message.message, "index": message.index, "answer": answer});
        format!("{line}\n")
    };
    Reply {
        status: Some(http::StatusCode::OK),
        grpc_status: Some(status),
        headers: headers.into_headers(),
        body: messages.into_iter().map(line).collect::<String>().into(),
        trailers: http::HeaderMap::new(),
    }
}

/// A gRPC channel to `call.url` through the sidecar; every connection of the channel is a CONNECT tunnel of its own.
pub(super) async fn channel(call: &Call) -> Result<Channel> {
    let (host, port) = call.authority()?;
    let proxy = call.proxy;
    let endpoint = Endpoint::from_shared(format!("http://{host}:{port}")).context("the URL is no gRPC target")?;
    let connector = tower_service(move || {
        let host = host.clone();
        async move { connect(proxy, &host, port).await.map(TokioIo::new) }
    });
    endpoint.connect_with_connector(connector).await.with_context(|| format!("{} speaks no gRPC", call.url))
}

/// A connector from a function.
fn tower_service<F, R, T>(
    connect: F,
) -> impl tonic::codegen::Service<http::Uri, Response = T, Error = super::ConnectError, Future = R> + Send + Clone
where
    F: Fn() -> R + Send + Clone,
    R: Future<Output = Result<T, super::ConnectError>> + Send,
{
    Connector(connect)
}

#[derive(Clone)]
struct Connector<F>(F);

impl<F, R, T> tonic::codegen::Service<http::Uri> for Connector<F>
where
    F: Fn() -> R,
    R: Future<Output = Result<T, super::ConnectError>>,
{
    type Response = T;
    type Error = super::ConnectError;
    type Future = R;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> R {
        (self.0)()
    }
}
