//! ClusterTrafficPolicies.

use mesh::{ClusterMode, ClusterTraffic};

use super::*;

fn policy(metadata: &str, spec: &str) -> String {
    format!("---\napiVersion: isthmus.dev/v1alpha1\nkind: ClusterTrafficPolicy\nmetadata: {metadata}\nspec: {spec}\n")
}

fn rules(compiled: &Compiled, service: &str) -> Option<ClusterTraffic> {
    compiled.services.get(&name(service))?.clusters.as_deref().cloned()
}

#[test]
fn every_field_arrives() {
    let spec = "{services: [reviews], importFrom: [west, north], \
                tiers: [{clusters: [{name: west, weight: 80}, {name: north, weight: 20}]}, {clusters: [{name: south}]}], \
                overflow: {healthyPercent: 60}, hysteresis: {returnAfter: 1m, healthyPercent: 90}, \
                cap: {maxSharePercent: 30, maxRequests: 100}}";
    let compiled = compiled(&policy("{name: a}", spec));
    let rules = rules(&compiled, "default/reviews").unwrap();
    assert_eq!(rules.origin.as_ref().unwrap().to_string(), "ClusterTrafficPolicy default/a");
    let told: Vec<Vec<(&str, Option<u32>)>> = rules
        .tiers
        .iter()
        .map(|tier| tier.clusters.iter().map(|it| (it.cluster.as_str(), it.weight)).collect())
        .collect();
    assert_eq!(told, [vec![("west", Some(80)), ("north", Some(20))], vec![("south", None)]]);
    assert_eq!((rules.overflow_percent, rules.return_percent, rules.return_after.as_secs()), (60, 90, 60));
    assert_eq!((rules.max_share_percent, rules.max_requests), (30, Some(100)));
    assert!(rules.imports_from(&"west".parse().unwrap()) && !rules.imports_from(&"south".parse().unwrap()));
    assert_eq!(found(&compiled), []);
}

#[test]
fn the_nearest_policy_counts_alone() {
    let mesh = policy("{name: mesh, namespace: istio-system}", "{mode: weighted}");
    let own = policy("{name: own}", "{mode: local-only}");
    let one = policy("{name: one}", "{services: [reviews], overflow: {healthyPercent: 90}}");
    let cases = [
        (vec![mesh.clone()], "weighted weighted weighted"),
        (vec![mesh.clone(), own.clone()], "local-only local-only weighted"),
        (vec![one, mesh, own], "local-first local-only weighted"),
    ];
    for (objects, expected) in cases {
        let compiled = compiled(&objects.concat());
        let modes = ["default/reviews", "default/ratings", "shop/cart"]
            .map(|service| rules(&compiled, service).map_or("none", |rules| rules.mode.as_str()));
        assert_eq!(modes.join(" "), expected);
    }
    assert_eq!(rules(&compiled(""), "default/reviews"), None);
}

#[test]
fn what_has_no_effect_is_found() {
    let twice =
        [policy("{name: a}", "{services: [reviews], mode: weighted}"), policy("{name: b}", "{services: [reviews]}")];
    let compiled = compiled(&twice.concat());
    assert_eq!(rules(&compiled, "default/reviews").unwrap().mode, ClusterMode::Weighted);
    assert_eq!(found(&compiled), [("ISM0002", "spec.services[0]")]);
    assert_eq!(
        found(&super::compiled(&policy("{name: a}", "{services: [nobody]}"))),
        [("IST0101", "spec.services[0]")]
    );
}
