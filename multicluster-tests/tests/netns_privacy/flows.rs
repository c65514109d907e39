//! Which flows there are between clusters and at a gateway, and that each is what it may be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fleet::network::NODE_ADDRESS;
use fleet::plan::{ClusterPlan, Plan, port};
use proxy::capsule::TLS_FIRST;

use super::capture::Captured;
use super::packet::{End, Frame, Packet, parse};
use super::quic;
use super::search::Search;
use super::tls::{Hello, Streams, capsules, records};

/// A kind of flow; TLS over TCP unless it says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Gateway to gateway, QUIC.
    Quic,
    /// Gateway to gateway, the fallback on TCP.
    Tunnel,
    /// Agent to hub.
    Hub,
    /// A gateway to its agent.
    Agent,
    /// A sidecar to its gateway.
    Hbone,
    /// A gateway to a sidecar: a meshed flow.
    Meshed,
    /// The management namespace to a gateway's admin listener: plain text, of the fleet's operator.
    Admin,
}

/// What is readable of flows that are ciphertext.
#[derive(Default)]
struct Readable {
    hellos: BTreeMap<Kind, Vec<Hello>>,
    /// How many sealed datagrams are beside the TLS of flows of UDP.
    sealed: BTreeMap<Kind, usize>,
}

/// What a capture shows.
struct Seen<'a> {
    search: &'a Search,
    kinds: BTreeMap<Kind, usize>,
    neighbours: usize,
    streams: Streams,
    quic: quic::Reader,
    problems: BTreeSet<String>,
}

impl<'a> Seen<'a> {
    fn new(search: &'a Search) -> Self {
        Self {
            search,
            kinds: BTreeMap::new(),
            neighbours: 0,
            streams: Streams::default(),
            quic: quic::Reader::new(),
            problems: BTreeSet::new(),
        }
    }

