//! Which connection of which gateway a new flow takes.

use std::time::Duration;

use super::{FlowClass, Transport};

/// One connection to a gateway of the wanted cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectionLoad {
    /// Which remote gateway it leads to; connections of the same gateway have the same number.
    pub gateway: usize,
    /// What it runs over.
    pub transport: Transport,
    /// What its gateway is reached over at present.
    pub preferred: Transport,
    /// Whether it takes new flows.
    pub usable: bool,
    /// Something was sent and nothing came back for longer than usual.
    pub suspect: bool,
    /// Flows under way.
    pub flows: usize,
    /// Flows among them that carry bulk now.
    pub bulk: usize,
    /// The share that it should have, 0 to 1; a connection that returned starts slowly.
    pub share: f64,
}

/// The connection for a new flow, as an index into `connections`; `None` if none is usable.
///
/// First the gateway: the one with the fewest flows for the share that its connections should have on average. Then, of its
/// connections over the transport that it prefers (over the other if there is none), one that answers, and of those by
/// class: a small flow keeps away from bulk; a bulk flow goes where the least bulk is, but leaves one connection free
/// of bulk as long as there is another. `tie` (0 to 1) decides among equals.
pub fn pick_connection(connections: &[ConnectionLoad], class: FlowClass, tie: f64) -> Option<usize> {
    let mut gateways: Vec<(usize, Vec<usize>)> = Vec::new();
    for (index, connection) in connections.iter().enumerate().filter(|(_, it)| it.usable) {
        match gateways.iter_mut().find(|(gateway, _)| *gateway == connection.gateway) {
            Some((_, members)) => members.push(index),
            None => gateways.push((connection.gateway, vec![index])),
        }
    }
    let candidates = gateways.into_iter().map(|(_, members)| eligible(connections, members));
    let scored: Vec<(bool, f64, Vec<usize>)> = candidates
        .map(|members| {
            let of = |index: &usize| &connections[*index];
            let suspect = members.iter().map(of).all(|it| it.suspect);
            let flows: usize = members.iter().map(|index| of(index).flows).sum();
            // The mean: how many connections there are says nothing about what the gateway behind them can take.
            let share = members.iter().map(|index| of(index).share).sum::<f64>() / count(members.len());
            (suspect, count(flows + 1) / share.max(f64::MIN_POSITIVE), members)
        })
        .collect();
    let best = scored.iter().min_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)))?;
    let equal: Vec<&Vec<usize>> = scored
        .iter()
        .filter(|it| it.0 == best.0 && it.1.total_cmp(&best.1).is_eq())
        .map(|(_, _, members)| members)
        .collect();
    let members = draw(&equal, tie)?;
    within(connections, members, class)
}

/// Of one gateway's usable connections those that count: the preferred transport if it has any, and no suspects unless
/// there is nothing else.
fn eligible(connections: &[ConnectionLoad], members: Vec<usize>) -> Vec<usize> {
    let preferred = |index: &usize| connections[*index].transport == connections[*index].preferred;
    let members = narrowed(members, preferred);
    narrowed(members, |index| !connections[*index].suspect)
}

/// The members that satisfy `wanted`, or all if none does.
fn narrowed(members: Vec<usize>, wanted: impl Fn(&usize) -> bool) -> Vec<usize> {
    if members.iter().any(&wanted) { members.into_iter().filter(wanted).collect() } else { members }
}

fn within(connections: &[ConnectionLoad], members: &[usize], class: FlowClass) -> Option<usize> {
    let bulk = |index: &usize| count(connections[*index].bulk) / connections[*index].share.max(f64::MIN_POSITIVE);
    let flows = |index: &usize| count(connections[*index].flows + 1) / connections[*index].share.max(f64::MIN_POSITIVE);
    let calmest = |members: &[usize]| {
        members.iter().copied().min_by(|a, b| bulk(a).total_cmp(&bulk(b)).then(flows(a).total_cmp(&flows(b))))
    };
    match class {
        FlowClass::Small => calmest(members),
        FlowClass::Bulk => {
            // The first of those with the least bulk stays free for small flows, whoever asks and however often.
            let reserved = members.iter().copied().min_by(|a, b| bulk(a).total_cmp(&bulk(b)));
            let rest: Vec<usize> = members.iter().copied().filter(|index| Some(*index) != reserved).collect();
            calmest(&rest).or(reserved)
        }
    }
}

fn draw<T: Copy>(equal: &[T], tie: f64) -> Option<T> {
    // Lengths are tiny and `tie` is below 1, so the product is a small non-negative number.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and not negative")]
    let index = (tie.clamp(0.0, 1.0) * count(equal.len())) as usize;
    equal.get(index.min(equal.len().checked_sub(1)?)).copied()
}

