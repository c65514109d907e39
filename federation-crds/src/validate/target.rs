//! What a policy is for: rules that several kinds share.

use crate::error::FieldErrors;
use crate::istio::{PolicyTargetReference, WorkloadSelector};

/// Kinds that a policy may be for, with their groups. The first four are Istio's.
const TARGETS: [(&str, &str); 5] = [
    ("", "Service"),
    ("networking.istio.io", "ServiceEntry"),
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "GatewayClass"),
    ("networking.istio.io", "Gateway"),
];

/// At most one of selector, `targetRef` and `targetRefs`, each well formed.
pub(super) fn check(
    selector: Option<&WorkloadSelector>,
    target_ref: Option<&PolicyTargetReference>,
    target_refs: &[PolicyTargetReference],
    errors: &mut FieldErrors,
) {
    let set =
        usize::from(selector.is_some()) + usize::from(target_ref.is_some()) + usize::from(!target_refs.is_empty());
    if set > 1 {
        errors.add(
            "spec",
            "only one of selector, targetRef and targetRefs can be set",
            "keep one: targetRefs for gateways and services, selector for workloads",
        );
    }
    check_selector(selector, errors);
    if let Some(target) = target_ref {
        check_target(target, "spec.targetRef", errors);
    }
    for (index, target) in target_refs.iter().enumerate() {
        check_target(target, &format!("spec.targetRefs[{index}]"), errors);
    }
}

/// Labels of a selector: as those of objects, without wildcards.
pub(super) fn check_selector(selector: Option<&WorkloadSelector>, errors: &mut FieldErrors) {
    let Some(selector) = selector else { return };
    let path = "spec.selector.matchLabels";
    for (key, value) in &selector.match_labels {
        if key.contains('*') || value.contains('*') {
            errors.add(
                format!("{path}[{key:?}]"),
                "wildcards are not supported in a selector",
                "write the label's value in full",
            );
        }
    }
    if !selector.match_labels.iter().any(|(key, value)| key.contains('*') || value.contains('*')) {
        super::metadata::check_labels(&selector.match_labels, path, errors);
    }
}

fn check_target(target: &PolicyTargetReference, path: &str, errors: &mut FieldErrors) {
    if target.name.is_empty() {
        errors.add(format!("{path}.name"), "is required", "write the name of the target");
    }
    if target.namespace.as_deref().is_some_and(|namespace| !namespace.is_empty()) {
        let hint = "write the policy into the target's namespace";
        errors.add(format!("{path}.namespace"), "must be absent: a target is in the policy's namespace", hint);
    }
    let group = if target.group == "core" { "" } else { target.group.as_str() };
    if !TARGETS.contains(&(group, target.kind.as_str())) {
        let possible =
            TARGETS.map(|(group, kind)| format!("{kind} ({})", if group.is_empty() { "core" } else { group }));
        let message = format!("{} of group {:?} cannot be a target", target.kind, target.group);
        errors.add(format!("{path}.kind"), message, format!("possible are {}", possible.join(", ")));
    }
}

/// None of some values is empty.
pub(super) fn no_empty(values: &[String], path: &str, errors: &mut FieldErrors) {
    for (index, _) in values.iter().enumerate().filter(|(_, value)| value.is_empty()) {
        errors.add(format!("{path}[{index}]"), "must not be empty", "remove it, or write a value");
    }
}
