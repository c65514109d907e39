//! Dialling: to a sidecar of the own cluster, and through an own gateway to a sidecar of another cluster.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use api::tunnel::{Accepted, GroupSelector, Header, Mode, Reply, reply};
use dial::Dialer;
use http::{HeaderMap, HeaderName};
use identity::{Credentials, PeerIdentity, PeerPolicy};
use mesh::{
    ClusterName, Denial, Failure, GroupKey, LocalGateway, MTLS_PORT, ServiceName, SpiffeId, TcpKeepAlive, View,
};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::gateways::{Gateways, Hold};
use super::origin::keep;
use crate::access::Via;
use crate::beside::{self, Datagrams, MaybeBeside};
use crate::body::chain;
use crate::fault::Fault;
use crate::hbone::{AnswerError, H2Io};
use crate::sealed::End;
use crate::tunnel::{reply_of, to_header_value};

/// How long one gateway may take before another is asked beside it.
const GATEWAY_PATIENCE: Duration = Duration::from_secs(2);

/// A sidecar of the own cluster: where it is and who it must be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LocalKey {
    /// Its mTLS port.
    pub address: SocketAddr,
    /// The identity that it must prove.
    pub expected: SpiffeId,
}

impl LocalKey {
    /// For an endpoint whose application listens on `address`.
    pub fn of(address: SocketAddr, expected: &SpiffeId) -> Self {
        Self { address: SocketAddr::new(address.ip(), MTLS_PORT), expected: expected.clone() }
    }
}

/// A group of servers in another cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RemoteKey {
    /// The cluster.
    pub cluster: ClusterName,
    /// The service.
    pub service: ServiceName,
    /// The service port.
    pub port: u16,
    /// Whether the port is one of UDP.
    pub udp: bool,
    /// The group.
    pub group: GroupKey,
    /// Only this pod of it.
    pub pod: Option<String>,
    /// Its servers have no sidecars: a gateway there speaks for them.
    pub unmeshed: bool,
}

/// Opens mTLS to a sidecar of the own cluster; `keep_alive` sets how the system probes the connection.
pub async fn local(
    dialer: Dialer,
    credentials: &Credentials,
    key: &LocalKey,
    timeout: Duration,
    keep_alive: Option<&TcpKeepAlive>,
) -> Result<(TlsStream<TcpStream>, PeerIdentity), Fault> {
    identified(credentials).await?;
    let whom = key.address;
    let dial = async {
        let connected = dialer.connect(key.address).await;
        let stream = connected.map_err(|error| Fault::connect(format!("{whom}: {error}")))?;
        let _ = stream.set_nodelay(true);
        if let Some(keep_alive) = keep_alive {
            keep(&stream, keep_alive).map_err(|error| Fault::connect(format!("{whom}: {error}")))?;
        }
        let config = credentials
            .client_config(PeerPolicy::only(key.expected.clone()), &[b"h2"])
            .map_err(|error| Fault::connect(format!("{whom}: {}", chain(&error))))?;
        identity::connect_tls(config, stream, timeout)
            .await
            .map_err(|error| Fault::connect(format!("{whom}: {}", chain(&error))))
    };
    tokio::time::timeout(timeout, dial).await.map_err(|_| Fault::connect_timeout(&whom.to_string()))?
}

/// How long a request waits for the sidecar's first certificate.
const IDENTITY_TIMEOUT: Duration = Duration::from_secs(3);

/// The stream to a sidecar of another cluster: inner mTLS on a tunnelled flow.
pub type RemoteIo = TlsStream<MaybeBeside<H2Io>>;

/// An open stream to a sidecar of another cluster.
pub struct Remote {
    /// The stream.
    pub io: RemoteIo,
    /// What goes beside it, for a port of UDP.
    pub datagrams: Option<Datagrams>,
    /// Who the server proved to be.
    pub peer: PeerIdentity,
    /// The gateways and the path.
    pub via: Via,
    /// The pod.
    pub endpoint: String,
    /// To be kept as long as the stream.
    pub hold: Hold,
    /// Cancelled when the path between the gateways is dead.
    pub lost: Arc<CancellationToken>,
}

/// What is asked of the gateways.
pub struct RemoteRequest<'a> {
    /// Where to.
    pub key: &'a RemoteKey,
    /// Of which the server must prove one.
    pub expected: &'a BTreeSet<SpiffeId>,
    /// How long it may take altogether.
    pub timeout: Duration,
    /// Gives the token of a path, by the own gateway's name and the path's.
    pub ride: &'a (dyn Fn(&str, &str) -> Arc<CancellationToken> + Sync),
}