/// Counts are far below 2^32, where f64 is exact.
fn count(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The receive window of one of `connections` connections, in bytes, so that all together stay near `budget`: never
/// more than `most`, and never less than `stream`, the window of one of its streams.
pub fn window_share(budget: u64, connections: usize, stream: u64, most: u64) -> u64 {
    let connections = u64::try_from(connections.max(1)).unwrap_or(u64::MAX);
    (budget / connections).clamp(stream.min(most), most)
}

/// Bytes of datagrams that may wait to be sent on a connection: what its window and round trip let it send within
/// `patience`, and at least `least`. What would wait longer comes too late to be of use.
pub fn datagrams_may_wait(window: u64, rtt: Duration, patience: Duration, least: u64) -> u64 {
    let within = u128::from(window) * patience.as_micros() / rtt.as_micros().max(1);
    u64::try_from(within).unwrap_or(u64::MAX).max(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_wait_no_longer_than_they_are_of_use() {
        let (ms, patience) = (Duration::from_millis, Duration::from_millis(200));
        let cases = [
            ("a slow connection", 4_000, ms(80), 10_000),
            ("one that has sent nothing yet", 14_720, ms(80), 36_800),
            ("a fast one", 1 << 20, ms(1), 200 << 20),
            ("one that may send next to nothing", 1_000, ms(2_000), 4_096),
            ("no round trip yet", 1_000, ms(0), 200_000_000),
        ];
        for (name, window, rtt, expected) in cases {
            assert_eq!(datagrams_may_wait(window, rtt, patience, 4_096), expected, "{name}");
        }
    }

    /// `quic flows=3 bulk=1 share=0.5`, `tcp`, `quic down`, `quic suspect`; `|` begins another gateway and `>tcp` says what it prefers.
    fn parse(text: &str) -> Vec<ConnectionLoad> {
        let mut connections = Vec::new();
        for (gateway, part) in text.split('|').enumerate() {
            let (part, preferred) = match part.split_once(">tcp") {
                Some((part, _)) => (part, Transport::Tcp),
                None => (part, Transport::Quic),
            };
            for words in part.split(',') {
                let words: Vec<&str> = words.split_whitespace().collect();
                let value = |name: &str| words.iter().find_map(|word| word.strip_prefix(name));
                connections.push(ConnectionLoad {
                    gateway,
                    transport: if words.contains(&"tcp") { Transport::Tcp } else { Transport::Quic },
                    preferred,
                    usable: !words.contains(&"down"),
                    suspect: words.contains(&"suspect"),
                    flows: value("flows=").map_or(0, |it| it.parse().unwrap()),
                    bulk: value("bulk=").map_or(0, |it| it.parse().unwrap()),
                    share: value("share=").map_or(1.0, |it| it.parse().unwrap()),
                });
            }
        }
        connections
    }

    #[test]
    fn flows_take_the_connection_that_suits_them() {
        use FlowClass::{Bulk, Small};
        let cases: &[(&str, FlowClass, Option<usize>)] = &[
            ("quic flows=2, quic flows=1, quic flows=3", Small, Some(1)),
            // A small flow rather joins many small ones than one that is bulk.
            ("quic flows=1 bulk=1, quic flows=9, quic flows=1 bulk=1", Small, Some(1)),
            ("quic flows=4 bulk=2, quic flows=9 bulk=1", Small, Some(1)),
            // Bulk leaves one connection free.
            ("quic, quic, quic", Bulk, Some(1)),
            ("quic, quic flows=1 bulk=1, quic", Bulk, Some(2)),
            ("quic, quic flows=1 bulk=1, quic flows=1 bulk=1", Bulk, Some(1)),
            ("quic flows=1 bulk=1, quic, quic flows=2 bulk=2", Bulk, Some(0)),
            ("quic flows=5 bulk=5", Bulk, Some(0)),
            ("quic down, quic flows=5 bulk=5", Bulk, Some(1)),
            ("quic down", Small, None),
            ("quic down, tcp flows=3", Small, Some(1)),
            // TCP is left as soon as the gateway prefers QUIC, and not before.
            ("quic flows=3, tcp", Small, Some(0)),
            ("quic, tcp flows=3 >tcp", Small, Some(1)),
            ("quic, tcp down >tcp", Small, Some(0)),
            // A connection that does not answer comes last, whatever its load.
            ("quic suspect, quic flows=7", Small, Some(1)),
            ("quic suspect", Small, Some(0)),
            ("quic suspect | quic flows=7", Small, Some(1)),
            // A returned connection gets a tenth of the flows at first.
            ("quic share=0.1, quic flows=8", Small, Some(1)),
            ("quic share=0.1, quic flows=10", Small, Some(0)),
            // Gateways share by what their connections can take.
            ("quic flows=2, quic flows=2 | quic flows=1", Small, Some(2)),
            ("quic flows=1, quic flows=1 | quic flows=1", Small, Some(2)),
            ("quic, quic | quic flows=1", Small, Some(0)),
            ("quic share=0.1, quic share=0.1 | quic flows=8", Small, Some(2)),
            ("quic down, tcp flows=1 >tcp | quic flows=2", Small, Some(1)),
        ];
        for (text, class, expected) in cases {
            assert_eq!(pick_connection(&parse(text), *class, 0.0), *expected, "{class:?} on {text}");
        }
    }

    #[test]
    fn equal_gateways_are_drawn() {
        let connections = parse("quic | quic | quic");
        let picked = [0.0, 0.4, 0.9, 1.0].map(|tie| pick_connection(&connections, FlowClass::Small, tie));
        assert_eq!(picked, [Some(0), Some(1), Some(2), Some(2)]);
    }

    #[test]
    fn windows_shrink_with_the_number_of_connections_and_never_below_one_stream() {
        for (connections, expected) in [(0, 64), (1, 64), (8, 64), (16, 32), (128, 4), (4096, 4)] {
            assert_eq!(window_share(512, connections, 4, 64), expected, "{connections}");
        }
    }
}
