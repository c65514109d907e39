//! Answers that a proxy makes itself: redirects, direct responses, cross-origin rules.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use federation_crds::istio::virtual_service as crd;
use mesh::{CorsPolicy, DirectResponse, Redirect, RedirectPort, StringMatch};

use crate::analyze::codes;
use crate::traffic::http_match::text_match;
use crate::traffic::objects::Notes;
use crate::traffic::pool::duration;

/// Where a redirect leads; 301 unless it says otherwise.
pub(super) fn redirect(found: &crd::HttpRedirect) -> Redirect {
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let port = match (found.port.and_then(|port| u16::try_from(port).ok()), found.derive_port) {
        (Some(port), _) if port > 0 => RedirectPort::Number(port),
        (_, Some(crd::DerivePort::FromProtocolDefault)) => RedirectPort::ProtocolDefault,
        (_, Some(crd::DerivePort::FromRequestPort)) => RedirectPort::FromRequest,
        _ => RedirectPort::AsRequested,
    };
    let status = u16::try_from(found.redirect_code).ok().filter(|status| *status > 0);
    Redirect {
        uri: text(&found.uri),
        prefix_rewrite: text(&found.prefix_rewrite),
        authority: text(&found.authority),
        scheme: text(&found.scheme),
        port,
        status: status.unwrap_or(301),
    }
}

/// An answer with its body.
pub(super) fn direct(found: &crd::HttpDirectResponse, path: &str, notes: &mut Notes<'_>) -> DirectResponse {
    let body = found.body.as_ref();
    let text = body.and_then(|body| body.string.clone()).map(String::into_bytes);
    let bytes = body.and_then(|body| body.bytes.as_ref()).and_then(|bytes| match STANDARD.decode(bytes) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            notes.not_compiled(format!("{path}.directResponse.body.bytes"), error);
            None
        }
    });
    DirectResponse { status: u16::try_from(found.status).unwrap_or(500), body: text.or(bytes).unwrap_or_default() }
}

/// Cross-origin rules.
pub(super) fn cors(found: &crd::CorsPolicy, path: &str, notes: &mut Notes<'_>) -> CorsPolicy {
    let mut allow_origins = Vec::new();
    if !found.allow_origin.is_empty() {
        let hint = "use allowOrigins: [{exact: …}] instead";
        notes.add(codes::DEPRECATED, format!("{path}.allowOrigin"), "is deprecated", hint);
        if found.allow_origins.is_empty() {
            allow_origins.extend(found.allow_origin.iter().map(|origin| origin_match(origin)));
        }
    }
    for (index, origin) in found.allow_origins.iter().enumerate() {
        match (&origin.exact, text_match(origin)) {
            (Some(exact), _) => allow_origins.push(origin_match(exact)),
            (None, Ok(origin)) => allow_origins.push(origin),
            (None, Err(why)) => notes.not_compiled(format!("{path}.allowOrigins[{index}]"), why),
        }
    }
    CorsPolicy {
        allow_origins,
        allow_methods: found.allow_methods.clone(),
        allow_headers: found.allow_headers.clone(),
        expose_headers: found.expose_headers.clone(),
        max_age: duration(&found.max_age, &format!("{path}.maxAge"), notes),
        allow_credentials: found.allow_credentials,
        answer_unmatched_preflights: found.unmatched_preflights == crd::UnmatchedPreflights::Ignore,
    }
}

/// `*` means every origin, as in Envoy.
fn origin_match(origin: &str) -> StringMatch {
    if origin == "*" { StringMatch::Prefix(String::new()) } else { StringMatch::Exact(origin.to_owned()) }
}
