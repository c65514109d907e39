//! One HTTP rule.

mod answers;
mod resilience;

use super::{headers, matches};
use crate::error::FieldErrors;
use crate::istio::virtual_service::{HttpRewrite, HttpRoute, HttpRouteDestination};
use crate::validate::traffic;

/// Where a rule stands.
pub(super) struct Rule {
    pub(super) path: String,
    /// In a VirtualService without hosts.
    pub(super) delegate: bool,
    /// Sidecars use it.
    pub(super) for_mesh: bool,
}

impl Rule {
    pub(super) fn check(&self, route: &HttpRoute, errors: &mut FieldErrors) {
        let path = &self.path;
        self.check_actions(route, errors);
        for (index, found) in route.matches.iter().enumerate() {
            matches::check(&format!("{path}.match[{index}]"), found, self.for_mesh && !self.delegate, errors);
        }
        headers::check(path, &route.headers, errors);
        headers::check_authority(path, &route.rewrite, &route.headers, errors);
        answers::check_cors(&format!("{path}.corsPolicy"), &route.cors_policy, errors);
        answers::check_redirect(&format!("{path}.redirect"), &route.redirect, errors);
        answers::check_direct(&format!("{path}.directResponse"), &route.direct_response, errors);
        resilience::check_fault(&format!("{path}.fault"), &route.fault, errors);
        resilience::check_mirrors(path, route, errors);
        resilience::check_retries(&format!("{path}.retries"), &route.retries, errors);
        if let Some(rewrite) = &route.rewrite {
            check_rewrite(&format!("{path}.rewrite"), rewrite, errors);
        }
        check_destinations(path, &route.route, errors);
        // A timeout of nothing is how one says that there is none.
        if !matches!(route.timeout.as_deref(), Some("0s" | "0")) {
            traffic::duration(format!("{path}.timeout"), &route.timeout, errors);
        }
    }

    /// A rule does one thing.
    fn check_actions(&self, route: &HttpRoute, errors: &mut FieldErrors) {
        let path = &self.path;
        if let Some(delegate) = &route.delegate {
            if self.delegate {
                let hint = "delegates cannot delegate; write the rules here";
                errors.add(format!("{path}.delegate"), "must be absent from a delegate", hint);
            }
            if delegate.name.is_empty() {
                errors.add(
                    format!("{path}.delegate.name"),
                    "is required",
                    "write the name of the VirtualService with the rules",
                );
            }
            let conflicts = [("route", !route.route.is_empty()), ("redirect", route.redirect.is_some())];
            for (field, _) in conflicts.into_iter().filter(|(_, given)| *given) {
                errors.add(
                    format!("{path}.{field}"),
                    "must be absent from a rule that delegates",
                    "move it into the delegate",
                );
            }
            return;
        }
        let action = match (&route.redirect, &route.direct_response) {
            (Some(_), _) => "redirect",
            (None, Some(_)) => "directResponse",
            (None, None) => {
                if route.route.is_empty() {
                    let hint = "add route: [{destination: {host: …}}]";
                    errors.add(path, "route, redirect or directResponse is required", hint);
                }
                return;
            }
        };
        let conflicts = [
            ("route", !route.route.is_empty()),
            ("fault", route.fault.is_some()),
            ("rewrite", route.rewrite.is_some()),
            ("directResponse", route.direct_response.is_some() && action == "redirect"),
        ];
        for (field, _) in conflicts.into_iter().filter(|(_, given)| *given) {
            errors.add(
                format!("{path}.{field}"),
                format!("must be absent beside {action}"),
                format!("keep one of {field} and {action}, or write two rules"),
            );
        }
    }
}

fn check_destinations(path: &str, routes: &[HttpRouteDestination], errors: &mut FieldErrors) {
    for (index, route) in routes.iter().enumerate() {
        let path = format!("{path}.route[{index}]");
        match &route.destination {
            Some(destination) => traffic::destination(&format!("{path}.destination"), destination, errors),
            None => errors.add(format!("{path}.destination"), "is required", "add destination: {host: …}"),
        }
        headers::check(&path, &route.headers, errors);
    }
    check_weights(path, routes.iter().map(|route| route.weight), errors);
}

/// Weights are not negative, and several of them not all zero.
pub(in crate::validate) fn check_weights(
    path: &str,
    weights: impl ExactSizeIterator<Item = i64>,
    errors: &mut FieldErrors,
) {
    let (several, mut total) = (weights.len() > 1, 0_i64);
    for (index, weight) in weights.enumerate() {
        traffic::count(format!("{path}.route[{index}].weight"), weight, errors);
        total = total.saturating_add(weight.max(0));
    }
    if several && total == 0 {
        let hint = "give each destination a weight; their sum need not be 100";
        errors.add(format!("{path}.route"), "the sum of the weights is 0", hint);
    } else if total > i64::from(u32::MAX) {
        errors.add(
            format!("{path}.route"),
            format!("the sum of the weights is more than {}", u32::MAX),
            "divide all weights by the same number",
        );
    }
}

fn check_rewrite(path: &str, rewrite: &HttpRewrite, errors: &mut FieldErrors) {
    if !rewrite.uri.is_empty() && rewrite.uri_regex_rewrite.is_some() {
        errors.add(path, "only one of uri and uriRegexRewrite may be given", "keep one of them");
    }
    if rewrite.uri.is_empty() && rewrite.authority.is_empty() && rewrite.uri_regex_rewrite.is_none() {
        errors.add(path, "uri, uriRegexRewrite or authority is required", "add one of them, or remove rewrite");
    }
    let Some(regex) = &rewrite.uri_regex_rewrite else { return };
    if regex.rewrite.is_empty() {
        errors.add(
            format!("{path}.uriRegexRewrite.rewrite"),
            "is required",
            "write the new path; \\1 is the first group of match",
        );
    }
    traffic::regex(format!("{path}.uriRegexRewrite.match"), &regex.pattern, errors);
}
