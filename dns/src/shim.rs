//! One question and its answer, whatever it came over.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use mesh::{View, Zone, Zones};
use tokio::sync::watch;

use crate::forward::{Flags, ForwardError, Forwarder};
use crate::metrics::Metrics;
use crate::reply::{self, Reply, Said};

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
    zones: Zones,
    pub(crate) forwarder: Forwarder,
    pub(crate) metrics: Metrics,
    /// Where the next answer with several addresses begins.
    turn: AtomicUsize,
}

impl Shim {
    /// Follows the views of `view`; nothing is kept between two questions.
    pub fn new(view: watch::Receiver<Arc<View>>, zones: Zones, forwarder: Forwarder, metrics: Metrics) -> Self {
        Self { view, zones, forwarder, metrics, turn: AtomicUsize::new(0) }
    }

    /// The answer, and the label of the zone that it came from.
    pub async fn answer(&self, asked: &Asked) -> (Reply, &'static str) {
        let question = &asked.question;
        let view = Arc::clone(&self.view.borrow());
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        match reply::from_view(&view, self.zones, question, turn) {
            Said::Reply(zone, reply) => (reply, label(zone)),
            Said::Forward => (self.forward(asked, question).await, "forward"),
            Said::Follow(aliases, to) => {
                let next = Query::query(to, question.query_type());
                let mut reply = self.forward(asked, &next).await;
                reply.answers.splice(0..0, aliases);
                (reply, label(Zone::Cluster))
            }
        }
    }

    async fn forward(&self, asked: &Asked, question: &Query) -> Reply {
        // Zone transfers and the server's own secrets are between the upstream and its operators.
        let transfer = matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR);
        if question.query_class() != DNSClass::IN || transfer {
            return Reply::code(ResponseCode::Refused);
        }
        let flags = Flags {
            recursion_desired: asked.recursion_desired,
            checking_disabled: asked.checking_disabled,
            dnssec_ok: asked.dnssec_ok,
        };
        match self.forwarder.ask(question, flags).await {
            Ok(answer) => from_upstream(answer),
            Err(ForwardError::NoUpstream) => Reply { recursion_available: false, ..Reply::code(ResponseCode::Refused) },
            Err(error) => {
                tracing::debug!(name = %question.name(), %error, "not answered from upstream");
                Reply::code(ResponseCode::ServFail)
            }
        }
    }
}

fn label(zone: Zone) -> &'static str {
    match zone {
        Zone::Clusterset => "clusterset",
        Zone::Cluster => "cluster",
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
