//! One question and its answer, whatever it came over.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use mesh::{View, Zone, Zones};
use tokio::sync::watch;

use crate::forward::{Flags, ForwardError, Forwarder};
use crate::metrics::Metrics;
use crate::reply::{self, Reply, Said};

/// A question and what its sender said about how to answer.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// The one question, in the case that the client wrote it in.
    pub(crate) question: Query,
    /// Recursion desired.
    pub(crate) recursion_desired: bool,
    /// The client validates by itself.
    pub(crate) checking_disabled: bool,
    /// The client wants signatures.
    pub(crate) dnssec_ok: bool,
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

/// What is to be done for an answer.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing: it is there, with the label of its zone.
    Done(Reply, &'static str),
    /// Ask upstream.
    Forward,
    /// Ask upstream for where these aliases lead.
    Follow(Vec<Record>, Name),
}

impl Shim {
    /// Follows the views of `view`; nothing of it is kept between two questions.
    pub fn new(view: watch::Receiver<Arc<View>>, zones: Zones, forwarder: Forwarder, metrics: Metrics) -> Self {
        Self { view, zones, forwarder, metrics, turn: AtomicUsize::new(0) }
    }

    /// What can be said without asking anybody.
    pub(crate) fn look(&self, asked: &Asked) -> Step {
        let view = Arc::clone(&self.view.borrow());
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        match reply::from_view(&view, self.zones, &asked.question, turn) {
            Said::Reply(zone, reply) => Step::Done(reply, label(zone)),
            // Zone transfers and the server's own secrets are between the upstream and its operators.
            Said::Forward if !may_be_forwarded(&asked.question) => {
                Step::Done(Reply::code(ResponseCode::Refused), "forward")
            }
            Said::Forward => Step::Forward,
            Said::Follow(aliases, to) => Step::Follow(aliases, to),
        }
    }

    /// The answer, and the label of the zone that it came from.
    pub(crate) async fn ask(&self, asked: &Asked, step: Step) -> (Reply, &'static str) {
        match step {
            Step::Done(reply, zone) => (reply, zone),
            Step::Forward => (self.forward(asked, &asked.question).await, "forward"),
            Step::Follow(aliases, to) => {
                let next = Query::query(to, asked.question.query_type());
                let mut reply = self.forward(asked, &next).await;
                reply.answers.splice(0..0, aliases);
                // The whole is no more certain than its parts.
                reply.authentic_data = false;
                (reply, label(Zone::Cluster))
            }
        }
    }

    async fn forward(&self, asked: &Asked, question: &Query) -> Reply {
        let flags = Flags {
            recursion_desired: asked.recursion_desired,
            checking_disabled: asked.checking_disabled,
            dnssec_ok: asked.dnssec_ok,
        };
        match self.forwarder.ask(question, flags).await {
            Ok(answer) => from_upstream(answer, question.name()),
            Err(ForwardError::NoUpstream) => Reply { recursion_available: false, ..Reply::code(ResponseCode::Refused) },
            Err(error) => {
                tracing::debug!(name = %question.name(), %error, "not answered from upstream");
                Reply::code(ResponseCode::ServFail)
            }
        }
    }
}

fn may_be_forwarded(question: &Query) -> bool {
    let transfer = matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR);
    question.query_class() == DNSClass::IN && !transfer
}

fn label(zone: Zone) -> &'static str {
    match zone {
        Zone::Clusterset => "clusterset",
        Zone::Cluster => "cluster",
    }
}

/// The answer may have been fetched for a client that wrote the name in another case.
fn from_upstream(answer: Message, name: &Name) -> Reply {
    let named = |mut records: Vec<Record>| {
        records.iter_mut().filter(|record| record.name == *name).for_each(|record| record.name = name.clone());
        records
    };
    Reply {
        code: answer.metadata.response_code,
        authoritative: answer.metadata.authoritative,
        recursion_available: answer.metadata.recursion_available,
        authentic_data: answer.metadata.authentic_data,
        answers: named(answer.answers),
        authorities: answer.authorities,
        additionals: answer.additionals,
    }
}
