//! AuthorizationPolicy.

use std::sync::Arc;

use federation_crds::istio::AuthorizationPolicy;
use federation_crds::istio::authorization_policy::{Action, DRY_RUN_ANNOTATION, PolicyRule};
use federation_crds::{Kind, Manifest};
use mesh::{AuthorizationAction, AuthorizationRule, AuthorizationRules, ObjectRef, Origin};

use super::scope::{Scope, Selection};
use super::sources::Reader;
use super::{Scoped, conditions};
use crate::analyze::codes;
use crate::compile::Input;
use crate::finding::Finding;
use crate::mesh_config::MeshConfig;
use crate::object;

/// What is wrong with a value, and where.
pub(super) type Wrong = (String, String);

/// Reads them all, in an order that does not depend on the manifests'.
pub(super) fn read(
    input: &Input<'_>,
    mesh_config: &MeshConfig,
    findings: &mut Vec<Finding>,
) -> Vec<Scoped<AuthorizationRules>> {
    let policies = input.manifests.iter().filter_map(|manifest| match manifest {
        Manifest::AuthorizationPolicy(policy) => Some(policy.as_ref()),
        _ => None,
    });
    let mut policies: Vec<&AuthorizationPolicy> = policies.collect();
    policies.sort_by_key(|policy| object::age(&policy.metadata));
    let mut scoped = Vec::new();
    for policy in policies {
        let selection = Selection {
            kind: Kind::AuthorizationPolicy,
            metadata: &policy.metadata,
            selector: policy.spec.selector.as_ref(),
            target_ref: policy.spec.target_ref.as_ref(),
            target_refs: &policy.spec.target_refs,
        };
        let scope = Scope::read(&selection, input, mesh_config, findings);
        let part = rules(policy, input, mesh_config, findings);
        scoped.push(Scoped { scope: Arc::new(scope), part: Arc::new(part) });
    }
    scoped
}

fn rules(
    policy: &AuthorizationPolicy,
    input: &Input<'_>,
    mesh_config: &MeshConfig,
    findings: &mut Vec<Finding>,
) -> AuthorizationRules {
    let origin = object::reference(Kind::AuthorizationPolicy, &policy.metadata);
    let annotations = policy.metadata.annotations.as_ref();
    let dry_run = annotations.and_then(|all| all.get(DRY_RUN_ANNOTATION)).is_some_and(|value| value == "true");
    let reader = Reader::new(&origin.namespace, input, mesh_config);
    let compiled = action(policy, mesh_config).and_then(|action| {
        let rules = policy.spec.rules.iter().enumerate();
        let rules = rules.map(|(index, rule)| one_rule(&origin, index, rule, &reader)).collect::<Result<_, _>>()?;
        Ok((action, rules))
    });
    match compiled {
        Ok((action, rules)) => AuthorizationRules { origin, action, rules, dry_run },
        // Nobody knows what was meant to be denied, so everything is.
        Err((path, message)) => {
            let code = match path.as_str() {
                "spec.provider.name" => codes::REFERENCED_RESOURCE_NOT_FOUND,
                _ => codes::NOT_COMPILED,
            };
            let hint = "until this is mended the policy denies everything";
            findings.push(object::finding(&origin, path, code, message).hint(hint));
            deny_all(origin, dry_run)
        }
    }
}

fn deny_all(origin: ObjectRef, dry_run: bool) -> AuthorizationRules {
    let rule = AuthorizationRule {
        origin: Origin { object: Arc::new(origin.clone()), path: "spec".to_owned(), name: None },
        from: Vec::new(),
        to: Vec::new(),
        when: Vec::new(),
    };
    AuthorizationRules { origin, action: AuthorizationAction::Deny, rules: vec![rule], dry_run }
}

fn action(policy: &AuthorizationPolicy, mesh_config: &MeshConfig) -> Result<AuthorizationAction, Wrong> {
    Ok(match policy.spec.action {
        Action::Allow => AuthorizationAction::Allow,
        Action::Deny => AuthorizationAction::Deny,
        Action::Audit => AuthorizationAction::Audit,
        Action::Custom => {
            let name = policy.spec.provider.as_ref().map(|provider| provider.name.as_str()).unwrap_or_default();
            let authorizer = mesh_config.authorizers.get(name);
            let missing = || {
                let message = format!("there is no external authorizer {name:?} among MeshConfig's extensionProviders");
                ("spec.provider.name".to_owned(), message)
            };
            AuthorizationAction::Custom(authorizer.ok_or_else(missing)?.clone())
        }
    })
}

fn one_rule(
    origin: &ObjectRef,
    index: usize,
    rule: &PolicyRule,
    reader: &Reader<'_>,
) -> Result<AuthorizationRule, Wrong> {
    let path = format!("spec.rules[{index}]");
    let mut compiled = AuthorizationRule {
        origin: Origin { object: Arc::new(origin.clone()), path: path.clone(), name: None },
        from: Vec::new(),
        to: Vec::new(),
        when: Vec::new(),
    };
    for (index, from) in rule.from.iter().enumerate() {
        let path = format!("{path}.from[{index}].source");
        compiled.from.push(reader.source(from.source.as_ref(), &path)?);
    }
    for (index, to) in rule.to.iter().enumerate() {
        let path = format!("{path}.to[{index}].operation");
        compiled.to.push(reader.operation(to.operation.as_ref(), &path)?);
    }
    for (index, when) in rule.when.iter().enumerate() {
        compiled.when.push(conditions::read(when, &format!("{path}.when[{index}]"), reader)?);
    }
    Ok(compiled)
}
