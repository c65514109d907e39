//! One question and its answer, whatever it came over.

use std::sync::Arc;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use mesh::View;
use tokio::sync::watch;

use crate::forward::{Flags, ForwardError, Forwarder};
use crate::metrics::Metrics;
use crate::reply::{self, Reply};

/// A question and what its sender said about how to answer.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The one question, in the case that the client wrote it in.
    pub question: Query,
    /// Recursion desired.
    pub recursion_desired: bool,
    /// The client validates by itself.
    pub checking_disabled: bool,
    /// The client wants signatures.
    pub dnssec_ok: bool,
}

/// Answers questions from the current view, or from upstream.
#[derive(Debug)]
pub struct Shim {
    view: watch::Receiver<Arc<View>>,
    pub(crate) forwarder: Forwarder,
    pub(crate) metrics: Metrics,
}

impl Shim {
    /// Follows the views of `view`; nothing is kept between two questions.
    pub fn new(view: watch::Receiver<Arc<View>>, forwarder: Forwarder, metrics: Metrics) -> Self {
        Self { view, forwarder, metrics }
    }

    /// The answer, and the label of the zone that it came from.
    pub async fn answer(&self, asked: &Asked) -> (Reply, &'static str) {
        let question = &asked.question;
        let view = Arc::clone(&self.view.borrow());
        let (class, kind) = (question.query_class(), question.query_type());
        if let Some(reply) = reply::from_view(&view, question.name(), class, kind) {
            return (reply, "clusterset");
        }
        // Zone transfers and the server's own secrets are between the upstream and its operators.
        if class != DNSClass::IN || matches!(kind, RecordType::AXFR | RecordType::IXFR) {
            return (Reply::code(ResponseCode::Refused), "forward");
        }
        let flags = Flags {
            recursion_desired: asked.recursion_desired,
            checking_disabled: asked.checking_disabled,
            dnssec_ok: asked.dnssec_ok,
        };
        let reply = match self.forwarder.ask(question, flags).await {
            Ok(answer) => from_upstream(answer),
            Err(ForwardError::NoUpstream) => Reply { recursion_available: false, ..Reply::code(ResponseCode::Refused) },
            Err(error) => {
                tracing::debug!(name = %question.name(), %error, "not answered from upstream");
                Reply::code(ResponseCode::ServFail)
            }
        };
        (reply, "forward")
    }
}

fn from_upstream(answer: Message) -> Reply {
    Reply {
        code: answer.metadata.response_code,
        authoritative: answer.metadata.authoritative,
        recursion_available: answer.metadata.recursion_available,
        authentic_data: answer.metadata.authentic_data,
        answers: answer.answers,
        authorities: answer.authorities,
        additionals: answer.additionals,
    }
}
