//! MTU, filters, outages and translation, seen by sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

use wan::{Drop, Rebind, Side};

use crate::ground::{Ground, LEFT, NAT, RIGHT, eventually};

/// Two sockets, the left one connected to the right one.
fn pair(ground: &Ground) -> (UdpSocket, UdpSocket) {
    let (left, right) = (ground.udp(Side::Left, "10.9.0.1:0"), ground.udp(Side::Right, "10.9.0.2:0"));
    left.connect(right.local_addr().unwrap()).unwrap();
    (left, right)
}

/// What the next datagram says, and who sent it; `None` if none comes.
fn heard(socket: &UdpSocket) -> Option<(String, std::net::SocketAddr)> {
    let mut buffer = [0; 2_000];
    let (length, from) = socket.recv_from(&mut buffer).ok()?;
    Some((String::from_utf8_lossy(&buffer[..length]).into_owned(), from))
}

#[test]
fn large_datagrams_vanish_or_are_refused_with_the_size_that_fits() {
    let ground = Ground::new("mtu=1380 icmp=off");
    let (left, right) = pair(&ground);
    left.send(&[b'x'; 1_400]).unwrap();
    left.send(&[b'y'; 1_300]).unwrap();
    assert_eq!(heard(&right).unwrap().0.len(), 1_300);
    left.send(&[b'x'; 1_400]).expect("the sender knows nothing");
    let counters = ground.status().left_to_right;
    assert_eq!((counters.dropped(Drop::Mtu).packets, counters.icmp_sent), (2, 0));

    ground.set("icmp=on");
    // EMSGSIZE, once the kernel has learnt the MTU of the path.
    let refused = eventually("a refusal", || left.send(&[b'x'; 1_400]).err());
    assert_eq!(refused.raw_os_error(), Some(90), "{refused}");
    assert!(ground.status().left_to_right.icmp_sent > 0);
    let route = ground.exec(Side::Left, &format!("ip route get {RIGHT}"));
    assert!(route.contains("mtu 1380"), "{route}");
}

#[test]
fn tcp_of_both_families_fits_itself_to_the_mtu_that_it_is_told() {
    for (address, mtu) in [("10.9.0.2:0", 1_380), ("[fd09::2]:0", 1_280)] {
        let ground = Ground::new(&format!("mtu={mtu}"));
        let listener = ground.inside(Side::Right, || TcpListener::bind(address)).unwrap();
        let to = listener.local_addr().unwrap();
        let mut client = ground.inside(Side::Left, || TcpStream::connect(to)).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            server.read_to_end(&mut all).map(|_| all.len())
        });
        client.write_all(&vec![7; 300_000]).unwrap();
        drop(client);
        assert_eq!(reader.join().unwrap().unwrap(), 300_000);
        assert!(ground.status().left_to_right.icmp_sent > 0, "{address}");
    }
}

#[test]
fn a_black_hole_swallows_one_way_only_and_heals() {
    let ground = Ground::new("left-to-right blackhole=on");
    let (left, right) = pair(&ground);
    left.send(b"lost").unwrap();
    assert_eq!(heard(&right), None);
    right.send_to(b"heard", left.local_addr().unwrap()).unwrap();
    assert_eq!(heard(&left).unwrap().0, "heard");
    ground.set("left-to-right blackhole=off right-to-left blackhole=on");
    left.send(b"heard").unwrap();
    assert_eq!(heard(&right).unwrap().0, "heard");
    right.send_to(b"lost", left.local_addr().unwrap()).unwrap();
    assert_eq!(heard(&left), None);
    let status = ground.status();
    for side in Side::BOTH {
        assert_eq!(status.counters(side).dropped(Drop::Blackhole).packets, 1);
    }
}

#[test]
fn udp_is_blocked_while_tcp_passes_and_the_other_way_round() {
    let ground = Ground::new("block-udp=on");
    let (left, right) = pair(&ground);
    let listener = ground.inside(Side::Right, || TcpListener::bind("10.9.0.2:0")).unwrap();
    let to = listener.local_addr().unwrap();
    left.send(b"x").unwrap();
    assert_eq!(heard(&right), None);
    ground.inside(Side::Left, || TcpStream::connect(to)).expect("TCP passes");
    ground.set("block-udp=off block-tcp=on");
    left.send(b"x").unwrap();
    assert!(heard(&right).is_some());
    let patience = std::time::Duration::from_millis(300);
    let refused = ground.inside(Side::Left, || TcpStream::connect_timeout(&to, patience)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::TimedOut);
}

#[test]
fn a_nat_hides_the_left_side_and_rebinds_port_and_address() {
    let ground = Ground::new(&format!("nat=left:{NAT}"));
    let (left, right) = pair(&ground);
    let source = |text: &str| {
        left.send(text.as_bytes()).unwrap();
        let (heard, from) = heard(&right).unwrap();
        assert_eq!(heard, text);
        from
    };
    let first = source("one");
    assert_eq!(first.ip().to_string(), "198.51.100.1");
    assert_ne!(first.port(), left.local_addr().unwrap().port());
    right.send_to(b"answer", first).unwrap();
    assert_eq!(heard(&left).unwrap().0, "answer");

    ground.rebind(Rebind::Port);
    let second = source("two");
    assert_eq!(second.ip(), first.ip());
    assert_ne!(second.port(), first.port());
    right.send_to(b"too late", first).unwrap();
    assert_eq!(heard(&left), None);
    right.send_to(b"answer", second).unwrap();
    assert_eq!(heard(&left).unwrap().0, "answer");

    ground.rebind(Rebind::Address);
    assert_eq!(source("three").ip().to_string(), "198.51.100.2");
    assert_eq!(ground.status().right_to_left.dropped(Drop::Nat).packets, 1);
}

#[test]
fn through_a_nat_tcp_and_ping_work_and_the_other_side_still_reaches_in() {
    let ground = Ground::new(&format!("nat=left:{NAT} delay=1ms"));
    let mut text = String::new();
    for (server, client, address) in [(Side::Right, Side::Left, RIGHT), (Side::Left, Side::Right, LEFT)] {
        let listener = ground.inside(server, || TcpListener::bind((address, 0))).unwrap();
        let to = listener.local_addr().unwrap();
        let mut stream = ground.inside(client, || TcpStream::connect(to)).unwrap();
        let (mut accepted, from) = listener.accept().unwrap();
        let expect = if client == Side::Left { "198.51.100.1" } else { RIGHT };
        assert_eq!(from.ip().to_string(), expect);
        stream.write_all(b"to and ").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        accepted.read_to_string(&mut text).unwrap();
        accepted.write_all(b"fro; ").unwrap();
        drop(accepted);
        stream.read_to_string(&mut text).unwrap();
    }
    assert_eq!(text, "to and fro; to and fro; ");
    ground.exec(Side::Left, &format!("ping -c 1 -W 2 {RIGHT}"));
    ground.exec(Side::Right, &format!("ping -c 1 -W 2 {LEFT}"));
    // Nobody listens there: the error about the translated datagram finds its sender.
    let left = ground.udp(Side::Left, "10.9.0.1:0");
    left.connect((RIGHT, 9)).unwrap();
    left.send(b"x").unwrap();
    assert_eq!(left.recv(&mut [0; 10]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}
