//! The shim over real sockets, with upstreams that the test plays itself.

use std::str::FromStr as _;
use std::sync::Arc;

use crate::support::*;
use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{TXT, a::A};
use hickory_proto::rr::{Name, RData, RecordType};
use mesh::View;

#[tokio::test]
async fn the_zone_is_answered_over_udp_and_tcp() {
    let shim = start(view(7, [host("reviews", &["243.0.0.1", "fd00::1"])]), Vec::new()).await;
    let asked = question("Reviews.default.svc.ClusterSet.local.", RecordType::A);
    for answer in [over_udp(shim.address, &asked).await.0, over_tcp(shim.address, &asked).await] {
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.metadata.authoritative && answer.metadata.recursion_desired);
        assert_eq!(addresses(&answer), ["243.0.0.1"]);
        assert_eq!(answer.answers[0].ttl, 5);
        assert_eq!(answer.answers[0].name.to_string(), "Reviews.default.svc.ClusterSet.local.", "the client's case");
        assert_eq!(answer.queries, asked.queries);
    }
    let (answer, _) = over_udp(shim.address, &question(REVIEWS, RecordType::AAAA)).await;
    assert_eq!(addresses(&answer), ["fd00::1"]);
    let metrics = shim.registry.encode();
    for line in [
        "isthmus_dns_queries_total{zone=\"clusterset\",rcode=\"NOERROR\",proto=\"udp\"} 2",
        "isthmus_dns_queries_total{zone=\"clusterset\",rcode=\"NOERROR\",proto=\"tcp\"} 1",
        "isthmus_dns_query_duration_seconds_count{zone=\"clusterset\"} 3",
    ] {
        assert!(metrics.contains(line), "{line} is missing in {metrics}");
    }
}

#[tokio::test]
async fn negative_answers_carry_the_soa_and_are_never_forwarded() {
    let poison =
        upstream(|asked, _| Some(response(asked, ResponseCode::NoError, vec![RData::A(A::new(6, 6, 6, 6))]))).await;
    let shim = start(view(7, [host("reviews", &["243.0.0.1"])]), vec![poison]).await;
    let cases = [
        (REVIEWS, RecordType::AAAA, ResponseCode::NoError),
        (REVIEWS, RecordType::TXT, ResponseCode::NoError),
        ("default.svc.clusterset.local.", RecordType::A, ResponseCode::NoError),
        ("nothing.default.svc.clusterset.local.", RecordType::A, ResponseCode::NXDomain),
        ("west.reviews.default.svc.clusterset.local.", RecordType::A, ResponseCode::NXDomain),
        ("foo.clusterset.local.", RecordType::A, ResponseCode::NXDomain),
    ];
    for (name, kind, code) in cases {
        let (answer, _) = over_udp(shim.address, &question(name, kind)).await;
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (code, 0), "{name} {kind}");
        let RData::SOA(soa) = &answer.authorities[0].data else { panic!("{name}: no SOA") };
        assert_eq!((soa.minimum, soa.serial, soa.mname.to_string().as_str()), (5, 7, "ns.dns.clusterset.local."));
        assert_eq!(answer.authorities[0].name.to_string(), "clusterset.local.");
    }
    let (answer, _) = over_udp(shim.address, &question("clusterset.local.", RecordType::SOA)).await;
    assert_eq!(answer.answers.len(), 1);
    let (answer, _) = over_udp(shim.address, &question("clusterset.local.", RecordType::AXFR)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
}

#[tokio::test]
async fn a_new_view_shows_in_the_next_answer_and_before_the_first_there_is_servfail() {
    let shim = start(Arc::new(View::default()), Vec::new()).await;
    let asked = question(REVIEWS, RecordType::A);
    let code = |answer: (Message, usize)| answer.0.metadata.response_code;
    assert_eq!(code(over_udp(shim.address, &asked).await), ResponseCode::ServFail);
    shim.view.send_replace(view(1, []));
    assert_eq!(code(over_udp(shim.address, &asked).await), ResponseCode::NXDomain);
    for address in ["243.0.0.1", "243.0.0.2"] {
        shim.view.send_replace(view(2, [host("reviews", &[address])]));
        assert_eq!(addresses(&over_udp(shim.address, &asked).await.0), [address]);
    }
    shim.view.send_replace(view(3, []));
    assert_eq!(code(over_udp(shim.address, &asked).await), ResponseCode::NXDomain);
}

