//! Forwarding over real sockets, with upstreams that the test plays itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::*;
use dns::CacheLimits;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::a::A;
use hickory_proto::rr::{RData, RecordType};
use tokio::sync::Semaphore;

fn one(asked: &Message, last: u8) -> Message {
    response(asked, ResponseCode::NoError, vec![RData::A(A::new(192, 0, 2, last))])
}

#[tokio::test]
async fn an_answer_is_kept_and_shown_in_the_case_of_each_client() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let server = upstream(move |asked, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        Some(one(asked, 1))
    })
    .await;
    let shim = start(view(1, []), vec![server]).await;
    for name in ["www.example.", "WWW.example.", "www.EXAMPLE."] {
        let (answer, _) = over_udp(shim.address, &question(name, RecordType::A)).await;
        assert_eq!(addresses(&answer), ["192.0.2.1"]);
        assert_eq!(answer.answers[0].name.to_string(), name);
        assert_eq!(answer.queries[0].name().to_string(), name);
        assert!(answer.answers[0].ttl <= 77);
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
    let metrics = shim.registry.encode();
    assert!(metrics.contains("isthmus_dns_cache_total{result=\"hit\"} 2"), "{metrics}");
    assert!(metrics.contains("isthmus_dns_cache_total{result=\"miss\"} 1"), "{metrics}");
    assert!(metrics.contains(&format!("isthmus_dns_upstream_total{{server=\"{server}\",result=\"udp\"}} 1")));
}

#[tokio::test]
async fn equal_questions_wait_for_one_answer() {
    let gate = Arc::new(Semaphore::new(0));
    let server = slow_upstream(Arc::clone(&gate), |asked| one(asked, 1)).await;
    let shim = start(view(1, []), vec![server]).await;
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let address = shim.address;
            tokio::spawn(async move { over_udp(address, &question("www.example.", RecordType::A)).await.0 })
        })
        .collect();
    wait_for(|| shim.registry.encode().contains("isthmus_dns_cache_total{result=\"joined\"} 19")).await;
    gate.add_permits(100);
    for client in clients {
        assert_eq!(addresses(&client.await.unwrap()), ["192.0.2.1"]);
    }
    assert!(shim.registry.encode().contains("isthmus_dns_cache_total{result=\"miss\"} 1"));
}

#[tokio::test]
async fn when_upstreams_fail_an_old_answer_is_better_than_none() {
    let broken = Arc::new(AtomicBool::new(false));
    let breaks = Arc::clone(&broken);
    let server = upstream(move |asked, _| match breaks.load(Ordering::SeqCst) {
        true => Some(response(asked, ResponseCode::ServFail, Vec::new())),
        false => Some(one(asked, 1)),
    })
    .await;
    let limits = CacheLimits { max_ttl: Duration::from_millis(1), ..CacheLimits::default() };
    let shim = start_with(view(1, []), vec![server], limits, Default::default()).await;
    let asked = question("www.example.", RecordType::A);
    assert_eq!(addresses(&over_udp(shim.address, &asked).await.0), ["192.0.2.1"]);
    broken.store(true, Ordering::SeqCst);
    let answer = loop {
        let answer = over_udp(shim.address, &asked).await.0;
        assert_eq!(addresses(&answer), ["192.0.2.1"]);
        if answer.answers[0].ttl == 30 {
            break answer;
        }
    };
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert!(shim.registry.encode().contains("isthmus_dns_cache_total{result=\"stale\"}"));
    // What nobody knows stays unknown.
    let (answer, _) = over_udp(shim.address, &question("other.example.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn an_answer_in_another_case_is_asked_for_again_over_tcp() {
    let server = upstream(|asked, tcp| {
        if tcp {
            return Some(one(asked, 1));
        }
        let mut lower = asked.clone();
        let name = asked.queries[0].name().to_lowercase();
        lower.queries = vec![Query::query(name, RecordType::A)];
        Some(one(&lower, 66))
    })
    .await;
    let shim = start(view(1, []), vec![server]).await;
    // Long enough that its letters are not all lower by chance.
    let name = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz.example.";
    let (answer, _) = over_udp(shim.address, &question(name, RecordType::A)).await;
    assert_eq!(addresses(&answer), ["192.0.2.1"]);
}

#[tokio::test]
async fn a_server_without_edns_is_asked_without_it() {
    let server = upstream(|asked, _| match asked.edns {
        Some(_) => {
            let mut refused = response(asked, ResponseCode::FormErr, Vec::new());
            refused.edns = None;
            Some(refused)
        }
        None => Some(one(asked, 1)),
    })
    .await;
    let shim = start(view(1, []), vec![server]).await;
    let (answer, _) = over_udp(shim.address, &question("www.example.", RecordType::A)).await;
    assert_eq!(addresses(&answer), ["192.0.2.1"]);
}

#[tokio::test]
async fn an_external_name_leads_upstream() {
    let server = upstream(|asked, _| match asked.queries[0].name().to_string().to_ascii_lowercase().as_str() {
        "www.example." => Some(one(asked, 1)),
        _ => Some(response(asked, ResponseCode::NXDomain, Vec::new())),
    })
    .await;
    let local = |to: &str| mesh::LocalHost { external_name: Some(to.into()), ..Default::default() };
    let entry = |name: &str, to: &str| {
        let (name, host) = host(name, &[]);
        (name, Arc::new(mesh::HostEntry { local: Some(local(to)), clusterset: false, ..(*host).clone() }))
    };
    let shim = start(view(1, [entry("out", "www.example"), entry("lost", "gone.example")]), vec![server]).await;
    let (answer, _) = over_udp(shim.address, &question("out.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(addresses(&answer), ["www.example.", "192.0.2.1"]);
    let (answer, _) = over_udp(shim.address, &question("lost.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(
        (addresses(&answer), answer.metadata.response_code),
        (vec!["gone.example.".into()], ResponseCode::NXDomain)
    );
}

#[tokio::test]
async fn a_silent_server_is_passed_over_and_then_comes_last() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let silent = upstream(move |_, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        None
    })
    .await;
    let good = upstream(|asked, _| Some(one(asked, 1))).await;
    let shim = start(view(1, []), vec![silent, good]).await;
    for number in 0..5 {
        let name = format!("host-{number}.example.");
        let (answer, _) = over_udp(shim.address, &question(&name, RecordType::A)).await;
        assert_eq!(addresses(&answer), ["192.0.2.1"]);
    }
    assert_eq!(count.load(Ordering::SeqCst), 3, "three failures, then it comes last");
}
