use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::packet::testing::{tcp, udp};

mod fate;
mod numbers;

/// A link, its clock, and what it delivered.
struct Bench {
    link: Link,
    start: Instant,
    now: Instant,
    /// Time since the start, the side, and the packet.
    delivered: Vec<(Duration, Side, Vec<u8>)>,
}

impl Bench {
    /// `words` as of `isthmus-wan set`.
    fn new(words: &str, seed: u64) -> Self {
        let now = Instant::now();
        let mut bench = Self { link: Link::new(LinkSpec::default(), seed), start: now, now, delivered: Vec::new() };
        if !words.is_empty() {
            bench.set(words);
        }
        bench
    }

    fn set(&mut self, words: &str) {
        let change = crate::spec::change_of_words(words.split(' ')).unwrap();
        let spec = self.link.spec().changed(&change).unwrap();
        self.link.set(self.now, spec);
    }

    fn send(&mut self, from: Side, packet: Vec<u8>) {
        self.link.handle_packet(self.now, from, packet);
        self.take();
    }

    fn take(&mut self) {
        while let Some((side, packet)) = self.link.poll_deliver(self.now) {
            self.delivered.push((self.now - self.start, side, packet));
        }
        self.check_counters();
    }

    /// Lets time pass, waking up only when the link asks for it.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.link.poll_timeout().filter(|at| *at <= end) {
            assert!(next >= self.now, "the link asks for the past");
            self.now = next;
            self.take();
        }
        self.now = end;
        self.take();
    }

    fn check_counters(&self) {
        let status = self.link.status();
        for side in Side::BOTH {
            assert!(status.counters(side).add_up(), "{:?}", status.counters(side));
        }
    }

    fn counters(&self, side: Side) -> Counters {
        self.link.status().counters(side).clone()
    }

    /// The numbers in packets of [`numbered`] that were delivered to the right.
    fn numbers(&self) -> Vec<u32> {
        let right = self.delivered.iter().filter(|(_, side, _)| *side == Side::Right);
        right.map(|(_, _, packet)| u32::from_be_bytes(packet[28..32].try_into().unwrap())).collect()
    }
}

fn numbered(number: u32, length: usize) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(length.max(32) - 28, 0);
    udp("10.0.0.1:5", "10.0.0.2:6", &payload)
}

const HOUR: Duration = Duration::from_secs(3_600);
