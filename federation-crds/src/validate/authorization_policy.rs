//! AuthorizationPolicy.

mod condition;
mod rule;

use super::target;
use crate::error::FieldErrors;
use crate::istio::AuthorizationPolicy;
use crate::istio::authorization_policy::{Action, AuthorizationPolicySpec, DRY_RUN_ANNOTATION};

pub(super) fn check(object: &AuthorizationPolicy, errors: &mut FieldErrors) {
    let spec = &object.spec;
    target::check(spec.selector.as_ref(), spec.target_ref.as_ref(), &spec.target_refs, errors);
    check_dry_run(object, errors);
    check_action(spec, errors);
    for (index, one) in spec.rules.iter().enumerate() {
        let path = format!("spec.rules[{index}]");
        rule::check(one, &path, errors);
        if spec.action == Action::Custom {
            rule::check_custom(one, &path, errors);
        }
    }
}

fn check_dry_run(object: &AuthorizationPolicy, errors: &mut FieldErrors) {
    let value = object.metadata.annotations.as_ref().and_then(|annotations| annotations.get(DRY_RUN_ANNOTATION));
    if let Some(value) = value.filter(|value| !matches!(value.as_str(), "true" | "false")) {
        let path = format!("metadata.annotations[{DRY_RUN_ANNOTATION:?}]");
        errors.add(
            path,
            format!("{value:?} must be \"true\" or \"false\""),
            "write one of them in quotes, or remove the annotation",
        );
    }
}

fn check_action(spec: &AuthorizationPolicySpec, errors: &mut FieldErrors) {
    let everything = "add an empty rule {} if it is for every request";
    let provider = spec.provider.as_ref().map(|provider| provider.name.as_str());
    match spec.action {
        Action::Custom => {
            if spec.rules.is_empty() {
                errors.add("spec.rules", "CUSTOM without rules asks nobody", everything);
            }
            if provider.unwrap_or_default().is_empty() {
                let hint = "name an entry of extensionProviders in MeshConfig";
                errors.add("spec.provider.name", "is required when the action is CUSTOM", hint);
            }
        }
        _ if provider.is_some() => {
            errors.add("spec.provider", "is of the action CUSTOM only", "add action: CUSTOM, or remove the provider")
        }
        Action::Deny if spec.rules.is_empty() => {
            errors.add("spec.rules", "DENY without rules denies nothing", everything);
        }
        _ => {}
    }
}