/// Opens inner mTLS to a server of another cluster. The next gateway is tried when one cannot be reached or has no way, and
/// beside it when one takes long, which may be the way's length as well as the gateway's fault: the first answer is taken.
/// That is always safe, for no byte of a request leaves before.
pub async fn remote(
    credentials: &Credentials,
    gateways: &Gateways,
    view: &View,
    request: &RemoteRequest<'_>,
) -> Result<Remote, Fault> {
    identified(credentials).await?;
    let order = gateways.order(view);
    let mut asked: Vec<Asked<'_, Result<Remote, Fault>>> = Vec::new();
    let mut last: Option<Fault> = None;
    let mut left = order.iter();
    let over = tokio::time::sleep(request.timeout);
    tokio::pin!(over);
    loop {
        // Comes here whenever the next one is due: at first, after a failure, and when patience is over.
        match left.next() {
            Some(gateway) => {
                let attempt = through(credentials, gateways, gateway, request, request.timeout);
                asked.push(Asked { gateway, answer: Box::pin(attempt) });
            }
            None if asked.is_empty() => {
                let none = || Fault::denied(Denial::ClusterUnreachable, "no gateway of the own cluster is known");
                return Err(last.unwrap_or_else(none));
            }
            None => {}
        }
        let (gateway, outcome) = tokio::select! {
            answered = first_answer(&mut asked) => answered,
            () = tokio::time::sleep(GATEWAY_PATIENCE), if left.len() > 0 => continue,
            () = over.as_mut() => {
                asked.iter().for_each(|it| gateways.set_aside(it.gateway));
                let names: Vec<_> = asked.iter().map(|it| it.gateway.name.as_str()).collect();
                return Err(Fault::connect_timeout(&format!("{} through {}", request.key.cluster, names.join(", "))));
            }
        };
        let fault = match outcome {
            Ok((remote, earlier)) => {
                asked.iter().take(earlier).for_each(|it| gateways.set_aside(it.gateway));
                return Ok(remote);
            }
            Err(fault) => fault,
        };
        tracing::debug!(gateway = gateway.name, %fault, "a gateway did not carry the flow");
        if !fault.denial.is_none_or(Denial::is_retriable) {
            return Err(fault);
        }
        // What a gateway says of the way tells more than that another one is gone.
        if fault.denial.is_some() || last.as_ref().is_none_or(|last| last.denial.is_none()) {
            last = Some(fault);
        }
    }
}

/// A gateway that was asked for a flow and has not answered.
struct Asked<'a, T> {
    gateway: &'a Arc<LocalGateway>,
    answer: Pin<Box<dyn Future<Output = T> + Send + 'a>>,
}

/// Takes out whoever answers first. A success says how many of those that are left were asked before.
async fn first_answer<'a, T>(
    asked: &mut Vec<Asked<'a, Result<T, Fault>>>,
) -> (&'a Arc<LocalGateway>, Result<(T, usize), Fault>) {
    std::future::poll_fn(|context| {
        for index in 0..asked.len() {
            if let Poll::Ready(outcome) = asked[index].answer.as_mut().poll(context) {
                let gateway = asked.remove(index).gateway;
                return Poll::Ready((gateway, outcome.map(|it| (it, index))));
            }
        }
        Poll::Pending
    })
    .await
}

/// Waits a moment for the own certificate: without one every peer would refuse, and be blamed for it.
async fn identified(credentials: &Credentials) -> Result<(), Fault> {
    if credentials.svid().is_some() {
        return Ok(());
    }
    tokio::time::timeout(IDENTITY_TIMEOUT, credentials.ready()).await.map_err(|_| Fault {
        // No other target would do better.
        failure: Failure::Timeout,
        ..Fault::connect("this sidecar has no certificate yet: its agent has not answered")
    })
}

