//! How requests are divided between clusters, in one line.

use mesh::{ClusterMode, ClusterTraffic};
use serde_json::Value;

/// What is configured (`across` of the decision) and what holds right now (`division` of the sidecar).
pub(super) fn tell(across: Option<&Value>, division: &Value) -> Option<String> {
    let rules: ClusterTraffic = serde_json::from_value(across?.get("rules")?.clone()).ok()?;
    let by = rules.origin.as_ref().map_or("the default".to_owned(), ToString::to_string);
    let mut said = vec![format!("{by}: {}", rules.mode.as_str())];
    if rules.mode == ClusterMode::LocalFirst {
        said.push(overflow(&rules));
    }
    if rules.max_share_percent < 100 {
        said.push(format!("at most {} % spill over", rules.max_share_percent));
    }
    let under_way = division["remote_under_way"].as_u64().unwrap_or(0);
    if let Some(limit) = rules.max_requests {
        said.push(format!("{under_way} of at most {limit} requests are under way to other clusters"));
    }
    if let (Some(share), Some(local)) = (division["local_share"].as_f64(), division["local"].as_object()) {
        let count = |name: &str| local.get(name).and_then(Value::as_u64).unwrap_or_default();
        let (healthy, known) = (count("healthy"), count("known"));
        said.push(format!("now {:.0} % stay here, {healthy} of {known} endpoints are healthy", share * 100.0));
    }
    Some(said.join("; "))
}

fn overflow(rules: &ClusterTraffic) -> String {
    let below = match rules.overflow_percent {
        0 => "requests leave when no local endpoint is healthy".to_owned(),
        percent => format!("requests spill over below {percent} % healthy local endpoints"),
    };
    format!("{below} and return after {} s at {} %", rules.return_after.as_secs_f64(), rules.return_percent)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_rules_and_what_holds_now_are_one_line() {
        let rules = ClusterTraffic { max_requests: Some(20), ..ClusterTraffic::default() };
        let across = json!({"rules": rules, "local": {"tiers": 1, "endpoints": 4}});
        let division = json!({"local_share": 0.5, "local": {"healthy": 1, "known": 4}, "remote_under_way": 3});
        assert_eq!(
            tell(Some(&across), &division).expect("something is divided"),
            "the default: local-first; requests spill over below 50 % healthy local endpoints and return after 5 s at 80 %; \
             3 of at most 20 requests are under way to other clusters; now 50 % stay here, 1 of 4 endpoints are healthy"
        );
        assert_eq!(tell(None, &Value::Null), None);
    }
}
