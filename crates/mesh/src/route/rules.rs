//! Which HTTP rule counts, and what it does.

use std::sync::Arc;

use super::context::Context;
use super::decision::{RouteDecision, RouteOutcome};
use super::draw::{self, Lot};
use super::lookup::Place;
use super::matching::{is_for_client, is_met};
use super::{destination, opaque, redirect, scope};
use crate::policy::{FaultInjection, HostRoutes, HttpAction, HttpRule, MESH_GATEWAY, WeightedDestination};
use crate::reason::Reason;
use crate::request::HttpRequest;

/// A rule that counts, and which of its matches was met.
pub(super) struct Selected<'a> {
    pub(super) rule: &'a Arc<HttpRule>,
    pub(super) matched: Option<usize>,
}

/// Decides for a client's own requests: by the first object with routes for the service, else by the service alone.
pub(super) fn decide(context: &Context<'_>, place: &Place<'_>, decision: &mut RouteDecision) {
    let config = &place.service.config;
    let of_clusterset = config.clusterset_routes.as_ref().filter(|_| place.clusterset);
    let routes = of_clusterset.unwrap_or(&config.routes).iter().map(Arc::as_ref).filter(|routes| {
        routes.gateways.contains(MESH_GATEWAY)
            && context.sees(&routes.visible_to)
            && scope::imports(context, routes, place)
    });
    let decided = match context.request.http {
        Some(http) => by_http_rules(context, place, http, routes, decision),
        None => opaque::by_rules(context, place, routes, decision),
    };
    if !decided {
        destination::by_default(context, place, decision);
    }
}

/// The first object alone counts, unless all of its rules are for other clients or ports.
fn by_http_rules<'a>(
    context: &Context<'_>,
    place: &Place<'_>,
    http: &HttpRequest<'_>,
    routes: impl Iterator<Item = &'a HostRoutes>,
    decision: &mut RouteDecision,
) -> bool {
    for routes in routes {
        if let Some(selected) = select(context, MESH_GATEWAY, http, &routes.http) {
            apply(context, &selected, Some(place), decision);
            return true;
        }
        if routes.http.iter().any(|rule| concerns(context, rule)) {
            decision.no_route(Some(&routes.origin));
            return true;
        }
    }
    false
}

fn concerns(context: &Context<'_>, rule: &HttpRule) -> bool {
    rule.matches.is_empty() || rule.matches.iter().any(|matched| is_for_client(context, MESH_GATEWAY, matched))
}

/// The first rule that the request meets.
pub(super) fn select<'a>(
    context: &Context<'_>,
    gateway: &str,
    http: &HttpRequest<'_>,
    rules: &'a [Arc<HttpRule>],
) -> Option<Selected<'a>> {
    rules.iter().find_map(|rule| {
        if rule.matches.is_empty() {
            return Some(Selected { rule, matched: None });
        }
        let met = |condition| is_for_client(context, gateway, condition) && is_met(context, condition, http);
        rule.matches.iter().position(met).map(|index| Selected { rule, matched: Some(index) })
    })
}

/// Does what the rule says. `asked` is the service that the client asked for, which a gateway does not know.
pub(super) fn apply(
    context: &Context<'_>,
    selected: &Selected<'_>,
    asked: Option<&Place<'_>>,
    decision: &mut RouteDecision,
) {
    let rule = selected.rule;
    decision.reasons.push(Reason::Rule { origin: rule.origin.clone() });
    decision.rule = Some(Arc::clone(rule));
    decision.matched = selected.matched;
    decision.timeout = rule.timeout;
    if let Some(retry) = &rule.retry {
        decision.retry = retry.clone();
    }
    if let Some(fault) = &rule.fault {
        put_in(fault, context.request.entropy, decision);
    }
    match &rule.action {
        HttpAction::Route(destinations) => {
            decision.destination = to_one_of(context, destinations, asked, decision);
            draw_mirrors(context, rule, decision);
        }
        HttpAction::Redirect(to) => {
            decision.outcome = match context.request.http {
                Some(http) => RouteOutcome::Redirect {
                    status: to.status,
                    location: redirect::location(to, selected, http, context.dialled()),
                },
                None => RouteOutcome::Refuse,
            };
        }
        HttpAction::Direct(_) => decision.outcome = RouteOutcome::Direct,
    }
}

/// Draws one of the destinations and decides where it is; its index.
pub(super) fn to_one_of(
    context: &Context<'_>,
    destinations: &[WeightedDestination],
    asked: Option<&Place<'_>>,
    decision: &mut RouteDecision,
) -> Option<usize> {
    let drawn = draw::destination(destinations, context.request.entropy);
    let Some((index, chosen, of)) = drawn.and_then(|(index, of)| Some((index, destinations.get(index)?, of))) else {
        decision.refuse(Reason::NoRoute);
        return None;
    };
    if destinations.len() > 1 {
        let destination = destination::written(&chosen.destination);
        let of = u32::try_from(of).unwrap_or(u32::MAX);
        decision.reasons.push(Reason::Weighted { destination, weight: chosen.weight, of });
    }
    destination::decide(context, &chosen.destination, asked, decision);
    Some(index)
}

fn put_in(fault: &FaultInjection, entropy: u64, decision: &mut RouteDecision) {
    if let Some(delay) = fault.delay.filter(|delay| draw::hits(delay.share, entropy, Lot::Delay)) {
        decision.fault.delay = Some(delay.delay);
        decision.reasons.push(Reason::Fault { fault: "delay" });
    }
    if let Some(abort) = fault.abort.filter(|abort| draw::hits(abort.share, entropy, Lot::Abort)) {
        decision.fault.abort = Some(abort.with);
        decision.reasons.push(Reason::Fault { fault: "abort" });
    }
}

/// A request that is aborted goes nowhere, so nothing of it is copied.
fn draw_mirrors(context: &Context<'_>, rule: &HttpRule, decision: &mut RouteDecision) {
    if decision.fault.abort.is_some() {
        return;
    }
    for (index, mirror) in rule.mirrors.iter().enumerate() {
        if draw::hits(mirror.share, context.request.entropy, Lot::Mirror(index)) {
            decision.want(context.view, mirror.destination.host.service());
            decision.mirrors.push(mirror.destination.clone());
        }
    }
}