    /// Takes a capture; every frame must be of a kind.
    fn take(&mut self, captured: &Captured, classify: &dyn Fn(&Frame<'_>) -> Option<Kind>) {
        for bytes in &captured.frames {
            self.search.none_in(bytes, &captured.name);
            let frame = parse(captured.link, bytes);
            match (&frame, classify(about(&frame))) {
                (Frame::Neighbours, _) => self.neighbours += 1,
                (_, None) => drop(self.problems.insert(format!("{}: {}", captured.name, describe(&frame)))),
                (_, Some(kind)) => {
                    *self.kinds.entry(kind).or_default() += 1;
                    self.keep(&frame, kind, &captured.name);
                }
            }
        }
    }

    fn keep(&mut self, frame: &Frame<'_>, kind: Kind, name: &str) {
        match frame {
            Frame::Tcp(packet, segment) => self.streams.push(packet, *segment),
            Frame::Udp(packet) if kind == Kind::Quic => {
                if let Err(why) = self.quic.push(packet) {
                    self.problems.insert(format!("{name}: {}: {why}", describe(frame)));
                }
            }
            _ => {}
        }
    }

    /// Fails unless all of it is ciphertext.
    fn check(&self, classify: &dyn Fn(&Frame<'_>) -> Option<Kind>) -> Readable {
        assert!(self.problems.is_empty(), "{:#?}", self.problems);
        let Readable { mut hellos, mut sealed } = Readable::default();
        for ((from, to), stream) in self.streams.iter() {
            let place = format!("{from:?} -> {to:?}");
            let packet = Packet { from: *from, to: *to, payload: &[] };
            let kind =
                classify(&Frame::Tcp(packet, super::packet::Segment { sequence: 0, syn: false })).expect("classified");
            let (bytes, whole) = stream.bytes();
            self.search.none_in(&bytes, &place);
            // What began before the capture begins in the middle of a record.
            if kind == Kind::Admin || !stream.begins {
                continue;
            }
            assert!(whole, "{place}: a segment is missing");
            let readable = match bytes.first() {
                Some(&TLS_FIRST) => capsules(&bytes),
                _ => Ok((bytes, 0)),
            };
            let said = readable.and_then(|(tls, beside)| {
                *sealed.entry(kind).or_default() += beside;
                records(&tls)
            });
            let said = said.unwrap_or_else(|why| panic!("{kind:?} {place}: {why}"));
            hellos.entry(kind).or_default().extend(said);
        }
        self.quic.decrypted.iter().for_each(|plain| self.search.none_in(plain, "a decrypted Initial packet"));
        let quic = self.quic.hellos().into_iter().map(|hello| hello.expect("Initial packets carry hellos"));
        hellos.entry(Kind::Quic).or_default().extend(quic);
        for (kind, hellos) in &hellos {
            let named: Vec<_> = hellos.iter().filter(|hello| hello.server_name.is_some()).collect();
            assert!(named.is_empty(), "{kind:?}: a server name: {named:?}");
            let alpn: BTreeSet<_> =
                hellos.iter().flat_map(|hello| &hello.alpn).map(|name| String::from_utf8_lossy(name)).collect();
            let clients = hellos.iter().filter(|hello| hello.client).count();
            println!(
                "{kind:?}: {clients} clients' and {} servers' hellos, no name; ALPN {alpn:?}",
                hellos.len() - clients
            );
        }
        println!(
            "frames {:?}, neighbours {}, QUIC: {} Initial packets decrypted, {} protected",
            self.kinds,
            self.neighbours,
            self.quic.decrypted.len(),
            self.quic.protected
        );
        println!("sealed datagrams beside TLS: {sealed:?}");
        Readable { hellos, sealed }
    }
}

/// What an ICMP error is about; anything else itself.
fn about<'f, 'b>(frame: &'f Frame<'b>) -> &'f Frame<'b> {
    match frame {
        Frame::Error(inner) => about(inner),
        other => other,
    }
}

fn describe(frame: &Frame<'_>) -> String {
    match frame {
        Frame::Tcp(packet, _) => format!("tcp {:?} -> {:?}", packet.from, packet.to),
        Frame::Udp(packet) => format!("udp {:?} -> {:?}", packet.from, packet.to),
        Frame::Error(inner) => format!("an error about {}", describe(inner)),
        other => format!("{other:?}"),
    }
}

/// Whether one of the two ends is in `servers` at a port, and the other in `clients`.
fn either(packet: &Packet<'_>, clients: &BTreeSet<IpAddr>, servers: &BTreeSet<IpAddr>, port: u16) -> bool {
    let is = |client: End, server: End| clients.contains(&client.0) && servers.contains(&server.0) && server.1 == port;
    is(packet.from, packet.to) || is(packet.to, packet.from)
}

fn all(addresses: impl IntoIterator<Item = std::net::Ipv4Addr>) -> BTreeSet<IpAddr> {
    addresses.into_iter().map(IpAddr::from).collect()
}

fn gateways(cluster: &ClusterPlan) -> impl Iterator<Item = std::net::Ipv4Addr> + '_ {
    cluster.gateways.iter().map(|gateway| gateway.ip)
}

/// Gateways of different clusters.
fn tunnel(plan: &Plan, frame: &Frame<'_>) -> Option<Kind> {
    let of = |cluster: &ClusterPlan| all(gateways(cluster));
    let apart = |packet: &Packet<'_>| {
        plan.clusters.iter().any(|one| {
            let others = plan.clusters.iter().filter(|other| other.name != one.name);
            others.into_iter().any(|other| either(packet, &of(one), &of(other), port::QUIC))
        })
    };
    match frame {
        Frame::Udp(packet) if apart(packet) => Some(Kind::Quic),
        Frame::Tcp(packet, _) if apart(packet) => Some(Kind::Tunnel),
        _ => None,
    }
}

/// The captures between clusters.
pub(crate) struct Between<'a> {
    plan: &'a Plan,
    seen: Seen<'a>,
}

