//! Tables of decisions: a configuration in a small language, requests, and what comes out; see [`language`].

mod affinity;
mod between_clusters;
mod captured;
mod clusters;
mod destinations;
mod edits;
mod entries;
mod gateways;
mod http_rules;
pub(super) mod language;
mod localities;
mod opaque;
mod pods;
mod properties;
pub(super) mod question;
mod traffic;

use question::check;

/// A name, a request, and the decision.
type Case<'a> = (&'a str, &'a str, &'a str);

/// Decides on each request with one configuration.
#[track_caller]
fn table(config: &str, cases: &[Case<'_>]) {
    let view = language::view(config);
    for (name, request, expected) in cases {
        assert_eq!(check(&view, request), *expected, "{name}: {request}\n{config}");
    }
}