async fn through(
    credentials: &Credentials,
    gateways: &Gateways,
    gateway: &Arc<LocalGateway>,
    request: &RemoteRequest<'_>,
    timeout: Duration,
) -> Result<Remote, Fault> {
    let key = request.key;
    let whom = format!("{} in {} through {}", key.service, key.cluster, gateway.name);
    let header = to_header_value(&header(key, credentials))
        .map_err(|error| Fault::connect(format!("{whom}: {}", chain(&error))))?;
    let headers = vec![(HeaderName::from_static(api::TUNNEL_HEADER), header)];
    let authority = format!("{}:{}", key.service.clusterset_host(), key.port);
    let tunnel = gateways.open(gateway, &authority, headers, timeout).await?;
    let config = credentials
        .client_config(PeerPolicy::Exactly(request.expected.clone()), &[b"h2"])
        .map_err(|error| Fault::connect(format!("{whom}: {}", chain(&error))))?;
    let (io, raw) = match key.udp {
        true => {
            let (io, raw) = beside::split(tunnel.connecting.io);
            (MaybeBeside::Beside(io), Some(raw))
        }
        false => (MaybeBeside::Alone(tunnel.connecting.io), None),
    };
    // The client hello leaves at once; the answer and the server hello race.
    let handshake = identity::connect_tls(config, io, timeout);
    let answer = tunnel.connecting.answer;
    tokio::pin!(handshake, answer);
    let mut lost = None;
    let (shaken, parts) = tokio::select! {
        parts = answer.as_mut() => {
            let parts = parts.map_err(|error| refusal(&error, &whom))?;
            let lost = lost.insert((request.ride)(&gateway.name, &accepted(&parts.headers).path));
            let shaken = tokio::select! {
                shaken = handshake => shaken,
                // The server hello will not come, or so late that another way is better.
                () = lost.cancelled() => return Err(way_lost(&whom)),
            };
            (shaken, parts)
        }
        shaken = handshake.as_mut() => match shaken {
            Ok(shaken) => (Ok(shaken), answer.await.map_err(|error| refusal(&error, &whom))?),
            // The handshake breaks when the gateway refuses; the answer tells why.
            Err(error) => match tokio::time::timeout(Duration::from_millis(200), answer).await {
                Ok(Err(answer)) => return Err(refusal(&answer, &whom)),
                _ => (Err(error), http::Response::new(()).into_parts().0),
            },
        },
    };
    let (io, peer) = shaken.map_err(|error| Fault::connect(format!("{whom}: {}", chain(&error))))?;
    let export = |output, label: &[u8]| io.get_ref().1.export_keying_material(output, label, None);
    let datagrams = raw.map(|raw| raw.seal(End::Client, export)).transpose();
    let datagrams = datagrams.map_err(|error| Fault::connect(format!("{whom}: {error}")))?;
    let accepted = accepted(&parts.headers);
    let lost = lost.unwrap_or_else(|| (request.ride)(&gateway.name, &accepted.path));
    let via = Via { source_gateway: gateway.name.clone(), gateway: accepted.gateway, path: accepted.path };
    let mut hold = tunnel.hold;
    hold.usable_for_ms(accepted.usable_for_ms);
    Ok(Remote { io, datagrams, peer, via, endpoint: accepted.endpoint, hold, lost })
}

/// The path between the gateways went down before anything of a request or flow was sent: another way is asked for.
pub(crate) fn way_lost(whom: &str) -> Fault {
    Fault::denied(Denial::ClusterUnreachable, format!("{whom}: the path went down"))
}

/// What a gateway says of a flow that it carries.
fn accepted(headers: &HeaderMap) -> Accepted {
    match reply_of(headers).and_then(|reply| reply.reply) {
        Some(reply::Reply::Accepted(accepted)) => accepted,
        _ => Accepted::default(),
    }
}

fn header(key: &RemoteKey, credentials: &Credentials) -> Header {
    Header {
        version: 1,
        namespace: key.service.namespace().to_string(),
        service: key.service.name().to_owned(),
        port: u32::from(key.port),
        cluster: key.cluster.to_string(),
        group: Some(GroupSelector {
            service_account: key.group.service_account.clone(),
            labels: key.group.labels.clone().into_iter().collect(),
            locality: key.group.locality.clone(),
        }),
        pod: key.pod.clone().unwrap_or_default(),
        mode: if key.unmeshed { Mode::Plain } else { Mode::Mesh }.into(),
        source: credentials.svid().map(|svid| svid.id().to_string()).unwrap_or_default(),
        traceparent: String::new(),
        udp: key.udp,
    }
}

/// Why a gateway did not carry a flow; its reason travels in a header of the answer.
fn refusal(error: &AnswerError, whom: &str) -> Fault {
    if let AnswerError::Refused(parts) = error
        && let Some(Reply { reply: Some(reply::Reply::Denied(denied)) }) = reply_of(&parts.headers)
        && let Some(denial) = Denial::from_wire(&denied.reason)
    {
        let message = format!("{whom}: {} denied it ({}): {}", denied.by, denial, denied.message);
        return Fault::denied(denial, message);
    }
    Fault::from_connect(error, whom)
}
