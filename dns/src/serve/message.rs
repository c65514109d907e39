//! From the bytes of a question to the bytes of its answer.

use std::time::Instant;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};

use crate::forward::UDP_PAYLOAD;
use crate::reply::Reply;
use crate::shim::{Asked, Shim, Step};

/// What a client without EDNS takes over UDP (RFC 1035).
const UDP_PLAIN: u16 = 512;
/// Bytes of a header.
const HEADER: usize = 12;

/// What a question came over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Datagrams: answers are cut to what the client takes.
    Udp,
    /// A connection.
    Tcp,
}

impl Over {
    fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// How far an answer is.
pub(super) enum Begun {
    /// Nobody is answered: an answer would go to whom it is not for, or into a circle.
    Ignored,
    /// Done.
    Answered(Vec<u8>),
    /// Upstreams are to be asked.
    Waiting(Box<Waiting>),
}

/// A question that waits for upstreams.
pub(super) struct Waiting {
    question: Question,
    asked: Asked,
    step: Step,
}

struct Question {
    message: Message,
    over: Over,
    begun: Instant,
}

impl Shim {
    /// Answers a message; `None` for what is no question at all.
    pub async fn handle(&self, bytes: &[u8], over: Over) -> Option<Vec<u8>> {
        match self.begin(bytes, over) {
            Begun::Ignored => None,
            Begun::Answered(bytes) => Some(bytes),
            Begun::Waiting(waiting) => Some(self.finish(*waiting).await),
        }
    }

    /// What can be said without waiting for anybody.
    pub(super) fn begin(&self, bytes: &[u8], over: Over) -> Begun {
        let begun = Instant::now();
        // An answer to an answer may be answered again, and so on.
        if bytes.len() < HEADER || bytes[2] & 0x80 != 0 {
            return Begun::Ignored;
        }
        let message = match Message::from_vec(bytes) {
            Ok(message) => message,
            Err(_) => {
                let id = u16::from_be_bytes([bytes[0], bytes[1]]);
                let message = Message::new(id, MessageType::Query, OpCode::Query);
                let question = Question { message, over, begun };
                return Begun::Answered(self.encode(&question, Reply::code(ResponseCode::FormErr), "invalid"));
            }
        };
        let question = Question { message, over, begun };
        let asked = match refuse(&question.message) {
            Err(code) => return Begun::Answered(self.encode(&question, Reply::code(code), "invalid")),
            Ok(asked) => asked,
        };
        match self.look(&asked) {
            Step::Done(reply, zone) => Begun::Answered(self.encode(&question, reply, zone)),
            step => Begun::Waiting(Box::new(Waiting { question, asked, step })),
        }
    }

    pub(super) async fn finish(&self, waiting: Waiting) -> Vec<u8> {
        let Waiting { question, asked, step } = waiting;
        let (reply, zone) = self.ask(&asked, step).await;
        self.encode(&question, reply, zone)
    }

    /// Too many wait already.
    pub(super) fn give_up(&self, waiting: Waiting) -> Vec<u8> {
        self.encode(&waiting.question, Reply::code(ResponseCode::ServFail), "forward")
    }

    fn encode(&self, question: &Question, reply: Reply, zone: &'static str) -> Vec<u8> {
        let Question { message, over, begun } = question;
        let edns = response_edns(message);
        let mut response = Message::response(message.metadata.id, message.metadata.op_code);
        let metadata = &mut response.metadata;
        metadata.recursion_desired = message.metadata.recursion_desired;
        metadata.checking_disabled = message.metadata.checking_disabled;
        metadata.authoritative = reply.authoritative;
        metadata.recursion_available = reply.recursion_available;
        metadata.authentic_data = reply.authentic_data;
        // Only EDNS has room for codes above 15.
        metadata.response_code =
            if reply.code.high() > 0 && edns.is_none() { ResponseCode::ServFail } else { reply.code };
        response.add_queries(message.queries.iter().cloned());
        response.answers = reply.answers;
        response.authorities = reply.authorities;
        response.additionals = reply.additionals;
        let limit = match over {
            Over::Udp => edns.as_ref().map_or(UDP_PLAIN, Edns::max_payload),
            Over::Tcp => u16::MAX,
        };
        response.edns = edns;
        self.metrics.record(zone, over.as_str(), response.metadata.response_code, begun.elapsed());
        fitting(&response, usize::from(limit))
    }
}

/// The whole message if it fits, else one that says so.
fn fitting(response: &Message, limit: usize) -> Vec<u8> {
    let whole = response.to_vec().ok().filter(|bytes| bytes.len() <= limit);
    whole.unwrap_or_else(|| {
        // Addresses of targets and the like may be left out (RFC 2181, section 9).
        let mut less = response.clone();
        less.additionals.clear();
        let short = less.to_vec().ok().filter(|bytes| bytes.len() <= limit && !response.additionals.is_empty());
        short.unwrap_or_else(|| response.truncate().to_vec().unwrap_or_default())
    })
}

/// What is no question for us, by its header alone.
fn refuse(message: &Message) -> Result<Asked, ResponseCode> {
    if message.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    if message.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        return Err(ResponseCode::BADVERS);
    }
    let [question] = message.queries.as_slice() else { return Err(ResponseCode::FormErr) };
    Ok(Asked {
        question: question.clone(),
        recursion_desired: message.metadata.recursion_desired,
        checking_disabled: message.metadata.checking_disabled,
        dnssec_ok: message.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok),
    })
}

/// The OPT record of the response if the request had one; options that we do not know are left out, as is right
/// (RFC 6891, section 6.1.2).
fn response_edns(message: &Message) -> Option<Edns> {
    let asked = message.edns.as_ref()?;
    let mut edns = Edns::new();
    edns.set_version(0)
        .set_max_payload(asked.max_payload().clamp(UDP_PLAIN, UDP_PAYLOAD))
        .set_dnssec_ok(asked.flags().dnssec_ok);
    Some(edns)
}
