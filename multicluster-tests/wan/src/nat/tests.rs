use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::chance::stream;
use crate::icmp;
use crate::packet::testing::{tcp, transport_checksum, udp};

const LEFT: &str = "10.0.0.1:5000";
const RIGHT: &str = "10.9.0.1:53";

fn nat() -> Nat {
    Nat::new("left:198.51.100.1,198.51.100.2".parse().unwrap(), stream(7, 1))
}

/// Passes a packet through; what comes out, as (source, destination), has right checksums.
fn pass(nat: &mut Nat, now: Instant, from: Side, mut packet: Vec<u8>) -> Option<(String, String)> {
    let header = Header::parse(&packet).unwrap();
    if !nat.translate(now, from, &header, &mut packet) {
        return None;
    }
    let flow = Flow::of(&packet).unwrap();
    let show = |end: Endpoint| format!("{}:{}", end.address, end.port);
    let (source, destination) = (show(flow.source), show(flow.destination));
    assert_eq!(crate::checksum::checksum(&[&packet[..20]]), 0, "the checksum of IP");
    let (from, to) = (source.parse().unwrap(), destination.parse().unwrap());
    assert_eq!(transport_checksum(&from, &to, packet[9], &packet[20..]), 0, "the checksum of the transport");
    Some((source, destination))
}

#[test]
fn a_flow_leaves_with_the_address_and_its_answers_come_back() {
    let (mut nat, now) = (nat(), Instant::now());
    for packet in [udp, tcp] {
        let (outside, to) = pass(&mut nat, now, Side::Left, packet(LEFT, RIGHT, b"question")).unwrap();
        assert!(outside.starts_with("198.51.100.1:"), "{outside}");
        assert_eq!(to, RIGHT);
        let (again, _) = pass(&mut nat, now, Side::Left, packet(LEFT, "10.9.0.2:53", b"another")).unwrap();
        assert_eq!(again, outside, "the mapping does not depend on the peer");
        let back = pass(&mut nat, now, Side::Right, packet(RIGHT, &outside, b"answer"));
        assert_eq!(back, Some((RIGHT.to_owned(), LEFT.to_owned())));
    }
    assert_eq!(nat.mappings(), 2);
}

#[test]
fn a_checksum_of_zero_before_or_after_is_right() {
    let (mut nat, now) = (nat(), Instant::now());
    // Among all payloads of a word there is one for each sum.
    for word in 0..=u16::MAX {
        let (outside, _) = pass(&mut nat, now, Side::Left, udp(LEFT, RIGHT, &word.to_be_bytes())).unwrap();
        assert!(pass(&mut nat, now, Side::Right, udp(RIGHT, &outside, &word.to_be_bytes())).is_some());
    }
}

#[test]
fn what_nobody_asked_for_does_not_come_in() {
    let (mut nat, now) = (nat(), Instant::now());
    assert_eq!(pass(&mut nat, now, Side::Right, udp(RIGHT, "198.51.100.1:4000", b"x")), None);
    assert_eq!(pass(&mut nat, now, Side::Right, udp(RIGHT, "198.51.100.2:4000", b"x")), None);
}

#[test]
fn flows_that_the_other_side_opens_pass_untranslated() {
    let (mut nat, now) = (nat(), Instant::now());
    let expect = Some((RIGHT.to_owned(), LEFT.to_owned()));
    assert_eq!(pass(&mut nat, now, Side::Right, tcp(RIGHT, LEFT, b"hello")), expect);
    let expect = Some((LEFT.to_owned(), RIGHT.to_owned()));
    assert_eq!(pass(&mut nat, now, Side::Left, tcp(LEFT, RIGHT, b"hello")), expect);
    assert_eq!(nat.mappings(), 0);
}

#[test]
fn rebinding_changes_the_port_or_the_address_and_closes_the_old_way() {
    let (mut nat, now) = (nat(), Instant::now());
    let (first, _) = pass(&mut nat, now, Side::Left, udp(LEFT, RIGHT, b"x")).unwrap();
    nat.rebind(Rebind::Port).unwrap();
    let (second, _) = pass(&mut nat, now, Side::Left, udp(LEFT, RIGHT, b"x")).unwrap();
    assert!(second.starts_with("198.51.100.1:") && second != first, "{first} {second}");
    assert_eq!(pass(&mut nat, now, Side::Right, udp(RIGHT, &first, b"x")), None);
    nat.rebind(Rebind::Address).unwrap();
    let (third, _) = pass(&mut nat, now, Side::Left, udp(LEFT, RIGHT, b"x")).unwrap();
    assert!(third.starts_with("198.51.100.2:"), "{third}");
    let mut narrow = Nat::new("left:198.51.100.1".parse().unwrap(), stream(7, 1));
    assert_eq!(narrow.rebind(Rebind::Address), Err(RebindError::OneAddress));
}

