//! What holds whatever the policies are.

use proptest::prelude::*;

use super::{Request, policy};
use crate::authorize::authorize;
use crate::policy::InboundPolicy;
use std::sync::Arc;

fn words() -> impl Strategy<Value = String> {
    let keys = prop::sample::select(vec![
        "from principals=*/sa/web",
        "from namespaces!=default",
        "from ipBlocks=10.0.0.0/8",
        "from requestPrincipals=i/*",
        "to methods=GET",
        "to paths=/a/{*}",
        "to hosts!=reviews",
        "to ports=9080",
        "when header:x=*",
        "when claim:a/b!=x",
        "when connection.sni=a*",
        ";",
        "any",
    ]);
    let actions = vec!["ALLOW", "DENY", "AUDIT", "CUSTOM:opa", "ALLOW(dry)", "DENY(dry)"];
    (prop::sample::select(actions), prop::collection::vec(keys, 0..6))
        .prop_map(|(action, keys)| format!("{action} {}", keys.join(" ")))
}

fn request() -> impl Strategy<Value = String> {
    let parts = prop::sample::select(vec![
        "tcp",
        "peer=default/web",
        "peer=west.demo/x/y",
        "method=PUT",
        "path=/a/b",
        "path=/a/../b",
        "host=x",
        "ip=10.0.0.1",
        "h:x=1",
        r#"claims={"iss":"i","sub":"s","a":{"b":["x"]}}"#,
        "sni=abc",
    ]);
    prop::collection::vec(parts, 0..8).prop_map(|parts| parts.join(" "))
}

proptest! {
    #[test]
    fn neither_the_order_nor_a_dry_run_changes_the_outcome(lines in prop::collection::vec(words(), 0..6), request in request()) {
        let decide = |lines: &[String]| {
            let authorization = lines.iter().enumerate().map(|(number, line)| Arc::new(policy(number, line))).collect();
            let policy = InboundPolicy { authorization, ..InboundPolicy::default() };
            Request::read(&request).with(|request| authorize(&policy, request))
        };
        let as_given = decide(&lines);
        let reversed: Vec<String> = lines.iter().rev().cloned().collect();
        let enforced: Vec<String> = lines.iter().filter(|line| !line.contains("(dry)")).cloned().collect();
        for other in [decide(&reversed), decide(&enforced)] {
            prop_assert_eq!(as_given.outcome, other.outcome);
            prop_assert_eq!(&as_given.ask, &other.ask);
            prop_assert_eq!(as_given.audit, other.audit);
        }
        prop_assert!(!as_given.reasons.is_empty());
    }
}
