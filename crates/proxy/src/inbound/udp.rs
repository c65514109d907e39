//! CONNECT-UDP flows of peers (RFC 9298): datagrams for a UDP port of the application.

use http::{HeaderValue, StatusCode};
use tokio::net::UdpSocket;

use super::flow::{Connection, refuse};
use super::{Caller, Engine};
use crate::access::{ClosedBy, Record};
use crate::beside::Datagrams;
use crate::copy::Moved;
use crate::fault::flag;
use crate::hbone::{self, Incoming};
use crate::udp::{self, Counts, End, Local};

impl Engine {
    /// Carries the datagrams of one flow. Everything is decided before it is accepted, so that its peer learns why not.
    pub(super) async fn udp_flow(&self, incoming: Incoming, caller: Caller, datagrams: Option<Datagrams>) {
        let authority = incoming.request.uri().authority().cloned();
        let Some((authority, port)) = authority.and_then(|authority| Some((authority.clone(), authority.port_u16()?)))
        else {
            return incoming.refuse(StatusCode::BAD_REQUEST, Vec::new());
        };
        let view = self.config.directory.view();
        let (decision, admitted) = self.admit(&view, &caller, port, true);
        let mut record = self.begin("udp", authority.to_string(), &view, &caller);
        Self::note(&mut record, decision);
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(denial) => {
                refuse(incoming, denial);
                return self.refused(record, denial, flag::NONE);
            }
        };
        let app = admitted.app;
        let mut connection = Connection { caller, admitted, record, view };
        let pass = match self.guarded(&mut connection).await {
            Ok(pass) => pass,
            Err((denial, flag)) => {
                refuse(incoming, denial);
                return self.refused(connection.record, denial, flag);
            }
        };
        let socket = match self.config.dialer.connect_udp(app).await {
            Ok(socket) => socket,
            Err(error) => {
                refuse(incoming, mesh::Denial::EndpointUnreachable);
                return self.unreachable(connection.record, &error);
            }
        };
        let capsules = (hbone::CAPSULE_PROTOCOL, HeaderValue::from_static("?1"));
        if let Ok(io) = incoming.accept(vec![capsules]) {
            self.carry_datagrams(socket, (io, datagrams), connection.record).await;
        }
        drop(pass);
    }

    async fn carry_datagrams(
        &self,
        socket: UdpSocket,
        (io, datagrams): (hbone::H2Io, Option<Datagrams>),
        mut record: Record,
    ) {
        self.config.recorder.opened(&record);
        let counts = Counts::default();
        let report = |counts: &Counts| {
            let moved = Moved { a_to_b: counts.received_bytes(), b_to_a: counts.sent_bytes() };
            self.config.recorder.progressed(&mut record, moved);
        };
        let mut local = Local::Socket(socket);
        let end = match datagrams {
            Some(mut datagrams) => {
                udp::carry_sealed(&mut local, (io, &mut datagrams), udp::IDLE, &counts, report).await
            }
            None => udp::carry(&mut local, io, udp::IDLE, &counts, report).await,
        };
        record.bytes_received = counts.received_bytes();
        record.bytes_sent = counts.sent_bytes();
        let (closed_by, error) = match end {
            End::Local(error) => (ClosedBy::Upstream, error),
            End::Stream(error) => (ClosedBy::Downstream, error),
            End::Idle => (ClosedBy::Us, None),
        };
        record.closed_by = closed_by;
        record.error = error.map(|error| error.to_string());
        self.config.recorder.datagrams(&record, &counts);
        self.config.recorder.closed(record);
    }
}
