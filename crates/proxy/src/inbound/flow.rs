//! Connections for the application: CONNECT flows of peers, and plain text on the workload's own ports.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use http::{HeaderValue, StatusCode};
use mesh::{
    AuthorizationAction, AuthorizationRules, Denial, ExternalAuthorizer, ExternalAuthorizerProtocol, InboundDecision,
    InboundPolicy, Protocol, Reason, View,
};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::gate::{self, Pass};
use super::{APP_TIMEOUT, Admitted, Caller, Engine, Peer};
use crate::access::{ClosedBy, Record};
use crate::body;
use crate::copy::copy_reporting;
use crate::detect::{CLIENT_SILENCE, Rewind, Spoken, sniff};
use crate::fault::flag;
use crate::guard::{Facts, with_access};
use crate::hbone::Incoming;
use crate::headers::DENIAL;
use crate::listen::Accepted;
use crate::outbound::{Captured, IDLE, note_copy};
use crate::serve;

/// What is known of a connection before its bytes are carried.
pub(super) struct Connection {
    pub(super) caller: Caller,
    pub(super) admitted: Admitted,
    pub(super) record: Record,
    pub(super) view: Arc<View>,
}

impl Engine {
    /// A CONNECT of a peer.
    pub(super) async fn flow(self: Arc<Self>, incoming: Incoming, caller: Caller) {
        let authority = incoming.request.uri().authority().cloned();
        let Some((authority, port)) = authority.and_then(|authority| Some((authority.clone(), authority.port_u16()?)))
        else {
            return incoming.refuse(StatusCode::BAD_REQUEST, Vec::new());
        };
        let view = self.config.directory.view();
        let (decision, admitted) = self.admit(&view, &caller, port, false);
        let record = self.begin_flow(authority.to_string(), &view, &caller, decision);
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(denial) => {
                refuse(incoming, denial);
                return self.refused(record, denial, flag::NONE);
            }
        };
        let connection = Connection { caller, admitted, record, view };
        match connection.admitted.protocol {
            Protocol::Tcp | Protocol::TcpServerFirst => Box::pin(self.opaque_flow(incoming, connection)).await,
            _ => match incoming.accept(Vec::new()) {
                Ok(io) => self.connection(io, connection).await,
                Err(error) => tracing::debug!(%error, "a peer went away before its flow was accepted"),
            },
        }
    }

    /// A CONNECT to a port of opaque bytes: everything is decided before it is accepted, so that its peer learns why not.
    async fn opaque_flow(&self, incoming: Incoming, mut connection: Connection) {
        let pass = match self.guarded(&mut connection).await {
            Ok(pass) => pass,
            Err((denial, flag)) => {
                refuse(incoming, denial);
                return self.refused(connection.record, denial, flag);
            }
        };
        match self.dial(&connection.admitted).await {
            Ok(app) => match incoming.accept(Vec::new()) {
                Ok(io) => self.carry(io, app, connection.record, pass).await,
                Err(error) => tracing::debug!(%error, "a peer went away before its flow was accepted"),
            },
            Err(error) => {
                refuse(incoming, Denial::EndpointUnreachable);
                self.unreachable(connection.record, &error);
            }
        }
    }

    /// A connection in plain text to one of the workload's own ports.
    pub(super) async fn plain_connection(self: Arc<Self>, accepted: Accepted, local: Option<SocketAddr>, number: u16) {
        let Accepted { stream, permit, peer: source } = accepted;
        let view = self.config.directory.view();
        let caller = Caller { peer: Peer::Plain, source, dialled: local.map(|address| address.ip()) };
        let (decision, admitted) = self.admit(&view, &caller, number, false);
        let named = local.map(|address| address.to_string()).unwrap_or_default();
        let record = self.begin_flow(named, &view, &caller, decision);
        match admitted {
            Ok(admitted) => {
                let connection = Connection { caller, admitted, record, view };
                Box::pin(self.connection(stream, connection)).await;
            }
            Err(denial) => {
                stream.abort();
                drop(stream);
                self.refused(record, denial, flag::NONE);
            }
        }
        drop(permit);
    }

    fn begin_flow(&self, authority: String, view: &View, caller: &Caller, decision: InboundDecision) -> Record {
        let mut record = self.begin("tcp", authority, view, caller);
        Self::note(&mut record, decision);
        record
    }

    /// Carries an accepted connection as its port's protocol says.
    async fn connection<T: Captured>(self: Arc<Self>, mut io: T, connection: Connection) {
        match connection.admitted.protocol {
            protocol if protocol.is_http() => self.http(io, connection).await,
            Protocol::Auto => match sniff(&mut io, CLIENT_SILENCE).await {
                Ok(sniffed) if sniffed.spoken != Spoken::Opaque => {
                    self.http(Rewind::new(sniffed.first, io), connection).await;
                }
                Ok(sniffed) if sniffed.first.is_empty() && !sniffed.closed => self.silent(io, connection).await,
                Ok(sniffed) => self.opaque(Rewind::new(sniffed.first, io), connection).await,
                Err(error) => tracing::debug!(%error, "a connection failed"),
            },
            _ => self.opaque(io, connection).await,
        }
    }

    /// The client of an undeclared port waits: the application is dialled, and the first byte from either side decides.
    async fn silent<T: Captured>(self: Arc<Self>, mut io: T, mut connection: Connection) {
        let pass = match self.guarded(&mut connection).await {
            Ok(pass) => pass,
            Err((denial, flag)) => return self.silent_refused(io, connection, denial, flag).await,
        };
        let mut app = match self.dial(&connection.admitted).await {
            Ok(app) => app,
            Err(error) => {
                io.abort();
                return self.unreachable(connection.record, &error);
            }
        };
        let (mut of_client, mut of_app) = (BytesMut::with_capacity(1024), BytesMut::with_capacity(1024));
        let client_spoke = tokio::select! {
            read = io.read_buf(&mut of_client) => read.map(|_| true),
            read = app.read_buf(&mut of_app) => read.map(|_| false),
        };
        let of_client = of_client.freeze();
        match client_spoke {
            Err(error) => {
                io.abort();
                app.abort();
                tracing::debug!(%error, "a connection failed before its first byte");
            }
            Ok(true) if !of_client.is_empty() => {
                let mut io = Rewind::new(of_client, io);
                match sniff(&mut io, CLIENT_SILENCE).await {
                    Ok(sniffed) if sniffed.spoken != Spoken::Opaque => {
                        // Requests go over pooled connections; the one that was opened in vain just ends.
                        drop((app, pass));
                        self.http(Rewind::new(sniffed.first, io), connection).await;
                    }
                    Ok(sniffed) => self.carry(Rewind::new(sniffed.first, io), app, connection.record, pass).await,
                    Err(error) => tracing::debug!(%error, "a connection failed"),
                }
            }
            // The application spoke first, or one of the two ended: as it is.
            Ok(_) => self.carry(io, Rewind::new(of_app.freeze(), app), connection.record, pass).await,
        }
    }

    /// Nothing opaque may go to the application, so it is not dialled; what the client says may still be a request.
    async fn silent_refused<T: Captured>(
        self: Arc<Self>,
        mut io: T,
        connection: Connection,
        denial: Denial,
        flag: &'static str,
    ) {
        let mut first = BytesMut::with_capacity(1024);
        let spoke = tokio::time::timeout(self.config.limits.header_timeout, io.read_buf(&mut first)).await;
        if matches!(spoke, Ok(Ok(read)) if read > 0) {
            let mut io = Rewind::new(first.freeze(), io);
            return match sniff(&mut io, CLIENT_SILENCE).await {
                Ok(sniffed) if sniffed.spoken != Spoken::Opaque => {
                    self.http(Rewind::new(sniffed.first, io), connection).await;
                }
                _ => {
                    io.abort();
                    self.refused(connection.record, denial, flag);
                }
            };
        }
        io.abort();
        self.refused(connection.record, denial, flag);
    }

    async fn http<T: Captured>(self: Arc<Self>, io: T, connection: Connection) {
        let Connection { caller, admitted, view, .. } = connection;
        let (engine, number, client) = (self.clone(), admitted.port.number, caller.clone());
        let served = serve::serve(io, &self.config.limits, &self.config.life, move |request| {
            let (engine, caller) = (engine.clone(), client.clone());
            Box::pin(async move { engine.request(request.map(body::incoming), caller, Some(number)).await })
        });
        if let Some(why) = served.await {
            self.config.recorder.unreadable(self.begin("http", String::new(), &view, &caller), why);
        }
    }

    async fn opaque<T: Captured>(&self, io: T, mut connection: Connection) {
        let pass = match self.guarded(&mut connection).await {
            Ok(pass) => pass,
            Err((denial, flag)) => {
                io.abort();
                drop(io);
                return self.refused(connection.record, denial, flag);
            }
        };
        match self.dial(&connection.admitted).await {
            Ok(app) => self.carry(io, app, connection.record, pass).await,
            Err(error) => {
                io.abort();
                drop(io);
                self.unreachable(connection.record, &error);
            }
        }
    }

    /// Whether policies and the connection pool have room for an opaque connection; the record learns why.
    pub(super) async fn guarded(&self, connection: &mut Connection) -> Result<Option<Pass>, (Denial, &'static str)> {
        let Some(workload) = &connection.view.workload else { return Err((Denial::Draining, flag::NONE)) };
        let policy = &workload.config.inbound;
        let facts = connection.caller.facts(connection.admitted.port.number);
        let record = &mut connection.record;
        if connection.admitted.protocol == Protocol::Auto && evades_authorizer(policy, &facts) {
            let text = "an authorizer of requests must be asked, and this is none; hint: declare the port's protocol";
            record.reasons.push(Reason::Note { text: text.into() });
            return Err((Denial::Policy, flag::NONE));
        }
        match self.config.guard.admit_connection(policy, &facts).await {
            Ok(admission) => {
                record.reasons.extend(admission.reasons);
                record.audit = admission.audit;
            }
            Err(refusal) => {
                record.reasons.extend(refusal.reasons);
                record.audit = refusal.audit;
                return Err((refusal.denial, refusal.flag));
            }
        }
        let pool = policy.pool_of(connection.admitted.port.number);
        let pass = pool.map(|(pool, port)| self.gates.of(port).connection(pool)).transpose();
        pass.map_err(|_| (Denial::Overloaded, gate::OVERFLOW))
    }

    pub(super) async fn dial(&self, admitted: &Admitted) -> std::io::Result<TcpStream> {
        let stream = tokio::time::timeout(APP_TIMEOUT, self.config.dialer.connect(admitted.app)).await??;
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    async fn carry<A: Captured, B: Captured>(&self, mut io: A, mut app: B, mut record: Record, pass: Option<Pass>) {
        self.config.recorder.opened(&record);
        let report = |moved| self.config.recorder.progressed(&mut record, moved);
        let outcome = copy_reporting(&mut io, &mut app, IDLE, report).await;
        if outcome.error.is_some() {
            io.abort();
            app.abort();
        }
        drop((io, app, pass));
        note_copy(&mut record, &outcome);
        self.config.recorder.closed(record);
    }

    pub(super) fn refused(&self, mut record: Record, denial: Denial, flag: &'static str) {
        record.flags = flag;
        record.error = Some(denial.to_string());
        record.closed_by = ClosedBy::Us;
        record.retriable = denial.is_retriable();
        self.config.recorder.opened(&record);
        self.config.recorder.closed(record);
    }

    pub(super) fn unreachable(&self, mut record: Record, error: &std::io::Error) {
        record.flags = flag::UPSTREAM_FAILURE;
        record.error = Some(format!("the application cannot be reached: {error}"));
        record.closed_by = ClosedBy::Us;
        record.retriable = true;
        self.config.recorder.opened(&record);
        self.config.recorder.closed(record);
    }
}

