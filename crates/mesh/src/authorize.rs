//! What the authorization policies say on a request or a connection: CUSTOM, then DENY, then ALLOW.
//!
//! Semantics are Istio's (<https://istio.io/latest/docs/reference/config/security/authorization-policy/>), down to what its
//! rules become in Envoy: a field that needs HTTP makes an ALLOW rule match no opaque connection, and is left out of the
//! other actions' rules there.

mod inbound;
mod path;
mod principal;
mod rule;
mod subject;

use std::sync::Arc;

use serde::Serialize;

use crate::names::SpiffeId;
use crate::policy::{AuthorizationAction, AuthorizationRules, ExternalAuthorizer, ExternalAuthorizerProtocol};
use crate::policy::{InboundPolicy, Origin};
use crate::reason::{Denial, Reason};
use crate::request::{Claims, ConnectionFacts, HttpRequest};

use rule::{Stance, matching_rule};
use subject::Subject;

pub use inbound::{InboundDecision, InboundPeer, PortScope, authorize_inbound, authorize_inbound_udp};

/// What is asked for, as [`authorize`] sees it.
#[derive(Debug, Clone, Copy, Default)]
pub struct AccessRequest<'a> {
    /// Who mTLS says the client is, across clusters the workload itself; `None`: nobody proved anything.
    pub peer: Option<&'a SpiffeId>,
    /// The port of the workload (for a gateway: of the listener).
    pub port: u16,
    /// The request; `None` for a connection whose bytes are opaque.
    pub http: Option<&'a HttpRequest<'a>>,
    /// What a verified token says.
    pub claims: Option<&'a Claims>,
    /// The connection.
    pub connection: ConnectionFacts<'a>,
}

/// What the authorization policies say.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AccessDecision {
    /// Whether it is let through; holds only if [`Self::ask`] agrees.
    pub outcome: Result<(), Denial>,
    /// External services to be asked first, in order; one that denies is final.
    pub ask: Vec<Arc<ExternalAuthorizer>>,
    /// An AUDIT policy matched: the access log marks it.
    pub audit: bool,
    /// Which rule of which object decided; also what a dry run would have decided.
    pub reasons: Vec<Reason>,
}

/// Of policies none of whose rules matches no more than these are named.
const NAMED_MAX: usize = 8;

/// Decides on authorization alone.
pub fn authorize(policy: &InboundPolicy, request: &AccessRequest<'_>) -> AccessDecision {
    if policy.authorization.is_empty() {
        let reasons = vec![Reason::AllowedByDefault];
        return AccessDecision { outcome: Ok(()), ask: Vec::new(), audit: false, reasons };
    }
    let subject = Subject::of(request);
    let mut reasons = Vec::new();
    let ask = custom(policy, &subject, &mut reasons);
    let audit = audit(policy, &subject, &mut reasons);
    let mut outcome = deny(policy, &subject, &mut reasons);
    if outcome.is_ok() {
        outcome = allow(policy, &subject, &mut reasons);
    }
    if let Err(denial) = outcome {
        reasons.push(Reason::Denied { denial });
    }
    AccessDecision { outcome, ask, audit, reasons }
}

/// The authorizers of the CUSTOM policies that match, each once, ordered by name as Istio orders them.
fn custom(policy: &InboundPolicy, subject: &Subject<'_>, reasons: &mut Vec<Reason>) -> Vec<Arc<ExternalAuthorizer>> {
    let mut ask: Vec<Arc<ExternalAuthorizer>> = Vec::new();
    for rules in &policy.authorization {
        let AuthorizationAction::Custom(authorizer) = &rules.action else { continue };
        // Such a service cannot be asked about anything but HTTP, so Istio leaves the policy out of other connections.
        if subject.http.is_none() && matches!(authorizer.protocol, ExternalAuthorizerProtocol::Http { .. }) {
            continue;
        }
        let Some(origin) = matching_rule(rules, subject, Stance::Broad) else { continue };
        if rules.dry_run {
            reasons.push(dry_run(origin, "would ask"));
            continue;
        }
        reasons.push(Reason::Rule { origin: origin.clone() });
        if !ask.contains(authorizer) {
            ask.push(authorizer.clone());
        }
    }
    ask.sort_by(|one, other| one.name.cmp(&other.name));
    ask
}

fn audit(policy: &InboundPolicy, subject: &Subject<'_>, reasons: &mut Vec<Reason>) -> bool {
    let mut audit = false;
    for rules in of(policy, &AuthorizationAction::Audit) {
        let Some(origin) = matching_rule(rules, subject, Stance::Broad) else { continue };
        if rules.dry_run {
            reasons.push(dry_run(origin, "would audit"));
        } else {
            reasons.push(Reason::Rule { origin: origin.clone() });
            audit = true;
        }
    }
    audit
}

fn deny(policy: &InboundPolicy, subject: &Subject<'_>, reasons: &mut Vec<Reason>) -> Result<(), Denial> {
    for rules in of(policy, &AuthorizationAction::Deny) {
        let Some(origin) = matching_rule(rules, subject, Stance::Broad) else { continue };
        if rules.dry_run {
            reasons.push(dry_run(origin, "would deny"));
        } else {
            reasons.push(Reason::Rule { origin: origin.clone() });
            return Err(Denial::Policy);
        }
    }
    Ok(())
}

/// Without an enforced ALLOW policy everything is allowed; with one, what one of them matches.
fn allow(policy: &InboundPolicy, subject: &Subject<'_>, reasons: &mut Vec<Reason>) -> Result<(), Denial> {
    dry_allow(policy, subject, reasons);
    let mut unmatched = Vec::new();
    for rules in of(policy, &AuthorizationAction::Allow).filter(|rules| !rules.dry_run) {
        if let Some(origin) = matching_rule(rules, subject, Stance::Narrow) {
            reasons.push(Reason::Rule { origin: origin.clone() });
            return Ok(());
        }
        unmatched.push(&rules.origin);
    }
    if unmatched.is_empty() {
        reasons.push(Reason::AllowedByDefault);
        return Ok(());
    }
    reasons.extend(unmatched.into_iter().take(NAMED_MAX).map(|object| Reason::NoRule { object: object.clone() }));
    Err(Denial::Policy)
}

/// What the ALLOW policies on trial would have said, had they been all.
fn dry_allow(policy: &InboundPolicy, subject: &Subject<'_>, reasons: &mut Vec<Reason>) {
    let on_trial = || of(policy, &AuthorizationAction::Allow).filter(|rules| rules.dry_run);
    let matched = on_trial().find_map(|rules| matching_rule(rules, subject, Stance::Narrow));
    match (matched, on_trial().next()) {
        (Some(origin), _) => reasons.push(dry_run(origin, "would allow")),
        (None, Some(rules)) => {
            let text = format!("dry run: {} would deny: no rule of it matches", rules.origin);
            reasons.push(Reason::Note { text });
        }
        (None, None) => {}
    }
}

fn dry_run(origin: &Origin, verb: &str) -> Reason {
    Reason::Note { text: format!("dry run: {origin} {verb}") }
}

fn of<'a>(
    policy: &'a InboundPolicy,
    action: &'a AuthorizationAction,
) -> impl Iterator<Item = &'a AuthorizationRules> + 'a {
    policy.authorization.iter().map(Arc::as_ref).filter(move |rules| rules.action == *action)
}

#[cfg(test)]
mod tests;
