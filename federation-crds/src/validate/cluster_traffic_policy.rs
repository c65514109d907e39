//! ClusterTrafficPolicy.

use std::collections::BTreeSet;
use std::time::Duration;

use super::rules;
use super::traffic::read_duration;
use crate::cluster_traffic_policy::{Cap, ClusterTrafficPolicy, ClusterTrafficPolicySpec, Tier};
use crate::error::FieldErrors;

const MODES: [&str; 3] = ["local-first", "weighted", "local-only"];

/// More say nothing that a person could still follow.
const TIERS_MAX: usize = 16;

const RETURN_MAX: Duration = Duration::from_secs(3600);

const WEIGHT_MAX: i64 = 1_000_000;

pub(super) fn check(object: &ClusterTrafficPolicy, errors: &mut FieldErrors) {
    let spec = &object.spec;
    let mut services = BTreeSet::new();
    for (index, service) in spec.services.iter().enumerate() {
        let path = format!("spec.services[{index}]");
        errors.check(&path, rules::label_1035(service));
        if !services.insert(service) {
            errors.add(path, "is named twice", "remove one of the two");
        }
    }
    if let Some(mode) = &spec.mode {
        errors.check("spec.mode", rules::one_of(mode, &MODES));
    }
    if let Some(unmeshed) = &spec.unmeshed_clients {
        errors.check("spec.unmeshedClients", rules::one_of(unmeshed, &["allow", "deny"]));
    }
    check_import_from(spec, errors);
    check_tiers(&spec.tiers, errors);
    check_health(spec, errors);
    if let Some(cap) = &spec.cap {
        check_cap(cap, errors);
    }
    check_together(spec, errors);
}

fn check_import_from(spec: &ClusterTrafficPolicySpec, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (index, cluster) in spec.import_from.iter().flatten().enumerate() {
        let path = format!("spec.importFrom[{index}]");
        errors.check(&path, rules::label(cluster));
        if !seen.insert(cluster) {
            errors.add(path, format!("cluster {cluster} is named twice"), "remove one of the two");
        }
    }
}

fn check_tiers(tiers: &[Tier], errors: &mut FieldErrors) {
    if tiers.len() > TIERS_MAX {
        errors.add("spec.tiers", format!("at most {TIERS_MAX} tiers"), "put clusters that you use alike into one tier");
    }
    let mut seen = BTreeSet::new();
    for (number, tier) in tiers.iter().enumerate() {
        let path = format!("spec.tiers[{number}].clusters");
        if tier.clusters.is_empty() {
            errors.add(&path, "at least one is required", "add clusters: [{name: …}], or remove the tier");
        }
        let weighted = tier.clusters.iter().filter(|cluster| cluster.weight.is_some()).count();
        if weighted != 0 && weighted != tier.clusters.len() {
            errors.add(
                &path,
                "some have a weight and some have none",
                "give each a weight, or none: then their healthy endpoints decide",
            );
        }
        for (index, cluster) in tier.clusters.iter().enumerate() {
            let path = format!("{path}[{index}]");
            errors.check(format!("{path}.name"), rules::label(&cluster.name));
            if !seen.insert(&cluster.name) {
                errors.add(
                    format!("{path}.name"),
                    format!("cluster {} is in a tier already", cluster.name),
                    "name each cluster in one tier only",
                );
            }
            if cluster.weight.is_some_and(|weight| !(1..=WEIGHT_MAX).contains(&weight)) {
                errors.add(
                    format!("{path}.weight"),
                    format!("must be 1 to {WEIGHT_MAX}"),
                    "weights count relative to each other, so divide them all by the same number",
                );
            }
        }
    }
}

fn check_health(spec: &ClusterTrafficPolicySpec, errors: &mut FieldErrors) {
    let overflow = spec.overflow.as_ref().and_then(|overflow| overflow.healthy_percent);
    percent("spec.overflow.healthyPercent", overflow, errors);
    let Some(hysteresis) = &spec.hysteresis else { return };
    percent("spec.hysteresis.healthyPercent", hysteresis.healthy_percent, errors);
    if hysteresis.healthy_percent.zip(overflow).is_some_and(|(back, overflow)| back < overflow) {
        errors.add(
            "spec.hysteresis.healthyPercent",
            "is below spec.overflow.healthyPercent",
            "requests would return to a cluster that they leave at once",
        );
    }
    match hysteresis.return_after.as_deref().map(read_duration) {
        Some(Ok(time)) if time > RETURN_MAX => {
            errors.add("spec.hysteresis.returnAfter", "must be 0s to 1h", "write 30s or 5m, or 0s to return at once")
        }
        Some(Err(mistake)) => errors.note("spec.hysteresis.returnAfter", mistake),
        _ => {}
    }
}

fn check_cap(cap: &Cap, errors: &mut FieldErrors) {
    percent("spec.cap.maxSharePercent", cap.max_share_percent, errors);
    if cap.max_requests.is_some_and(|requests| !(1..=i64::from(u32::MAX)).contains(&requests)) {
        errors.add(
            "spec.cap.maxRequests",
            format!("must be 1 to {}", u32::MAX),
            "to send nothing to other clusters use mode local-only",
        );
    }
}

/// What would have no effect is refused.
fn check_together(spec: &ClusterTrafficPolicySpec, errors: &mut FieldErrors) {
    let share = spec.cap.as_ref().is_some_and(|cap| cap.max_share_percent.is_some());
    let said = [
        ("spec.overflow", spec.overflow.is_some()),
        ("spec.hysteresis", spec.hysteresis.is_some()),
        ("spec.cap.maxSharePercent", share),
    ];
    let mode = spec.mode.as_deref();
    for (path, _) in said.iter().filter(|(_, is_there)| *is_there && matches!(mode, Some("weighted" | "local-only"))) {
        let hint = "it is for mode local-first: there the own cluster comes first and spills over";
        errors.add(*path, format!("has no meaning in mode {}", mode.unwrap_or_default()), hint);
    }
    let others = [
        ("spec.tiers", !spec.tiers.is_empty()),
        ("spec.importFrom", spec.import_from.is_some()),
        ("spec.cap.maxRequests", spec.cap.as_ref().is_some_and(|cap| cap.max_requests.is_some())),
    ];
    for (path, _) in others.iter().filter(|(_, is_there)| *is_there && mode == Some("local-only")) {
        errors.add(
            *path,
            "has no meaning in mode local-only, where no other cluster is used",
            "remove it, or write mode: local-first or weighted",
        );
    }
}

fn percent(path: &str, value: Option<i64>, errors: &mut FieldErrors) {
    if value.is_some_and(|value| !(0..=100).contains(&value)) {
        errors.add(path, "must be 0 to 100", "write the share of healthy endpoints in percent, such as 70");
    }
}