#[test]
fn idle_mappings_end() {
    let (mut nat, now) = (nat(), Instant::now());
    let (outside, _) = pass(&mut nat, now, Side::Left, udp(LEFT, RIGHT, b"x")).unwrap();
    let later = now + Duration::from_secs(301);
    assert_eq!(pass(&mut nat, later, Side::Right, udp(RIGHT, &outside, b"x")), None);
    assert_ne!(pass(&mut nat, later, Side::Left, udp(LEFT, RIGHT, b"x")).unwrap().0, outside);
}

#[test]
fn the_table_is_bounded() {
    let (mut nat, now) = (nat(), Instant::now());
    for index in 0..MAPPINGS_MAX + 10 {
        let source = format!("10.0.{}.{}:5000", index / 250, index % 250);
        let passed = pass(&mut nat, now, Side::Left, udp(&source, RIGHT, b"x")).is_some();
        assert_eq!(passed, index < MAPPINGS_MAX, "{index}");
    }
    assert_eq!(nat.mappings(), MAPPINGS_MAX as u64);
    let later = now + Duration::from_secs(301);
    assert!(pass(&mut nat, later, Side::Left, udp("10.8.0.1:5000", RIGHT, b"x")).is_some());
    assert_eq!(nat.mappings(), 1);
}

#[test]
fn errors_about_translated_packets_find_the_sender() {
    let (mut nat, now) = (nat(), Instant::now());
    let mut sent = udp(LEFT, RIGHT, &[1; 900]);
    let header = Header::parse(&sent).unwrap();
    assert!(nat.translate(now, Side::Left, &header, &mut sent));
    let mut error = icmp::too_big(&Header::parse(&sent).unwrap(), &sent, 600).unwrap();
    let header = Header::parse(&error).unwrap();
    assert!(nat.translate(now, Side::Right, &header, &mut error));
    assert_eq!(Header::parse(&error).unwrap().destination.to_string(), "10.0.0.1");
    let (about, at) = flow::of_error(&error).unwrap();
    assert_eq!((about.source.address.to_string(), about.source.port), ("10.0.0.1".to_owned(), 5000));
    let sums = [&error[..20], &error[20..], &error[at..at + 20]].map(|bytes| crate::checksum::checksum(&[bytes]));
    assert_eq!(sums, [0, 0, 0]);
}

#[test]
fn errors_of_the_hidden_side_carry_the_translated_addresses() {
    let (mut nat, now) = (nat(), Instant::now());
    let (outside, _) = pass(&mut nat, now, Side::Left, udp(LEFT, RIGHT, b"x")).unwrap();
    let mut answer = udp(RIGHT, &outside, &[1; 900]);
    let header = Header::parse(&answer).unwrap();
    assert!(nat.translate(now, Side::Right, &header, &mut answer));
    let mut error = icmp::too_big(&Header::parse(&answer).unwrap(), &answer, 600).unwrap();
    let header = Header::parse(&error).unwrap();
    assert!(nat.translate(now, Side::Left, &header, &mut error));
    assert_eq!(Header::parse(&error).unwrap().source.to_string(), "198.51.100.1");
    let (about, _) = flow::of_error(&error).unwrap();
    assert_eq!(format!("{}:{}", about.destination.address, about.destination.port), outside);
}

#[test]
fn fragments_and_unknown_protocols_do_not_leave() {
    let (mut nat, now) = (nat(), Instant::now());
    let mut fragment = udp(LEFT, RIGHT, b"x");
    fragment[6] = 0x20;
    let mut strange = udp(LEFT, RIGHT, b"x");
    strange[9] = 99;
    for mut packet in [fragment, strange] {
        let header = Header::parse(&packet).unwrap();
        assert!(!nat.translate(now, Side::Left, &header, &mut packet));
    }
    let mut six = tcp("[fd00::1]:5", "[fd00::2]:6", b"x");
    let (before, header) = (six.clone(), Header::parse(&six).unwrap());
    assert!(nat.translate(now, Side::Left, &header, &mut six));
    assert_eq!(six, before);
}

proptest! {
    #[test]
    fn answers_reach_whoever_asked(ports in proptest::collection::vec(1_u16.., 1..40), payload: Vec<u8>, seed: u64) {
        let mut nat = Nat::new("left:198.51.100.1".parse().unwrap(), stream(seed, 1));
        let now = Instant::now();
        for port in ports {
            let inside = format!("10.0.0.1:{port}");
            let (outside, _) = pass(&mut nat, now, Side::Left, udp(&inside, RIGHT, &payload)).unwrap();
            let back = pass(&mut nat, now, Side::Right, udp(RIGHT, &outside, &payload)).unwrap();
            prop_assert_eq!(back.1, inside);
        }
    }

    #[test]
    fn no_bytes_break_the_translation(bytes in proptest::collection::vec(any::<u8>(), 0..120), left: bool) {
        let mut packet = bytes;
        if let Some(first) = packet.first_mut() {
            *first = 0x45;
        }
        if packet.len() > 3 {
            let total = u16::try_from(packet.len()).unwrap();
            packet[2..4].copy_from_slice(&total.to_be_bytes());
        }
        if let Some(header) = Header::parse(&packet) {
            nat().translate(Instant::now(), if left { Side::Left } else { Side::Right }, &header, &mut packet);
        }
    }
}
