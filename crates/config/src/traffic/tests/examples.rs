//! The examples that everybody begins with mean what their authors mean.

use std::time::Duration;

use mesh::{AbortFault, AbortWith, DelayFault, Host, HttpAction, Share, StringMatch};

use super::*;

#[test]
fn a_canary_gets_its_tenth() {
    let compiled = compiled(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
spec:
  hosts:
    - reviews
  http:
    - route:
        - destination:
            host: reviews
            subset: v1
          weight: 90
        - destination:
            host: reviews
            subset: v2
          weight: 10
",
    );
    let routes = routes(&compiled, "default/reviews");
    assert_eq!(weights(&routes.http[0]), [("v1", 90), ("v2", 10)]);
    let HttpAction::Route(destinations) = &routes.http[0].action else { panic!() };
    assert_eq!(destinations[0].destination.host, Host::Cluster(name("default/reviews")));
    assert_eq!(routes.http[0].origin.to_string(), "VirtualService default/reviews spec.http[0]");
    assert_eq!(found(&compiled), []);
}

#[test]
fn jason_gets_v2() {
    let compiled = compiled(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
spec:
  hosts:
    - reviews
  http:
    - match:
        - headers:
            end-user:
              exact: jason
      route:
        - destination:
            host: reviews
            subset: v2       # Send Jason to v2
    - route:
        - destination:
            host: reviews
            subset: v1       # Everyone else to v1
",
    );
    let routes = routes(&compiled, "default/reviews");
    let headers = &routes.http[0].matches[0].headers;
    assert_eq!(headers["end-user"], StringMatch::Exact("jason".into()));
    assert_eq!((weights(&routes.http[0]), weights(&routes.http[1])), (vec![("v2", 0)], vec![("v1", 0)]));
    assert!(routes.http[1].matches.is_empty());
}

#[test]
fn subsets_select_by_version() {
    let compiled = compiled(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: reviews
spec:
  host: reviews
  subsets:
    - name: v1
      labels:
        version: v1
    - name: v2
      labels:
        version: v2
",
    );
    let rules = &compiled.services[&name("default/reviews")].destinations[0];
    assert!(rules.of_service);
    let labels: Vec<_> =
        rules.subsets.iter().map(|(name, it)| (name.as_str(), it.labels["version"].as_str())).collect();
    assert_eq!(labels, [("v1", "v1"), ("v2", "v2")]);
}

#[test]
fn faults_hit_their_shares() {
    let text = |fault: &str| {
        format!(
            "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: ratings
spec:
  hosts:
    - ratings
  http:
    - fault:
{fault}
      route:
        - destination:
            host: ratings
            subset: v1
"
        )
    };
    let delay = "        delay:\n          percentage:\n            value: 10.0\n          fixedDelay: 5s";
    let fault = routes(&compiled(&text(delay)), "default/ratings").http[0].fault.clone().unwrap();
    let expected = DelayFault { share: Share::of_percent(10.0).unwrap(), delay: Duration::from_secs(5) };
    assert_eq!((fault.delay, fault.abort), (Some(expected), None));
    let abort = "        abort:\n          percentage:\n            value: 50.0\n          httpStatus: 500";
    let fault = routes(&compiled(&text(abort)), "default/ratings").http[0].fault.clone().unwrap();
    let expected = AbortFault { share: Share::of_percent(50.0).unwrap(), with: AbortWith::Http(500) };
    assert_eq!((fault.delay, fault.abort), (None, Some(expected)));
}

#[test]
fn a_circuit_breaker_has_limits_and_ejects() {
    let compiled = compiled(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: reviews
spec:
  host: reviews
  trafficPolicy:
    connectionPool:
      tcp:
        maxConnections: 100
      http:
        http1MaxPendingRequests: 10
        maxRequestsPerConnection: 10
    outlierDetection:
      consecutive5xxErrors: 5
      interval: 30s
      baseEjectionTime: 30s
",
    );
    let rules = &compiled.services[&name("default/reviews")].destinations[0];
    let policy = rules.policy.of_port(9080);
    let pool = &policy.pool;
    assert_eq!(
        (pool.max_connections, pool.max_pending_requests, pool.max_requests_per_connection, pool.max_requests),
        (Some(100), Some(10), Some(10), None)
    );
    let outlier = policy.outlier.as_ref().unwrap();
    let thirty = Duration::from_secs(30);
    assert_eq!((outlier.consecutive_5xx, outlier.interval, outlier.base_ejection_time), (Some(5), thirty, thirty));
    assert_eq!((outlier.consecutive_gateway, outlier.max_ejection_percent), (None, 10));
}
