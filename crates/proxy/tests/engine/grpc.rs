//! What is different for gRPC: answers of the proxy's own, errors in trailers, deadlines.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use mesh::*;
use proxy::body;

use crate::policy::{plain, routed, rule, with_policy};
use crate::world::*;

fn call(path: &str) -> Request<body::Body> {
    Request::post(path).header("content-type", "application/grpc").header("te", "trailers").body(body::empty()).unwrap()
}

#[tokio::test]
async fn rules_answer_in_the_head() {
    let world = World::new();
    let direct = |status| HttpAction::Direct(DirectResponse { status, body: b"not today".to_vec() });
    for (status, code) in [(403, "7"), (503, "14"), (200, "2")] {
        let app = http_app("one").await;
        let client = Client::start(&world, routed(plain(&[app]), HttpRule { action: direct(status), ..rule() }));
        let response = client.http1("reviews", call("/a.B/C")).await;
        assert_eq!((response.status().as_u16(), response.body().len()), (200, 0));
        assert_eq!(response.headers()["grpc-status"], code);
        assert_eq!(response.headers()["grpc-message"], "not today");
        assert_eq!(client.records.lock().unwrap()[0].grpc_status.as_deref(), Some(code));
    }
}

/// An application that answers with a message and this status in the trailers.
async fn app(status: impl Fn(u32) -> u32 + Clone + Send + Sync + 'static) -> std::net::SocketAddr {
    let calls = Arc::new(AtomicU32::new(0));
    app_with(move |_| {
        let status = status(calls.fetch_add(1, Ordering::SeqCst) + 1);
        async move {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", status.into());
            let body = body::full("message").with_trailers(std::future::ready(Some(Ok(trailers)))).boxed_unsync();
            Response::builder().header("content-type", "application/grpc").body(body).unwrap()
        }
    })
    .await
}

#[tokio::test]
async fn errors_in_trailers_eject_an_endpoint_as_errors_in_heads_do() {
    let world = World::new();
    // INTERNAL is 500, NOT_FOUND is 404.
    for (status, ejected) in [(13, true), (5, false), (0, false)] {
        let app = app(move |_| status).await;
        let view = ViewOf::cluster("east").endpoints("reviews", Protocol::Grpc, &[app.ip()], app.port(), None);
        let policy = TrafficPolicy { outlier: Some(OutlierDetection::default()), ..TrafficPolicy::default() };
        let client = Client::start(&world, with_policy(view, policy));
        let mut requests = http2(client.capture("reviews").await).await;
        for call_number in 0..5 {
            let mut request = call("http://reviews:9080/a.B/C");
            *request.version_mut() = http::Version::HTTP_2;
            let response = requests.send_request(request).await.unwrap();
            let body = response.into_body().collect().await.unwrap();
            assert_eq!(body.trailers().unwrap()["grpc-status"], status.to_string(), "call {call_number}");
        }
        // The outcome is known when the record is written.
        while client.records.lock().unwrap().len() < 5 {
            tokio::task::yield_now().await;
        }
        assert_eq!(client.outbound.endpoints().iter().any(|row| row.ejected), ejected, "{status}");
    }
}

#[tokio::test]
async fn one_good_answer_among_errors_in_trailers_keeps_an_endpoint() {
    let world = World::new();
    let app = app(|number| if number == 4 { 0 } else { 14 }).await;
    let view = ViewOf::cluster("east").endpoints("reviews", Protocol::Grpc, &[app.ip()], app.port(), None);
    let policy = TrafficPolicy { outlier: Some(OutlierDetection::default()), ..TrafficPolicy::default() };
    let client = Client::start(&world, with_policy(view, policy));
    let recorded = async |number: usize| {
        while client.records.lock().unwrap().len() < number {
            tokio::task::yield_now().await;
        }
    };
    // gRPC rides HTTP/2 alone: HTTP/1.1 has no trailers behind a body of known length.
    let mut requests = http2(client.capture("reviews").await).await;
    let mut send = async || {
        let mut request = call("http://reviews:9080/a.B/C");
        *request.version_mut() = http::Version::HTTP_2;
        requests.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    };
    for number in 1..=8 {
        send().await;
        recorded(number).await;
    }
    assert!(!client.outbound.endpoints().iter().any(|row| row.ejected), "three, then four in a row");
    send().await;
    recorded(9).await;
    assert!(client.outbound.endpoints().iter().any(|row| row.ejected), "the fifth in a row");
}

#[tokio::test]
async fn a_client_says_how_long_it_will_wait() {
    let world = World::new();
    let app = app_with(|_| std::future::pending()).await;
    let long = HttpRule { timeout: Some(Duration::from_secs(60)), ..rule() };
    let client = Client::start(&world, routed(plain(&[app]), long));
    let mut request = call("/a.B/C");
    request.headers_mut().insert("grpc-timeout", "50m".parse().unwrap());
    let response = client.http1("reviews", request).await;
    assert_eq!((response.status().as_u16(), &response.headers()["grpc-status"]), (200, &"14".parse().unwrap()));
    assert_eq!(client.records.lock().unwrap()[0].flags, "UT");
}
