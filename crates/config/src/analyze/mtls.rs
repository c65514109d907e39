//! Clients and servers that do not agree on mTLS, and rules that ask for an identity that nobody can prove.

use std::collections::BTreeSet;

use mesh::{AuthorizationRules, ClientTls, DestinationRules, Endpoint, MtlsMode, ServiceName};

use super::codes;
use super::found::{Found, Said};
use crate::compile::{Compiled, Input};

pub(super) fn check(input: &Input<'_>, compiled: &Compiled, found: &mut Found) {
    for (name, config) in &compiled.services {
        for rules in &config.destinations {
            for policy in policies(rules) {
                Client { input, compiled, name, rules }.check(&policy, found);
            }
        }
    }
    identities(compiled, found);
}

/// The TLS of one place in a DestinationRule.
struct Policy<'a> {
    path: String,
    subset: Option<&'a str>,
    port: Option<u16>,
    tls: &'a ClientTls,
}

fn policies(rules: &DestinationRules) -> Vec<Policy<'_>> {
    let subsets = rules.subsets.iter().map(|(name, subset)| (Some(name.as_str()), &subset.policy));
    let levels = std::iter::once((None, &rules.policy)).chain(subsets);
    let mut policies = Vec::new();
    for (subset, policy) in levels {
        let base = match subset {
            None => "spec.trafficPolicy".to_owned(),
            Some(name) => format!("spec.subsets[{name}].trafficPolicy"),
        };
        policies.push(Policy { path: format!("{base}.tls"), subset, port: None, tls: &policy.any.tls });
        policies.extend(policy.ports.iter().map(|(port, policy)| Policy {
            path: format!("{base}.portLevelSettings[{port}].tls"),
            subset,
            port: Some(*port),
            tls: &policy.tls,
        }));
    }
    policies
}

/// What a DestinationRule says to the clients of one service.
struct Client<'a> {
    input: &'a Input<'a>,
    compiled: &'a Compiled,
    name: &'a ServiceName,
    rules: &'a DestinationRules,
}

impl Client<'_> {
    fn check(&self, policy: &Policy<'_>, found: &mut Found) {
        verification(self.rules, policy, found);
        let Some(service) = self.input.local.services.get(self.name) else { return self.remote(policy, found) };
        let labels = policy.subset.and_then(|subset| self.rules.subsets.get(subset)).map(|subset| &subset.labels);
        let selected = service.endpoints.iter().filter(|endpoint| {
            labels.is_none_or(|labels| labels.iter().all(|(key, value)| endpoint.labels.get(key) == Some(value)))
        });
        let mut conflicts = BTreeSet::new();
        for endpoint in selected {
            let ports = endpoint.ports.iter().filter(|(port, _)| policy.port.is_none_or(|only| only == **port));
            conflicts.extend(ports.filter_map(|(_, target)| self.conflict(policy.tls, endpoint, *target)));
        }
        for message in conflicts {
            let hint = "say the same on both sides; without trafficPolicy.tls clients follow the server";
            found.note(self.rules.origin.clone(), codes::MTLS_CONFLICT, Said { path: &policy.path, message, hint });
        }
        self.remote(policy, found);
    }

    /// Why one port of one endpoint does not accept what the rule says.
    fn conflict(&self, tls: &ClientTls, endpoint: &Endpoint, port: u16) -> Option<String> {
        if endpoint.identity.is_none() {
            return (*tls == ClientTls::Mutual)
                .then(|| format!("mTLS is demanded of {}, but its pods have no sidecar", self.name));
        }
        let pod = format!("{}/{}", self.name.namespace(), endpoint.name);
        let inbound = self.compiled.workloads.get(&pod).map(|config| &config.inbound);
        let rule = inbound.and_then(|inbound| inbound.port_mtls.get(&port).or(inbound.mtls.as_ref()))?;
        let said = match (tls, rule.mode) {
            (ClientTls::Disable | ClientTls::Originate(_), MtlsMode::Strict) => "accepts mTLS only",
            (ClientTls::Mutual, MtlsMode::Disable) => "accepts no mTLS",
            _ => return None,
        };
        Some(format!("{} {said} ({})", self.name, rule.origin))
    }

    /// Between clusters there is always mTLS.
    fn remote(&self, policy: &Policy<'_>, found: &mut Found) {
        if *policy.tls != ClientTls::Disable || !self.input.imported.contains_key(self.name) {
            return;
        }
        let message = format!("other clusters export {}; flows to them have mTLS all the same", self.name);
        let hint = "nothing to do: gateways carry nothing else";
        found.note(
            self.rules.origin.clone(),
            codes::PLAIN_TEXT_STAYS_LOCAL,
            Said { path: &policy.path, message, hint },
        );
    }
}

fn verification(rules: &DestinationRules, policy: &Policy<'_>, found: &mut Found) {
    if !matches!(policy.tls, ClientTls::Originate(originate) if originate.insecure_skip_verify) {
        return;
    }
    let code = if policy.port.is_some() { codes::NO_SERVER_VERIFICATION_PORT } else { codes::NO_SERVER_VERIFICATION };
    let message = "the server's certificate is not verified: anyone may answer in its place".to_owned();
    let hint = "remove insecureSkipVerify; name roots by caCertificates or credentialName if the system's do not do";
    found.note(rules.origin.clone(), code, Said { path: &policy.path, message, hint });
}

/// Rules about principals or namespaces on workloads that accept plain text only.
fn identities(compiled: &Compiled, found: &mut Found) {
    let mut seen = BTreeSet::new();
    for (pod, config) in &compiled.workloads {
        let inbound = &config.inbound;
        let disabled = inbound.mtls.as_ref().is_some_and(|rule| rule.mode == MtlsMode::Disable);
        if !disabled || inbound.port_mtls.values().any(|rule| rule.mode != MtlsMode::Disable) {
            continue;
        }
        for rules in inbound.authorization.iter().filter(|rules| asks_for_identity(rules)) {
            if !seen.insert(rules.origin.clone()) {
                continue;
            }
            let message = format!("asks for the client's identity, but {pod} accepts no mTLS");
            let hint = "set PeerAuthentication to PERMISSIVE or STRICT for the workload";
            found.note(rules.origin.clone(), codes::IDENTITY_NEEDS_MTLS, Said { path: "spec.rules", message, hint });
        }
    }
}

fn asks_for_identity(rules: &AuthorizationRules) -> bool {
    rules.rules.iter().flat_map(|rule| &rule.from).any(|source| {
        !source.principals.any.is_empty()
            || !source.namespaces.any.is_empty()
            || !source.service_accounts.any.is_empty()
            || !source.trust_domains.any.is_empty()
    })
}
