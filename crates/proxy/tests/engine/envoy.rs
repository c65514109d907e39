//! What applications and operators know from Envoy: headers that steer, values that are formats, words of the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::{Response, StatusCode};
use mesh::*;
use proxy::body;

use crate::policy::{plain, routed, rule};
use crate::world::*;

fn set(pairs: &[(&str, &str)]) -> HeaderEdits {
    let set: BTreeMap<_, _> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    HeaderEdits { set, ..HeaderEdits::default() }
}

#[tokio::test]
async fn an_application_says_how_long_it_waits_and_what_is_tried_again() {
    let world = World::new();
    let app = app_with(|_| std::future::pending()).await;
    let client = Client::start(&world, plain(&[app]));
    let mut request = get("/");
    request.headers_mut().insert("x-envoy-upstream-rq-timeout-ms", "50".parse().unwrap());
    assert_eq!(client.http1("reviews", request).await.status(), StatusCode::GATEWAY_TIMEOUT);
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let app = app_with(move |request| {
        let steered = request.headers().keys().any(|name| mesh::STEERING_HEADERS.contains(&name.as_str()));
        let failed = counted.fetch_add(1, Ordering::SeqCst) < 3;
        let status = if steered {
            400
        } else if failed {
            500
        } else {
            200
        };
        async move {
            let mut response = Response::new(body::empty());
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response
        }
    })
    .await;
    let client = Client::start(&world, plain(&[app]));
    let mut request = post("/", "body");
    request.headers_mut().insert("x-envoy-retry-on", "5xx".parse().unwrap());
    request.headers_mut().insert("x-envoy-max-retries", "3".parse().unwrap());
    assert_eq!(client.http1("reviews", request).await.status(), StatusCode::OK);
    assert_eq!(calls.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn values_of_headers_are_made_of_the_request_and_its_answer() {
    let world = World::new();
    let request = set(&[
        ("x-client", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
        ("x-said", "<%REQ(x-user)% %PROTOCOL% 100%%>"),
        ("x-none", "%REQ(x-missing)%"),
        ("x-user", "changed"),
    ]);
    let response = set(&[("x-told", "%RESPONSE_CODE% %REQ(x-user)% %RESP(served)%"), ("x-unknown", "%UPSTREAM_HOST%")]);
    let app = app_with(|request| async move {
        let mut response = answer("one", request);
        response.headers_mut().insert("served", "v1".parse().unwrap());
        response
    })
    .await;
    let headers = HeaderOperations { request, response };
    let client = Client::start(&world, routed(plain(&[app]), HttpRule { headers, ..rule() }));
    let mut request = get("/");
    request.headers_mut().insert("x-user", "jason".parse().unwrap());
    request.headers_mut().insert("user-agent", "test/1".parse().unwrap());
    let response = client.http1("reviews", request).await;
    let seen = &json(&response)["headers"];
    assert_eq!((&seen["x-client"], &seen["x-said"]), (&"127.0.0.1".into(), &"<jason HTTP/1.1 100%>".into()));
    assert_eq!((seen.get("x-none"), &seen["x-user"]), (None, &"changed".into()));
    assert_eq!(response.headers()["x-told"], "200 jason v1");
    assert_eq!(response.headers()["x-unknown"], "%UPSTREAM_HOST%");
    let record = client.records.lock().unwrap()[0].clone();
    assert_eq!((record.user_agent.as_str(), &*record.response_code_details), ("test/1", "via_upstream"));
    assert!(record.downstream_remote_address.starts_with("127.0.0.1:"), "{}", record.downstream_remote_address);
}
