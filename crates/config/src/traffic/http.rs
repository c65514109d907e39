//! One HTTP rule of a VirtualService.

mod answers;
mod faults;

use federation_crds::istio::virtual_service as crd;
use mesh::{
    Destination, HeaderEdits, HeaderOperations, Host, HttpAction, HttpRule, Namespace, Origin, Pattern, RegexRewrite,
    Rewrite, WeightedDestination,
};

use super::http_match::http_match;
use super::objects::Notes;
use super::pool::duration;
use super::registry::Registry;
use super::retries::retries;
use crate::analyze::codes;

/// What a rule is read with.
pub(super) struct Scope<'a, 'b> {
    pub(super) registry: &'a Registry,
    /// Of the object that the rule stands in.
    pub(super) namespace: &'a Namespace,
    pub(super) notes: &'a mut Notes<'b>,
}

/// A rule; `None` when nothing would be left of what it says to do, or of the conditions under which.
pub(super) fn rule(route: &crd::HttpRoute, origin: Origin, scope: &mut Scope<'_, '_>) -> Option<HttpRule> {
    let path = origin.path.clone();
    let mut matches = Vec::new();
    for (index, found) in route.matches.iter().enumerate() {
        let path = format!("{path}.match[{index}]");
        if !found.stat_prefix.is_empty() {
            let hint = "metrics are labelled by service and route; remove the field";
            scope.notes.add(codes::WITHOUT_EFFECT, format!("{path}.statPrefix"), "has no effect here", hint);
        }
        matches.extend(http_match(found, &path, scope.notes));
    }
    if matches.is_empty() && !route.matches.is_empty() {
        return None;
    }
    Some(HttpRule {
        matches,
        action: action(route, &path, scope)?,
        rewrite: route.rewrite.as_ref().and_then(|found| rewrite(found, &path, scope)),
        timeout: duration(&route.timeout, &format!("{path}.timeout"), scope.notes).filter(|timeout| !timeout.is_zero()),
        retry: route.retries.as_ref().map(|found| retries(found, &format!("{path}.retries"), scope.notes)),
        fault: route.fault.as_ref().map(|found| faults::fault(found, &format!("{path}.fault"), scope.notes)),
        mirrors: faults::mirrors(route, &path, scope),
        cors: route.cors_policy.as_ref().map(|found| answers::cors(found, &format!("{path}.corsPolicy"), scope.notes)),
        headers: headers(&route.headers, &path, scope.notes),
        origin,
    })
}

fn action(route: &crd::HttpRoute, path: &str, scope: &mut Scope<'_, '_>) -> Option<HttpAction> {
    if let Some(found) = &route.redirect {
        return Some(HttpAction::Redirect(answers::redirect(found)));
    }
    if let Some(found) = &route.direct_response {
        return Some(HttpAction::Direct(answers::direct(found, path, scope.notes)));
    }
    let mut destinations = Vec::new();
    for (index, found) in route.route.iter().enumerate() {
        let path = format!("{path}.route[{index}]");
        let Some(destination) = found.destination.as_ref().and_then(|it| destination(it, &path, scope)) else {
            continue;
        };
        let weight = u32::try_from(found.weight).unwrap_or(0);
        destinations.push(WeightedDestination {
            destination,
            weight,
            headers: headers(&found.headers, &path, scope.notes),
        });
    }
    if destinations.is_empty() {
        scope.notes.not_compiled(format!("{path}.route"), "has no destination");
        return None;
    }
    Some(HttpAction::Route(without_zero(destinations)))
}

/// A weight of zero among others takes no requests, so the destination is left out, as Istio does.
pub(super) fn without_zero(destinations: Vec<WeightedDestination>) -> Vec<WeightedDestination> {
    if destinations.iter().all(|destination| destination.weight == 0) {
        return destinations;
    }
    destinations.into_iter().filter(|destination| destination.weight > 0).collect()
}

/// A destination. One that does not exist stays: its requests fail, as they do in Istio, and analysis says so.
pub(super) fn destination(found: &crd::Destination, path: &str, scope: &mut Scope<'_, '_>) -> Option<Destination> {
    let host = scope.registry.host(&found.host, scope.namespace);
    if matches!(&host, Host::External(name) if name.is_empty() || name == "*") {
        scope.notes.not_compiled(format!("{path}.destination.host"), format!("{:?} is no destination", found.host));
        return None;
    }
    let subset = Some(found.subset.clone()).filter(|subset| !subset.is_empty());
    let port = found.port.as_ref().and_then(|port| u16::try_from(port.number).ok()).filter(|port| *port > 0);
    Some(Destination { host, subset, port })
}

fn headers(found: &Option<crd::Headers>, path: &str, notes: &mut Notes<'_>) -> HeaderOperations {
    let Some(found) = found else { return HeaderOperations::default() };
    for (side, operations) in [("request", &found.request), ("response", &found.response)] {
        let Some(operations) = operations else { continue };
        for (word, map) in [("set", &operations.set), ("add", &operations.add)] {
            for (name, value) in map {
                let unknown = mesh::unsupported(value);
                if !unknown.is_empty() {
                    let path = format!("{path}.headers.{side}.{word}[{name:?}]");
                    let message = format!("{} is sent as it is written", unknown.join(", "));
                    let hint = "see docs/config/virtual-service.md for the operators that are known; else write the value itself";
                    notes.add(codes::WITHOUT_EFFECT, path, message, hint);
                }
            }
        }
    }
    HeaderOperations { request: edits(&found.request), response: edits(&found.response) }
}

fn edits(found: &Option<crd::HeaderOperations>) -> HeaderEdits {
    let Some(found) = found else { return HeaderEdits::default() };
    let lower = |(name, value): (&String, &String)| (name.to_ascii_lowercase(), value.clone());
    HeaderEdits {
        set: found.set.iter().map(lower).collect(),
        add: found.add.iter().map(lower).collect(),
        remove: found.remove.iter().map(|name| name.to_ascii_lowercase()).collect(),
    }
}

fn rewrite(found: &crd::HttpRewrite, path: &str, scope: &mut Scope<'_, '_>) -> Option<Rewrite> {
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let mut regex = None;
    if let Some(found) = &found.uri_regex_rewrite {
        match Pattern::new(found.pattern.clone()) {
            Ok(pattern) => regex = Some(RegexRewrite { pattern, substitution: found.rewrite.clone() }),
            Err(error) => scope.notes.not_compiled(format!("{path}.rewrite.uriRegexRewrite.match"), error),
        }
    }
    let rewrite = Rewrite { uri: text(&found.uri), authority: text(&found.authority), regex };
    (rewrite != Rewrite::default()).then_some(rewrite)
}