#[tokio::test]
async fn other_names_are_forwarded_with_their_code_and_records() {
    let server = upstream(|asked, _| {
        let code = match asked.queries[0].name().to_string().to_ascii_lowercase().as_str() {
            "missing.example." => ResponseCode::NXDomain,
            _ => ResponseCode::NoError,
        };
        let answers = if code == ResponseCode::NoError { vec![RData::A(A::new(192, 0, 2, 1))] } else { Vec::new() };
        Some(response(asked, code, answers))
    })
    .await;
    // Also without any view.
    let shim = start(Arc::new(View::default()), vec![server]).await;
    let (answer, _) = over_udp(shim.address, &question("www.example.", RecordType::A)).await;
    assert_eq!(addresses(&answer), ["192.0.2.1"]);
    assert!(answer.answers[0].ttl <= 77);
    assert!(answer.metadata.recursion_available && !answer.metadata.authoritative);
    assert!(answer.edns.is_none(), "the client sent no OPT");
    let answer = over_tcp(shim.address, &question("missing.example.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert!(shim.registry.encode().contains("{zone=\"forward\",rcode=\"NXDOMAIN\",proto=\"tcp\"} 1"));
}

#[tokio::test]
async fn a_truncated_answer_is_fetched_over_tcp_and_cut_to_what_the_client_takes() {
    let server = upstream(|asked, tcp| {
        let text = || RData::TXT(TXT::new(vec!["x".repeat(200)]));
        let mut answer =
            response(asked, ResponseCode::NoError, if tcp { (0..5).map(|_| text()).collect() } else { vec![] });
        answer.metadata.truncation = !tcp;
        Some(answer)
    })
    .await;
    let shim = start(view(1, []), vec![server]).await;
    let plain = question("long.example.", RecordType::TXT);
    let (answer, length) = over_udp(shim.address, &plain).await;
    assert!(answer.metadata.truncation && answer.answers.is_empty() && length <= 512, "{length}");
    assert_eq!(over_tcp(shim.address, &plain).await.answers.len(), 5);

    let with_payload = |payload| {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        let mut message = question("long.example.", RecordType::TXT);
        message.set_edns(edns);
        message
    };
    let (answer, _) = over_udp(shim.address, &with_payload(4096)).await;
    assert!(!answer.metadata.truncation && answer.edns.is_some());
    assert_eq!(answer.answers.len(), 5);
    let (answer, length) = over_udp(shim.address, &with_payload(800)).await;
    assert!(answer.metadata.truncation && answer.edns.is_some() && length <= 800);
}

#[tokio::test]
async fn a_failing_upstream_is_passed_over_and_without_any_there_is_servfail() {
    let broken = upstream(|asked, _| Some(response(asked, ResponseCode::ServFail, Vec::new()))).await;
    let forger = upstream(|asked, _| {
        let mut forged = response(asked, ResponseCode::NoError, vec![RData::A(A::new(6, 6, 6, 6))]);
        forged.metadata.id = asked.metadata.id.wrapping_add(1);
        Some(forged)
    })
    .await;
    let good =
        upstream(|asked, _| Some(response(asked, ResponseCode::NoError, vec![RData::A(A::new(192, 0, 2, 1))]))).await;
    let asked = question("www.example.", RecordType::A);
    let shim = start(view(1, []), vec![broken, forger, good]).await;
    assert_eq!(addresses(&over_udp(shim.address, &asked).await.0), ["192.0.2.1"]);

    // Nobody listens on the port of a service that nobody runs; another port might be given to another test.
    let shim = start(view(1, []), vec!["127.0.0.1:9".parse().unwrap()]).await;
    assert_eq!(over_udp(shim.address, &asked).await.0.metadata.response_code, ResponseCode::ServFail);
    let shim = start(view(1, []), Vec::new()).await;
    assert_eq!(over_udp(shim.address, &asked).await.0.metadata.response_code, ResponseCode::Refused);
}

#[tokio::test]
async fn what_is_no_question_is_answered_by_its_code() {
    let shim = start(view(1, []), Vec::new()).await;
    let mut update = question(REVIEWS, RecordType::A);
    update.metadata.op_code = OpCode::Notify;
    assert_eq!(over_udp(shim.address, &update).await.0.metadata.response_code, ResponseCode::NotImp);
    let mut version = question(REVIEWS, RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    version.set_edns(edns);
    let (answer, _) = over_udp(shim.address, &version).await;
    // BADVERS; the number means BADSIG in a TSIG record, which is how the library reads it.
    assert_eq!(u16::from(answer.metadata.response_code), 16);
    assert_eq!(answer.edns.unwrap().version(), 0);
    let mut two = question(REVIEWS, RecordType::A);
    two.add_query(Query::query(Name::from_str("b.").unwrap(), RecordType::A));
    assert_eq!(over_udp(shim.address, &two).await.0.metadata.response_code, ResponseCode::FormErr);
}
