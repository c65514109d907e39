//! One flow of UDP datagrams of the workload: decided once, then carried to a sidecar as CONNECT-UDP, through an own
//! gateway if it is in another cluster, or as it is to a server without a sidecar.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh::RouteDecision;
use tokio::sync::mpsc;

use super::arrival::{Dialled, Way};
use super::connect::{Connected, Established, Upstream, note_server};
use super::exchange::{Origin, Server};
use super::stream::authority_of;
use super::{Engine, Outbound};
use crate::access::{ClosedBy, Record, Reporter};
use crate::copy::Moved;
use crate::fault::{Fault, flag};
use crate::udp::{self, Counts, Deliver, End, Local};

/// How long datagrams to a place that was refused are dropped before it is asked again, so that a flood of them makes no
/// flood of attempts.
const REFUSED_FOR: Duration = Duration::from_secs(1);

impl Outbound {
    /// Carries the datagrams of one flow until `from` closes, the server's end ends it, or none moves for [`udp::IDLE`].
    /// When it returns, `from` is closed: a later datagram begins another flow.
    pub async fn datagrams(&self, from: mpsc::Receiver<Bytes>, to: Deliver, dialled: Dialled) {
        let way = Way::Captured(Arc::new(Dialled { udp: true, ..dialled }));
        let host = way.named();
        let decision = self.0.decide_plain(&host, way.port(), &way).await;
        let mut record = Record::begin(Reporter::Source, "udp", authority_of(&host, way.port()));
        way.decided(&mut record, &decision);
        record.source = self.0.source(&way);
        record.client(way.source(), None);
        let mut local = Local::Queue(from, to);
        match Box::pin(self.0.establish(&decision, &host, &way)).await {
            Ok(Established { connected, chosen, permit, attempts }) => {
                record.attempts = attempts;
                self.0.exchange_datagrams(&mut local, connected, record).await;
                drop((chosen, permit));
            }
            Err(fault) => {
                record.flags = if fault.flag == flag::NONE { flag::NO_UPSTREAM } else { fault.flag };
                record.error = Some(fault.message);
                record.closed_by = ClosedBy::Us;
                record.retriable = true;
                self.0.config.recorder.opened(&record);
                self.0.config.recorder.closed(record);
                tokio::time::sleep(REFUSED_FOR).await;
            }
        }
    }
}

impl Engine {
    async fn exchange_datagrams(&self, local: &mut Local, connected: Connected, mut record: Record) {
        let Connected { upstream, server, hold } = connected;
        note_server(&mut record, server);
        self.config.recorder.opened(&record);
        let counts = Counts::default();
        let report = |counts: &Counts| {
            let moved = Moved { a_to_b: counts.sent_bytes(), b_to_a: counts.received_bytes() };
            self.config.recorder.progressed(&mut record, moved);
        };
        let end = match upstream {
            Upstream::Beside(io, mut datagrams) => {
                udp::carry_sealed(local, (io, &mut datagrams), udp::IDLE, &counts, report).await
            }
            upstream => udp::carry(local, upstream, udp::IDLE, &counts, report).await,
        };
        drop(hold);
        record.bytes_received = counts.sent_bytes();
        record.bytes_sent = counts.received_bytes();
        let (closed_by, error) = match end {
            End::Local(error) => (ClosedBy::Downstream, error),
            End::Stream(error) => (ClosedBy::Upstream, error),
            End::Idle => (ClosedBy::Us, None),
        };
        record.closed_by = closed_by;
        record.error = error.map(|error| error.to_string());
        self.config.recorder.datagrams(&record, &counts);
        self.config.recorder.closed(record);
    }

    /// A way to a server without a sidecar. Nothing says whether anybody listens there.
    pub(super) async fn udp_origin(&self, decision: &RouteDecision, origin: Origin<'_>) -> Result<Connected, Fault> {
        let Origin { host, addresses, party } = origin;
        let address = addresses.first().ok_or_else(|| Fault::connect(format!("{host} has no address")))?;
        let socket = self
            .config
            .dialer
            .connect_udp(*address)
            .await
            .map_err(|error| Fault::connect(format!("{address}: {error}")))?;
        let (near, far) = tokio::io::duplex(64 * 1024);
        let carrying = tokio::spawn(async move {
            udp::carry(&mut Local::Socket(socket), far, udp::IDLE, &Counts::default(), |_| {}).await;
        });
        let hold = tokio_util::task::AbortOnDropHandle::new(carrying);
        tracing::debug!(revision = decision.revision, %address, "datagrams go to a server without a sidecar");
        let server = Server { party, upstream: address.to_string(), ..Server::default() };
        Ok(Connected { upstream: Upstream::Direct(near), server, hold: Box::new(hold) })
    }
}