impl<'a> Between<'a> {
    pub(crate) fn new(plan: &'a Plan, search: &'a Search) -> Self {
        Self { plan, seen: Seen::new(search) }
    }

    pub(crate) fn take(&mut self, captured: &Captured) {
        self.seen.take(captured, &|frame| Self::classify(self.plan, frame));
    }

    fn classify(plan: &Plan, frame: &Frame<'_>) -> Option<Kind> {
        let hub = all(plan.hub.iter().map(|node| node.ip));
        let agents = all(plan.clusters.iter().map(|cluster| cluster.agent));
        let to_hub = |packet| [port::HUB_API, port::HUB_JOIN].iter().any(|port| either(packet, &agents, &hub, *port));
        match frame {
            Frame::Tcp(packet, _) if to_hub(packet) => Some(Kind::Hub),
            other => tunnel(plan, other),
        }
    }

    /// Gateways and agents only, and nothing to read.
    pub(crate) fn check(&self) {
        let Readable { hellos, .. } = self.seen.check(&|frame| Self::classify(self.plan, frame));
        for kind in [Kind::Quic, Kind::Tunnel, Kind::Hub] {
            let hellos = hellos.get(&kind).map(Vec::as_slice).unwrap_or_default();
            assert!(
                hellos.iter().any(|hello| hello.client) && hellos.iter().any(|hello| !hello.client),
                "{kind:?}: no hellos"
            );
        }
        assert!(self.seen.quic.protected > 0);
    }
}

/// The capture of everything that a gateway sends and receives.
pub(crate) struct Inside<'a> {
    plan: &'a Plan,
    cluster: &'a ClusterPlan,
    seen: Seen<'a>,
}

impl<'a> Inside<'a> {
    pub(crate) fn new(plan: &'a Plan, cluster: &str, search: &'a Search) -> Self {
        let cluster = plan.cluster(cluster).expect("a cluster");
        Self { plan, cluster, seen: Seen::new(search) }
    }

    pub(crate) fn take(&mut self, captured: &Captured) {
        self.seen.take(captured, &|frame| Self::classify(self.plan, self.cluster, frame));
    }

    fn classify(plan: &Plan, cluster: &ClusterPlan, frame: &Frame<'_>) -> Option<Kind> {
        let Frame::Tcp(packet, _) = frame else { return tunnel(plan, frame) };
        let gateways = all(gateways(cluster));
        let pods = all(cluster.pods.iter().filter(|pod| pod.mesh).map(|pod| pod.ip));
        let (agent, node) = (all([cluster.agent]), all([NODE_ADDRESS]));
        let kinds = [
            (&gateways, &agent, port::DISCOVERY, Kind::Agent),
            (&gateways, &agent, port::CA, Kind::Agent),
            (&gateways, &pods, port::HBONE, Kind::Meshed),
            (&pods, &gateways, port::HBONE, Kind::Hbone),
            (&node, &gateways, port::ADMIN, Kind::Admin),
        ];
        let found = kinds.into_iter().find(|(clients, servers, port, _)| either(packet, clients, servers, *port));
        found.map(|(.., kind)| kind).or_else(|| tunnel(plan, frame))
    }

    /// Ciphertext only, but for the operator's.
    pub(crate) fn check(&self) {
        println!("at the gateway of {}:", self.cluster.name);
        let Readable { hellos, sealed } = self.seen.check(&|frame| Self::classify(self.plan, self.cluster, frame));
        let leg = if self.cluster.name.as_str() == "west" { Kind::Meshed } else { Kind::Hbone };
        let hellos = hellos.get(&leg).map(Vec::as_slice).unwrap_or_default();
        assert!(
            hellos.iter().any(|hello| hello.client) && hellos.iter().any(|hello| !hello.client),
            "{leg:?}: no hellos"
        );
        // Those of east are inside the TLS of the sidecar's connection to its gateway.
        assert!(leg != Kind::Meshed || sealed.get(&leg).is_some_and(|sealed| *sealed > 0), "no datagrams: {sealed:?}");
    }
}
