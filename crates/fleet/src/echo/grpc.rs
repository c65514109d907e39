//! The gRPC face: unary, server streaming and bidirectional streaming. It counts, fails and waits as the HTTP one does.

use std::pin::Pin;
use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming};

use super::answer::{Answer, client_identity, headers};
use super::control::{State, Wish};
use super::pb::echo_server::Echo;
use super::pb::{EchoRequest, EchoResponse};

/// Longest answer of ServerStream.
const COUNT_MAX: u32 = 1_000_000;

pub(super) struct EchoService {
    pub(super) state: Arc<State>,
}

type Replies = Pin<Box<dyn Stream<Item = Result<EchoResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Echo for EchoService {
    async fn unary(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        let answer = self.begin(request.metadata().clone().into_headers(), "Unary").await?;
        let message = request.into_inner().message;
        Ok(Response::new(EchoResponse { message, index: 0, answer_json: answer }))
    }

    type ServerStreamStream = Replies;

    async fn server_stream(&self, request: Request<EchoRequest>) -> Result<Response<Replies>, Status> {
        let answer = self.begin(request.metadata().clone().into_headers(), "ServerStream").await?;
        let EchoRequest { message, count } = request.into_inner();
        if count > COUNT_MAX {
            return Err(Status::invalid_argument(format!("count is at most {COUNT_MAX}")));
        }
        let reply = move |index| {
            let answer_json = if index == 0 { answer.clone() } else { String::new() };
            Ok(EchoResponse { message: message.clone(), index, answer_json })
        };
        Ok(Response::new(Box::pin(tokio_stream::iter((0..count.max(1)).map(reply)))))
    }

    type BidiStreamStream = Replies;

    async fn bidi_stream(&self, request: Request<Streaming<EchoRequest>>) -> Result<Response<Replies>, Status> {
        let answer = self.begin(request.metadata().clone().into_headers(), "BidiStream").await?;
        let mut index = 0;
        let replies = request.into_inner().map(move |message| {
            let answer_json = if index == 0 { answer.clone() } else { String::new() };
            let reply = EchoResponse { message: message?.message, index, answer_json };
            index += 1;
            Ok(reply)
        });
        Ok(Response::new(Box::pin(replies)))
    }
}

impl EchoService {
    /// Counts a call, and waits or fails as it was asked to; gives the answer as JSON.
    async fn begin(&self, metadata: HeaderMap, method: &str) -> Result<String, Status> {
        let answer = Answer {
            whoami: self.state.whoami.clone(),
            protocol: "grpc".to_owned(),
            method: "POST".to_owned(),
            path: format!("/isthmus.echo.v1.Echo/{method}"),
            client_identity: client_identity(&metadata).unwrap_or_default(),
            headers: headers(&metadata),
            body_bytes: 0,
        };
        let failing = self.state.count(&answer);
        let wish = Wish::of(&metadata);
        tokio::time::sleep(wish.delay).await;
        match failing.or(wish.status).map_or(Code::Ok, code) {
            Code::Ok => Ok(serde_json::to_string(&answer).unwrap_or_default()),
            code => Err(Status::new(code, "as you wish")),
        }
    }
}

/// The gRPC status that servers mean by an HTTP status.
fn code(status: StatusCode) -> Code {
    match status.as_u16() {
        200..=299 => Code::Ok,
        400 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        409 => Code::Aborted,
        429 => Code::ResourceExhausted,
        499 => Code::Cancelled,
        501 => Code::Unimplemented,
        503 => Code::Unavailable,
        504 => Code::DeadlineExceeded,
        _ => Code::Internal,
    }
}
