//! The gRPC face: unary, server streaming and bidirectional streaming.

use std::pin::Pin;

use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::answer::{Answer, Whoami, client_identity, headers};
use super::pb::echo_server::Echo;
use super::pb::{EchoRequest, EchoResponse};

/// Longest answer of ServerStream.
const COUNT_MAX: u32 = 1_000_000;

pub(super) struct EchoService {
    pub(super) whoami: Whoami,
}

type Replies = Pin<Box<dyn Stream<Item = Result<EchoResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Echo for EchoService {
    async fn unary(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        let answer = self.answer(&request, "Unary");
        let message = request.into_inner().message;
        Ok(Response::new(EchoResponse { message, index: 0, answer_json: answer }))
    }

    type ServerStreamStream = Replies;

    async fn server_stream(&self, request: Request<EchoRequest>) -> Result<Response<Replies>, Status> {
        let answer = self.answer(&request, "ServerStream");
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
        let answer = self.answer(&request, "BidiStream");
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
    fn answer<T>(&self, request: &Request<T>, method: &str) -> String {
        let metadata = request.metadata().clone().into_headers();
        let answer = Answer {
            whoami: self.whoami.clone(),
            protocol: "grpc".to_owned(),
            method: "POST".to_owned(),
            path: format!("/isthmus.echo.v1.Echo/{method}"),
            client_identity: client_identity(&metadata).unwrap_or_default(),
            headers: headers(&metadata),
            body_bytes: 0,
        };
        serde_json::to_string(&answer).unwrap_or_default()
    }
}