/// Whether a CUSTOM policy whose authorizer knows nothing but requests is about a connection. Where a port is declared as
/// opaque the policy cannot be meant. Where the client's first bytes decide, it must not be left out: they may be a request
/// in a form that we do not know and the application does.
fn evades_authorizer(policy: &InboundPolicy, facts: &Facts) -> bool {
    let asks = |rules: &&Arc<AuthorizationRules>| {
        let http =
            |authorizer: &ExternalAuthorizer| matches!(authorizer.protocol, ExternalAuthorizerProtocol::Http { .. });
        !rules.dry_run && matches!(&rules.action, AuthorizationAction::Custom(authorizer) if http(authorizer))
    };
    // As a denial such a policy matches what it would ask about.
    let deny = |rules: &Arc<AuthorizationRules>| {
        Arc::new(AuthorizationRules { action: AuthorizationAction::Deny, ..AuthorizationRules::clone(rules) })
    };
    let authorization: Vec<_> = policy.authorization.iter().filter(asks).map(deny).collect();
    let policy = InboundPolicy { authorization, ..InboundPolicy::default() };
    with_access(facts, None::<&http::Request<()>>, None, |access| mesh::authorize(&policy, access).outcome.is_err())
}

/// Refuses a CONNECT; the peer reads the reason from the header.
pub(super) fn refuse(incoming: Incoming, denial: Denial) {
    let status = if denial.is_retriable() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::FORBIDDEN };
    incoming.refuse(status, vec![(DENIAL, HeaderValue::from_static(denial.as_str()))]);
}
